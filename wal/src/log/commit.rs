//! Committing entries, and removing segments that hold no others.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Segment, Wal, names::POSITION, position::Position};
use crate::{
    error::Error,
    event::{Event, QuarantineReason},
    fs::FileSystem,
};

impl<F: FileSystem> Wal<F> {
    /// Commits all entries before a number: they are not read again, and segments that hold no others
    /// are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the position could not be written: the entries are committed, but the next process
    /// may read them again.
    pub fn commit(&mut self, number: u64) -> Result<(), Error> {
        self.committed = number.min(self.next).max(self.committed);
        self.read_end = self.committed;
        if self.check_owner().is_err() {
            return Ok(());
        }
        let saved = self.write_position();
        self.trim();
        saved
    }

    /// Syncs the committed position. Without this, a loss of power may cause committed entries to be read
    /// again, if their segment was not removed. An error is [reported](Event::Failed).
    pub fn sync_position(&mut self) {
        if self.lock.is_none() {
            return;
        }
        let mut synced = self.fs.sync(&mut self.position);
        if synced.is_ok() && !self.is_dir_synced {
            synced = self.fs.sync_dir(&self.dir);
            self.is_dir_synced = synced.is_ok();
        }
        if let Err(error) = synced {
            let path = self.dir.join(POSITION);
            self.report("sync", &path, error);
        }
    }

    /// Returns whether all entries are committed, and the next process will know.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let is_known =
            self.is_position_saved || (self.segments.is_empty() && self.stale.is_empty());
        self.committed == self.next && is_known
    }

    /// Returns whether the position could be written when it was last attempted.
    #[must_use]
    pub fn is_position_saved(&self) -> bool {
        self.is_position_saved
    }

    /// Returns whether a segment of committed entries could not be removed yet.
    #[must_use]
    pub fn has_stale_segments(&self) -> bool {
        !self.stale.is_empty()
    }

    pub(super) fn save_position_or_report(&mut self) {
        if let Err(error) = self.write_position() {
            self.events.push(Event::PositionNotSaved(error));
        }
    }

    pub(super) fn write_position(&mut self) -> Result<(), Error> {
        self.is_position_saved = false;
        let kept = self.segments.iter().chain(&self.stale).map(|segment| segment.first).min();
        let removed = kept.unwrap_or(self.committed).min(self.committed);
        let position = Position { committed: self.committed, removed };
        self.fs.write_at(&mut self.position, 0, &position.bytes()).map_err(|error| {
            let path = self.dir.join(POSITION);
            self.failed("write", &path, error)
        })?;
        self.is_position_saved = true;
        Ok(())
    }

    /// Removes the committed segments at the front.
    pub(super) fn trim(&mut self) {
        let mut committed = std::mem::take(&mut self.stale);
        let before = committed.len() + self.segments.len();
        while self.segments.front().is_some_and(|first| first.end <= self.committed) {
            committed.extend(self.segments.pop_front());
            self.reader = None;
            self.read_failures = 0;
        }
        if self.segments.is_empty() {
            self.forget_unsynced();
        }
        for segment in committed {
            if let Err(error) = self.remove(&segment) {
                self.events.push(Event::Failed(error));
                self.stale.push(segment);
            }
        }
        if self.stale.len() + self.segments.len() < before && self.is_position_saved {
            // From now on they are known to have been removed.
            self.save_position_or_report();
        }
    }

    /// Ends the active segment, which is removed.
    pub(super) fn forget_unsynced(&mut self) {
        (self.active, self.unsynced_from) = (None, None);
        (self.has_unsynced, self.has_sync_failed) = (false, false);
    }

    /// Removes or quarantines a segment's file, if it is there.
    pub(super) fn remove(&mut self, segment: &Segment) -> Result<(), Error> {
        if segment.is_missing {
            return Ok(());
        }
        if let Some(reason) = segment.quarantine {
            self.quarantine(&segment.path, reason);
        } else if let Err(error) = self.fs.remove(&segment.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(self.failed("remove", &segment.path, error));
        }
        self.usage.subtract(segment.bytes);
        Ok(())
    }

    /// Reports the entries of segments whose files are missing as lost.
    pub(super) fn mark_missing(&mut self) {
        for index in 0..self.segments.len() {
            let segment = &mut self.segments[index];
            let is_missing = !segment.is_missing
                && self
                    .fs
                    .len(&segment.path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if !is_missing {
                continue;
            }
            segment.is_missing = true;
            self.usage.subtract(segment.bytes);
            let (first, end) = (segment.first, segment.end);
            self.report_lost(first, end);
            if index == 0 {
                self.reader = None;
            }
            if index + 1 == self.segments.len() {
                self.lose_active();
            }
        }
    }

    /// Renames a file so that it is not a segment any more.
    pub(super) fn quarantine(&mut self, path: &Path, reason: QuarantineReason) {
        let mut name = path.as_os_str().to_owned();
        name.push(reason.suffix());
        let mut free = PathBuf::from(&name);
        let mut number = 0;
        // An earlier file is not overwritten.
        while self.fs.len(&free).is_ok() {
            number += 1;
            let mut numbered = name.clone();
            numbered.push(format!(".{number}"));
            free = numbered.into();
        }
        self.counters.quarantined += 1;
        match self.fs.rename(path, &free) {
            Ok(()) => self.events.push(Event::Quarantined { path: free, reason }),
            Err(error) => self.report("rename", path, error),
        }
    }
}
