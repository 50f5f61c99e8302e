//! The spool: samples on disk while the server is away.
//!
//! `segment` is the format, and does no IO. `folder` opens a folder, `recovery` finds out what lies in
//! it, `log` appends and settles, `replay` reads, `trim` makes room, and `owner` notices when the folder
//! is not ours any more, through what `disk` offers of a file system. All of it blocks, reads no clock,
//! and logs nothing: what a person must know it keeps as `notices`.
//!
//! `locked` is the lock around the folder, and logs the notices behind it. `keeper` is the folder of a
//! running reporter, which lives on `disk_thread`, `takeover` the reporter's task where there is one;
//! `fence` says what may not overtake what lies in the folder, and `pace` how fast that is sent.

mod config;
mod disk;
mod disk_thread;
mod error;
mod fence;
mod folder;
mod keeper;
mod locked;
mod log;
mod notices;
mod owner;
mod pace;
mod reader;
mod recovery;
mod replay;
mod segment;
mod stats;
mod takeover;
#[cfg(test)]
mod tests;
mod trim;
mod usage;

pub use config::Spool;
pub use error::SpoolError;
pub(super) use fence::Fence;
pub(super) use keeper::{Keeper, OpenSpool, Rescue};
pub use stats::{IoErrors, SpoolStats};
