//! The errors of a log.

use std::{io, path::PathBuf};

/// Why a log could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another log of this one, has the directory open.
    #[error("directory {dir:?} is in use{}", by_process(*pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The id of the process that has it open, if its lock file could be read.
        pid: Option<u32>,
    },
    /// The directory was moved, or its lock file removed or replaced, while it was open. Another
    /// process may have it open now, so this log does not touch it any more.
    #[error("directory {dir:?} was moved or its lock file was replaced")]
    NotOwned {
        /// The directory, where it was.
        dir: PathBuf,
    },
    /// A segment was written by a newer version of this crate.
    #[error("{path:?} has format version {version}, which this version cannot read")]
    NewerVersion {
        /// The segment.
        path: PathBuf,
        /// The version of its format.
        version: u8,
    },
    /// A record is longer than [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES).
    #[error("record payload of {len} bytes is longer than {max} bytes")]
    TooLarge {
        /// The length of the payload.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// An operation of the file system failed.
    #[error("cannot {action} {path:?}")]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
