//! The spool: samples on disk while the server is away.
//!
//! `segment` is the format, and does no IO. `folder` opens a folder and finds out what lies in it, `log`
//! appends and settles, `replay` reads, through what `disk` offers of a file system. All of it blocks, reads no
//! clock, and logs what a person must know.

mod disk;
mod error;
mod folder;
mod log;
mod reader;
mod replay;
mod segment;
mod stats;
#[cfg(test)]
mod tests;

pub use error::SpoolError;
pub use stats::{IoErrors, SpoolStats};
