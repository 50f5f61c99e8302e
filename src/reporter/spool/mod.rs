//! The spool: samples on disk while the server is slow or unreachable.
//!
//! `samples` encodes them as records of a [`metrics_wal::Wal`], and `sample_log` appends, reads and settles
//! them. Both block, read no clock, and log nothing: what is to be logged is kept as `notices`.
//!
//! `locked` is the lock around the log, and writes the notices when it is released. `handle` is the log of a
//! running reporter, which is used on `disk_thread`. `worker` is the reporter's worker with a spool:
//! `disk_retry` leaves a failing disk alone for a while, `suspect` finds a sample at which the server closes the
//! connection, `watermarks` holds back samples that may not overtake stored ones, and `pacer` limits how fast those
//! are sent.

mod builder;
mod disk_retry;
mod disk_thread;
mod error;
mod handle;
mod locked;
mod notices;
mod pacer;
mod sample_log;
mod samples;
mod stats;
mod suspect;
#[cfg(test)]
mod tests;
mod watermarks;
mod worker;

pub use builder::Spool;
pub use error::SpoolError;
pub(super) use handle::{OpenSpool, SpoolHandle};
pub use metrics_wal::{Fsync, IoErrors};
pub use stats::SpoolStats;
pub(super) use watermarks::Watermarks;
