//! The spool: samples on disk while the server is away.
//!
//! `segment` is the format, and does no IO. `folder` opens a folder, `recovery` finds out what lies in
//! it, `log` appends and settles, `replay` reads, `trim` makes room, and `owner` notices when the folder
//! is not ours any more, through what `fs` offers of a file system. All of it blocks, reads no clock,
//! and logs nothing: what a person must know it keeps as `notices`.
//!
//! `locked` is the lock around the folder, and logs the notices behind it. `handle` is the folder of a
//! running reporter, which lives on `disk_thread`, `worker` the reporter's task where there is one;
//! `watermarks` says what may not overtake what lies in the folder, and `pacer` how fast that is sent.

mod builder;
mod disk_thread;
mod error;
mod fs;
mod handle;
mod locked;
mod log;
mod notices;
mod owner;
mod pacer;
mod position;
mod reader;
mod recovery;
mod replay;
mod segment;
mod segment_log;
mod stats;
#[cfg(test)]
mod tests;
mod trim;
mod usage;
mod watermarks;
mod worker;

pub use builder::Spool;
pub use error::SpoolError;
pub(super) use handle::{OpenSpool, SpillGuard, SpoolHandle};
pub use stats::{IoErrors, SpoolStats};
pub(super) use watermarks::Watermarks;
