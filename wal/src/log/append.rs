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
    /// record is cut off or overwritten.
    pub fn append(&mut self, count: u32, latest: i64, payload: &[u8]) -> Result<Range<u64>, Error> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::TooLarge { len: payload.len(), max: MAX_PAYLOAD_BYTES });
        }
        self.check_owner()?;
        let count = count.max(1);
        let Some(end) = self.next.checked_add(u64::from(count)) else {
            return Err(Error::io("append to", &self.dir, io::Error::other("out of numbers")));
        };
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
            let path = segment.path.clone();
            return Err(self.failed("write", &path, error));
        }
        Ok(())
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

    /// Ends the active segment, without a sync.
    fn retire_active(&mut self) {
        self.has_unsynced = false;
        let is_torn = std::mem::take(&mut self.has_torn_end);
        if let (Some(mut file), Some(segment), true) =
            (self.active.take(), self.segments.back(), is_torn)
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
        // A failed write makes it longer.
        if self.fs.len(&segment.path).is_ok_and(|len| len >= segment.bytes) {
            return;
        }
        self.events.push(Event::SegmentMissing { segment: segment.path.clone() });
        self.active = None;
        self.mark_missing();
    }

    fn start_segment(&mut self) -> Result<(), Error> {
        self.has_torn_end = false;
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
    /// [`Error::Io`]. The segment is ended: a second sync of the same file would prove nothing, since the
    /// system may believe that its content is clean. The records stay in the log, and no later sync
    /// makes them durable; [`discard_unsynced`](Self::discard_unsynced) removes them, so that they can be
    /// appended again to a new segment.
    pub fn sync(&mut self) -> Result<(), Error> {
        if !self.has_unsynced {
            return Ok(());
        }
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back()) else {
            return Ok(());
        };
        let mut synced = self.fs.sync(file);
        if synced.is_ok() && !self.is_dir_synced {
            synced = self.fs.sync_dir(&self.dir);
        }
        if let Err(error) = synced {
            let path = segment.path.clone();
            self.retire_active();
            return Err(self.failed("sync", &path, error));
        }
        self.synced = SyncPoint { end: segment.end, bytes: segment.bytes };
        (self.has_unsynced, self.is_dir_synced) = (false, true);
        Ok(())
    }

    /// Returns whether all appended records are synced, or cannot be synced any more because a sync has
    /// failed.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        !self.has_unsynced
    }

    /// Removes the records behind the last successful sync, and ends their segment. Their numbers are used
    /// again.
    ///
    /// After a failed [`sync`](Self::sync), this lets a caller that still has the records append them again
    /// to a new segment, so that no record is in the log twice.
    pub fn discard_unsynced(&mut self) {
        let Some(segment) = self.segments.back_mut().filter(|last| !last.is_missing) else {
            return;
        };
        let SyncPoint { end, bytes } = self.synced;
        if end < segment.first || end >= segment.end {
            return;
        }
        self.usage.subtract(segment.bytes);
        (segment.end, segment.bytes) = (end, bytes);
        self.usage.add(bytes);
        let (path, is_empty) = (segment.path.clone(), segment.first == end);
        self.next = end;
        self.committed = self.committed.min(end);
        self.read_end = self.read_end.min(end);
        self.reader = None;
        (self.active, self.has_unsynced, self.has_torn_end) = (None, false, false);
        // If this fails, recovery prefers the records of the next segment, which have the same numbers.
        let cut = if is_empty {
            self.segments.pop_back();
            self.usage.subtract(bytes);
            self.fs.remove(&path)
        } else {
            self.fs.open(&path).and_then(|mut file| self.fs.truncate(&mut file, bytes))
        };
        if let Err(error) = cut {
            self.report("cut", &path, error);
        }
    }
}
