//! Appending and syncing.

use std::{io, ops::Range};

use super::{Segment, SyncPoint, Wal, names::segment_name};
use crate::{
    error::Error,
    event::{Event, QuarantineReason},
    fs::FileSystem,
    record::{MAX_PAYLOAD_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, encode_record},
};

impl<F: FileSystem> Wal<F> {
    /// Appends a record of `count` entries, and returns their numbers. A count of 0 is taken as 1.
    ///
    /// `latest` is a timestamp that the log keeps with the record, for example the latest of its entries:
    /// see [`latest`](Self::latest). The record is written by one write, and is not synced.
    ///
    /// If the log is full, its oldest segment is dropped, see [`Options::max_bytes`](crate::Options::max_bytes).
    ///
    /// # Errors
    ///
    /// Nothing was appended. [`Error::TooLarge`] and [`Error::NotOwned`] are final; after [`Error::Io`],
    /// of a full disk for example, a later call may succeed. What a failed write has left behind the last
    /// record is removed or overwritten.
    pub fn append(&mut self, count: u32, latest: i64, payload: &[u8]) -> Result<Range<u64>, Error> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::TooLarge { len: payload.len(), max: MAX_PAYLOAD_BYTES });
        }
        self.check_owner()?;
        let count = count.max(1);
        let Some(end) = self.next.checked_add(u64::from(count)) else {
            return Err(Error::io("append to", &self.dir, io::Error::other("out of numbers")));
        };
        if std::mem::take(&mut self.has_sync_failed) {
            self.unsynced_from = None;
        }
        let mut record = std::mem::take(&mut self.buffer);
        encode_record(self.next, count, latest, payload, &mut record);
        let written = self.write(&record);
        let len = record.len() as u64;
        self.buffer = record;
        written?;
        if let Some(segment) = self.segments.back_mut() {
            self.usage.subtract(segment.bytes);
            segment.bytes += len;
            segment.end = end;
            segment.latest = segment.latest.max(latest);
            self.usage.add(segment.bytes);
        }
        self.has_unsynced = true;
        self.unsynced_from.get_or_insert(self.next);
        let entries = self.next..end;
        self.next = end;
        Ok(entries)
    }

    /// Writes a record behind the others, without making it a part of the segment.
    fn write(&mut self, record: &[u8]) -> Result<(), Error> {
        let len = record.len() as u64;
        self.check_active();
        let is_full = |last: &Segment| {
            last.bytes > SEGMENT_HEADER_BYTES as u64
                && last.bytes + len > self.options.segment_bytes
        };
        if self.segments.back().is_some_and(is_full) {
            self.roll()?;
        }
        while let Some(excess) =
            self.disk_bytes_with(len).checked_sub(self.options.max_bytes).filter(|&more| more > 0)
        {
            if !self.evict_oldest(excess)? {
                break;
            }
        }
        if self.active.is_none() {
            self.start_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back()) else {
            return Ok(());
        };
        if let Err(error) = self.fs.write_at(file, segment.bytes, record) {
            // If it cannot be cut now, it is overwritten, or cut when the segment ends.
            self.has_torn_end = self.fs.truncate(file, segment.bytes).is_err();
            self.filled = 0;
            let path = segment.path.clone();
            return Err(self.failed("write", &path, error));
        }
        let end = segment.bytes + len;
        if self.options.max_fill_bytes > 0 && end >= self.filled {
            self.fill(end);
        }
        Ok(())
    }

    /// Fills the active segment with zeros behind `end`. The zeros only save time, so an error is ignored.
    fn fill(&mut self, end: u64) {
        let Some(file) = &mut self.active else { return };
        let room = self.options.segment_bytes.saturating_sub(end);
        let step = end.max(MIN_FILL_BYTES).min(self.options.max_fill_bytes).min(room);
        let mut filled = end;
        while filled < end + step {
            let zeros = ZEROS.len().min((end + step - filled) as usize);
            if self.fs.write_at(file, filled, &ZEROS[..zeros]).is_err() {
                // The record may have taken the last space.
                self.has_torn_end |= self.fs.truncate(file, end).is_err();
                filled = end;
                break;
            }
            filled += zeros as u64;
        }
        self.filled = filled;
    }

    /// Syncs and ends the current segment: the next record begins a new one.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync). The segment is ended all the same.
    pub fn roll(&mut self) -> Result<(), Error> {
        let synced = self.sync();
        self.retire_active();
        synced
    }

    /// Ends the active segment, which may be unsynced.
    pub(super) fn lose_active(&mut self) {
        self.active = None;
        self.has_sync_failed |= std::mem::take(&mut self.has_unsynced);
    }

    /// Ends the active segment, of which nothing is unsynced or can be synced.
    fn retire_active(&mut self) {
        let is_torn = std::mem::take(&mut self.has_torn_end);
        let filled = std::mem::take(&mut self.filled);
        if let (Some(mut file), Some(segment)) = (self.active.take(), self.segments.back())
            && (is_torn || filled > segment.bytes)
            && let Err(error) = self.fs.truncate(&mut file, segment.bytes)
        {
            // Its numbers are those of the next segment, which recovery prefers.
            let path = segment.path.clone();
            self.report("cut", &path, error);
        }
    }

    /// Checks that the active segment is still in its place, and not shorter than it was written.
    fn check_active(&mut self) {
        let Some(segment) = self.segments.back().filter(|_| self.active.is_some()) else { return };
        let is_missing = match self.fs.len(&segment.path) {
            // A failed write makes it longer.
            Ok(len) => len < segment.bytes,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_missing {
            self.events.push(Event::SegmentMissing { segment: segment.path.clone() });
            self.lose_active();
            self.mark_missing();
        }
    }

    fn start_segment(&mut self) -> Result<(), Error> {
        (self.has_torn_end, self.filled) = (false, 0);
        self.has_unsynced = false;
        let path = self.dir.join(segment_name(self.next));
        // A file of this name is an empty segment of ours, or was put there by another process.
        if self.segments.back().is_some_and(|last| last.first == self.next) {
            if let Some(empty) = self.segments.pop_back().filter(|empty| !empty.is_missing) {
                self.usage.subtract(empty.bytes);
            }
        } else if self.fs.len(&path).is_ok_and(|len| len > SEGMENT_HEADER_BYTES as u64) {
            self.quarantine(&path, QuarantineReason::Committed);
        }
        let mut opened = self.fs.open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.events.push(Event::DirectoryRecreated);
            self.recreate()?;
            self.mark_missing();
            opened = self.fs.open(&path);
        }
        let written = opened.and_then(|mut file| {
            self.fs.truncate(&mut file, 0)?;
            self.fs.write_at(&mut file, 0, &SegmentHeader::bytes(self.next))?;
            Ok(file)
        });
        match written {
            Ok(file) => self.active = Some(file),
            Err(error) => {
                // Without a header or a record, the next opening would remove it.
                let _ = self.fs.remove(&path);
                return Err(self.failed("create the segment", &path, error));
            }
        }
        let (first, bytes) = (self.next, SEGMENT_HEADER_BYTES as u64);
        self.usage.add(bytes);
        self.segments.push_back(Segment::empty(path, first, bytes));
        self.synced = SyncPoint { end: first, bytes };
        self.is_dir_synced = false;
        Ok(())
    }

    /// Syncs the records that were appended since the last sync, and the name of their segment.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if some of these records could not be synced, or their segment is missing. The segment is
    /// ended: a second sync of the same file would prove nothing, since the system may take its content for
    /// clean. The records stay in the log, and no later sync makes them durable: further calls fail until
    /// the next append. [`discard_unsynced`](Self::discard_unsynced) removes them, so that they can be
    /// appended again.
    pub fn sync(&mut self) -> Result<(), Error> {
        if let (Some(file), Some(segment), true) =
            (&mut self.active, self.segments.back(), self.has_unsynced)
        {
            let mut synced = self.fs.sync(file);
            if synced.is_ok() && !self.is_dir_synced {
                synced = self.fs.sync_dir(&self.dir);
            }
            if let Err(error) = synced {
                let path = segment.path.clone();
                (self.has_unsynced, self.has_sync_failed) = (false, true);
                self.retire_active();
                return Err(self.failed("sync", &path, error));
            }
            self.synced = SyncPoint { end: segment.end, bytes: segment.bytes };
            (self.has_unsynced, self.is_dir_synced) = (false, true);
        }
        if self.has_sync_failed {
            let source = io::Error::other("records that were appended before are not synced");
            return Err(Error::io("sync", &self.dir, source));
        }
        self.unsynced_from = None;
        Ok(())
    }

    /// Returns whether all records are synced.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.unsynced_from.is_none()
    }

    /// Removes the records behind the last successful sync, and ends their segment. Returns the number of
    /// the next entry: those before it are in the log, and are synced.
    ///
    /// After a failed [`append`](Self::append) or [`sync`](Self::sync), this lets a caller that still has the
    /// records append them again to a new segment, so that no record is in the log twice. An append that
    /// begins a new segment syncs the one before, so some of several records may be synced, and stay.
    pub fn discard_unsynced(&mut self) -> u64 {
        let Some(from) = self.unsynced_from.take() else { return self.next };
        self.next = from;
        self.committed = self.committed.min(from);
        self.read_end = self.read_end.min(from);
        (self.active, self.reader) = (None, None);
        (self.has_unsynced, self.has_sync_failed, self.has_torn_end) = (false, false, false);
        while self.segments.back().is_some_and(|last| last.first >= from)
            && let Some(segment) = self.segments.pop_back()
        {
            if segment.is_missing {
                continue;
            }
            self.usage.subtract(segment.bytes);
            // If this fails, it is quarantined when the next segment, which has the same name, begins.
            if let Err(error) = self.fs.remove(&segment.path) {
                self.report("remove", &segment.path, error);
            }
        }
        let SyncPoint { end, bytes } = self.synced;
        if let Some(segment) = self.segments.back_mut().filter(|last| last.end > from) {
            segment.end = from;
            if end == from && !segment.is_missing {
                self.usage.subtract(segment.bytes);
                segment.bytes = bytes;
                self.usage.add(bytes);
                let path = segment.path.clone();
                let file = self.fs.open(&path);
                // If this fails, recovery prefers the next segment, which has the same numbers.
                if let Err(error) = file.and_then(|mut file| self.fs.truncate(&mut file, bytes)) {
                    self.report("cut", &path, error);
                }
            }
        }
        self.next
    }
}

/// The least that a segment is filled by, in bytes.
const MIN_FILL_BYTES: u64 = 64 * 1024;

static ZEROS: [u8; MIN_FILL_BYTES as usize] = [0; MIN_FILL_BYTES as usize];
