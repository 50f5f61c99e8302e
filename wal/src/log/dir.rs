//! The files beside the segments: the lock and the position.

use std::path::Path;

use super::names::POSITION;
use crate::{error::Error, fs::FileSystem, lock::DirLock};

/// A directory that is locked.
pub(super) struct Directory<F: FileSystem> {
    pub(super) lock: DirLock<F>,
    pub(super) position: F::File,
}

impl<F: FileSystem> Directory<F> {
    pub(super) fn open(fs: &F, dir: &Path) -> Result<Self, Error> {
        let lock = DirLock::acquire(fs, dir)?;
        let path = dir.join(POSITION);
        let position = fs.open(&path).map_err(|error| Error::io("open", path, error))?;
        Ok(Self { lock, position })
    }
}
