//! Notices when the directory is not this log's any more.

use std::io;

use super::{Wal, dir::Directory};
use crate::{error::Error, event::Event, fs::FileSystem, usage::Usage};

impl<F: FileSystem> Wal<F> {
    /// Checks that the lock file at its path is the one that is locked.
    ///
    /// If the directory was removed, the log still owns it, and creates it again when it next writes.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], from then on always.
    pub(super) fn check_owner(&mut self) -> Result<(), Error> {
        let Some(lock) = &self.lock else { return Err(self.not_owned()) };
        let is_owned = match lock.is_current(&self.fs) {
            Ok(is_current) => is_current,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The files of a directory that was only moved still have names.
                !lock.has_name(&self.fs) && !self.fs.has_name(&self.position).unwrap_or(false)
            }
            // The next operation on the directory will fail in the same way.
            Err(_) => true,
        };
        if is_owned { Ok(()) } else { Err(self.abandon()) }
    }

    /// Leaves the directory, with all that it holds, to the process that has it now.
    fn abandon(&mut self) -> Error {
        self.events.push(Event::Abandoned);
        self.lock = None;
        self.forget_unsynced();
        self.reader = None;
        self.segments.clear();
        self.stale.clear();
        self.usage = Usage::default();
        self.committed = self.next;
        self.not_owned()
    }

    /// Returns whether the directory was found not to be this log's any more, see
    /// [`Error::NotOwned`].
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.lock.is_none()
    }

    /// Creates the directory again after it was removed.
    pub(super) fn recreate(&mut self) -> Result<(), Error> {
        let Directory { lock, position } = match Directory::open(&self.fs, &self.dir) {
            Err(Error::InUse { .. }) => return Err(self.abandon()),
            opened => opened?,
        };
        self.lock = Some(lock);
        self.position = position;
        (self.is_position_saved, self.is_dir_synced) = (false, false);
        Ok(())
    }

    fn not_owned(&self) -> Error {
        Error::NotOwned { dir: self.dir.clone() }
    }
}
