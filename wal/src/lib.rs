#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod event;
mod fs;
mod fsync;
mod lock;
mod log;
mod reader;
mod record;
mod stats;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod usage;

pub use error::Error;
pub use event::{Event, QuarantineReason};
pub use fs::{FileSystem, Identity, OsFileSystem};
pub use fsync::Fsync;
pub use lock::DirLock;
pub use log::{OpenError, Options, Wal};
pub use record::{
    MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, damaged_ranges, salvage,
};
pub use stats::{IoErrors, WalStats};
