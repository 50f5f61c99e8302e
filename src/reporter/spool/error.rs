//! The errors of a spool.

use std::{io, path::PathBuf};

/// Why a spool could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process, or another reporter of this one, has the directory open.
    #[error("spool {dir:?} is in use{}: give each reporter a directory of its own", by_process(*pid))]
    #[non_exhaustive]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The id of the process that has it open, if its lock file could be read.
        pid: Option<u32>,
    },
    /// The directory was moved, or its lock file removed or replaced, while it was open. Another process
    /// may have it open now, so the spool does not touch it any more.
    #[error("spool {dir:?} was moved or its lock file was replaced")]
    #[non_exhaustive]
    NotOwned {
        /// The directory, where it was.
        dir: PathBuf,
    },
    /// A segment was written by a newer version of this crate.
    #[error(
        "spool segment {path:?} has format version {version}, which this version cannot read: \
         drain it with a newer one"
    )]
    #[non_exhaustive]
    NewerVersion {
        /// The segment.
        path: PathBuf,
        /// The version of its format.
        version: u8,
    },
    /// An operation of the file system failed.
    #[error("cannot {action} {path:?}{}", remedy(source))]
    #[non_exhaustive]
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

impl From<metrics_wal::Error> for SpoolError {
    fn from(error: metrics_wal::Error) -> Self {
        use metrics_wal::Error;
        match error {
            Error::InUse { dir, pid } => Self::InUse { dir, pid },
            Error::NotOwned { dir } => Self::NotOwned { dir },
            Error::NewerVersion { path, version } => Self::NewerVersion { path, version },
            Error::Io { action, path, source } => Self::Io { action, path, source },
            // A record of samples is short, and so has none of the other errors.
            other => Self::Io {
                action: "append to",
                path: PathBuf::new(),
                source: io::Error::other(other),
            },
        }
    }
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free space on the disk, or lower the spool's max_bytes"
        }
        io::ErrorKind::PermissionDenied => {
            ": the process needs permission to read and write the directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": the spool needs a writable directory",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            ": the spool's path must be a directory"
        }
        io::ErrorKind::InvalidInput => ": the spool's path is invalid",
        _ => "",
    }
}
