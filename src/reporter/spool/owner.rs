//! Whether the folder is still ours.
//!
//! The lock holds for the lock file that was opened, not for its path. When the folder is moved, or
//! its lock file removed, another process can make a lock file of the same path and lock that: then
//! two would write into one folder. So the file at the path is compared with the one that is locked
//! before anything is read, written or removed by path.

use std::io;

use super::{
    error::SpoolError,
    fs::FileSystem,
    notices::Notice,
    segment_log::{LOCK, SegmentLog},
    usage::Usage,
};

impl<D: FileSystem> SegmentLog<D> {
    /// Checks that the lock file is the one that we have locked.
    ///
    /// If the folder was removed it is still ours: whatever needs it makes it again.
    ///
    /// # Errors
    ///
    /// [`SpoolError::NotOwned`], from then on always.
    pub(super) fn check_owner(&mut self) -> Result<(), SpoolError> {
        if self.is_abandoned() {
            return Err(self.not_owned());
        }
        let is_ours = match self.fs.identity(&self.path.join(LOCK)) {
            Ok(identity) => identity == self.lock_identity,
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.is_removed(),
            // What is to be done with the folder will fail in the same way.
            Err(_) => true,
        };
        if is_ours { Ok(()) } else { Err(self.abandon()) }
    }

    /// Whether all that was in the folder is gone. A folder that was only moved has its files.
    fn is_removed(&self) -> bool {
        let has_name = |file| self.fs.has_name(file).unwrap_or(false);
        !self.lock.as_ref().is_some_and(has_name) && !has_name(&self.position)
    }

    /// Leaves the folder to whichever process has it now, with all that waits there.
    pub(super) fn abandon(&mut self) -> SpoolError {
        let in_hand = self.uncommitted_read.as_ref().map_or(0, |batch| batch.count);
        let samples = self.stats().waiting.saturating_sub(in_hand);
        self.counters.abandoned += samples;
        self.notices.push(Notice::Abandoned { samples });
        self.lock = None;
        self.active = None;
        self.reader = None;
        self.unsynced_since = None;
        self.segments.clear();
        self.stale.clear();
        self.usage = Usage::default();
        self.settled = self.next;
        self.not_owned()
    }

    /// Whether the folder has turned out not to be ours any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock.is_none()
    }

    fn not_owned(&self) -> SpoolError {
        SpoolError::NotOwned { folder: self.path.clone() }
    }
}
