//! Why the spool could not do what it was asked.

use std::{io, path::PathBuf};

/// Why a spool could not be opened, or written, or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process, or another reporter of this one, has the folder open.
    #[error("the spool {folder:?} is in use: give each reporter a folder of its own")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder was moved, or its lock file removed or replaced, while it was open. Another process
    /// may have it now, so it is left alone, with what waits there.
    #[error("the spool {folder:?} was moved or its lock file replaced: it is left to others")]
    NotOwned {
        /// The folder, where it was.
        folder: PathBuf,
    },
    /// A segment was written by a version of this crate that is newer than this one.
    #[error(
        "{path:?} has format {version}, of which this version knows nothing: let a newer one drain it"
    )]
    Newer {
        /// The segment.
        path: PathBuf,
        /// The version of its format.
        version: u8,
    },
    /// The file system refused something.
    #[error("cannot {action} {path:?}{}", remedy(source))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room on the disk, or give the spool fewer bytes"
        }
        io::ErrorKind::PermissionDenied => ": let this process's user read and write the folder",
        io::ErrorKind::ReadOnlyFilesystem => ": the spool needs a folder that can be written",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            ": the spool's path must be a folder"
        }
        _ => "",
    }
}
