//! The folder of a store that is open.

use std::{io, path::PathBuf};

use metrics_wal::{DirLock, Error, FileSystem};

/// The folder, and the lock on it.
#[derive(Debug)]
pub(super) struct Folder<F: FileSystem> {
    pub(super) fs: F,
    pub(super) dir: PathBuf,
    pub(super) lock: DirLock<F>,
}

impl<F: FileSystem> Folder<F> {
    /// Checks that the folder is in its place, and is still this store's: what is put into another one would not be
    /// found again.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`] if it was moved, removed or replaced.
    pub(super) fn check(&self) -> Result<(), Error> {
        let is_ours = match self.lock.is_current(&self.fs) {
            Ok(is_current) => is_current,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        // Any other error is that of the next operation too.
        if is_ours { Ok(()) } else { Err(Error::NotOwned { dir: self.dir.clone() }) }
    }
}
