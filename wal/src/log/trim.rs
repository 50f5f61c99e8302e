//! Makes room, oldest entries first.

use std::{io, path::Path};

use super::{
    Wal,
    names::{POSITION, TEMPORARY, segment_name},
    read::MAX_READ_FAILURES,
};
use crate::{
    error::Error,
    event::Event,
    fs::FileSystem,
    reader::{RecordRef, SegmentReader},
    record::{SEGMENT_HEADER_BYTES, SegmentHeader},
    usage::on_disk,
};

impl<F: FileSystem> Wal<F> {
    /// Drops entries until the log is within its bound, which may be smaller than when it was written.
    pub(super) fn fit(&mut self) {
        while self.usage.disk_bytes > self.options.max_bytes {
            match self.evict_oldest(self.usage.disk_bytes - self.options.max_bytes) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.events.push(Event::Failed(error)),
            }
        }
    }

    /// Removes a committed segment, or drops the oldest, or drops the oldest `excess` bytes of one that
    /// was written under a far larger bound. Returns false if the log has no segment.
    pub(super) fn evict_oldest(&mut self, excess: u64) -> Result<bool, Error> {
        if let Some(segment) = self.stale.pop() {
            if let Err(error) = self.remove(&segment) {
                self.stale.push(segment);
                return Err(error);
            }
            return Ok(true);
        }
        if self.shrink_first(excess)? {
            return Ok(true);
        }
        let Some(segment) = self.segments.pop_front() else { return Ok(false) };
        if let Err(error) = self.remove(&segment) {
            self.segments.push_front(segment);
            return Err(error);
        }
        if self.segments.is_empty() {
            self.forget_unsynced();
        }
        self.reader = None;
        if !segment.is_missing {
            self.report_evicted(segment.first, segment.end, segment.bytes);
        }
        self.committed = self.committed.max(segment.end);
        self.save_position_or_report();
        Ok(true)
    }

    fn report_evicted(&mut self, first: u64, end: u64, bytes: u64) {
        let entries = first.max(self.committed).min(end)..end;
        self.events.push(Event::Evicted { entries, bytes });
    }

    /// Replaces the first segment by one without its oldest records, if it is far longer than segments are
    /// now. Returns false if it is not, or nothing of it can be kept.
    fn shrink_first(&mut self, excess: u64) -> Result<bool, Error> {
        let usual = self.options.segment_bytes;
        let Some(segment) = self.segments.front() else { return Ok(false) };
        let is_active = self.active.is_some() && self.segments.len() == 1;
        let is_kept = segment.is_missing || segment.quarantine.is_some() || is_active;
        if is_kept || segment.bytes <= usual.saturating_mul(2) {
            return Ok(false);
        }
        let (path, bytes, first) = (segment.path.clone(), segment.bytes, segment.first);
        let keep = bytes.saturating_sub(excess.max(usual));
        let found = self.fs.open_read(&path).map(SegmentReader::new).and_then(|mut reader| {
            let kept = self.first_to_keep(&mut reader, keep, bytes)?;
            Ok(kept.map(|kept| (reader, kept)))
        });
        let (mut reader, kept) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(error) => {
                // If it cannot be read at all, it is dropped as a whole.
                self.read_failures += 1;
                let error = self.failed("read", &path, error);
                let is_hopeless = self.read_failures >= MAX_READ_FAILURES;
                return if is_hopeless { Ok(false) } else { Err(error) };
            }
        };
        let temporary = self.dir.join(segment_name(first) + TEMPORARY);
        if let Err(error) = self.copy_tail(&mut reader, &temporary, first, kept.offset, bytes) {
            let _ = self.fs.remove(&temporary);
            return Err(self.failed("write", &temporary, error));
        }
        drop(reader);
        // In this order: whatever happens in between, what is missing is known to be committed.
        self.save_committed(kept.header.first)?;
        self.report_evicted(first, kept.header.first, kept.offset - SEGMENT_HEADER_BYTES as u64);
        self.committed = self.committed.max(kept.header.first);
        let replaced = self.fs.rename(&temporary, &path);
        if let Err(error) = replaced {
            let _ = self.fs.remove(&temporary);
            return Err(self.failed("replace", &path, error));
        }
        self.reader = None;
        if let Some(segment) = self.segments.front_mut() {
            self.usage.subtract(bytes);
            segment.bytes = SEGMENT_HEADER_BYTES as u64 + bytes - kept.offset;
            self.usage.add(segment.bytes);
        }
        self.is_dir_synced = false;
        if let Err(error) = self.fs.sync_dir(&self.dir) {
            let path = self.dir.clone();
            self.report("sync", &path, error);
        }
        Ok(true)
    }

    /// Writes and syncs that the entries before a number are committed, which they are about to be.
    fn save_committed(&mut self, number: u64) -> Result<(), Error> {
        let before = self.committed;
        self.committed = before.max(number);
        let saved = self.write_position().and_then(|()| {
            let synced = self.fs.sync(&mut self.position);
            synced.map_err(|error| self.failed("sync", &self.dir.join(POSITION), error))
        });
        self.committed = before;
        saved
    }

    /// Returns the first record of a segment from which on it has no more bytes than it may keep. Records
    /// that were read last are not kept.
    fn first_to_keep(
        &self,
        reader: &mut SegmentReader<F::File>,
        keep: u64,
        bytes: u64,
    ) -> io::Result<Option<RecordRef>> {
        let header = SEGMENT_HEADER_BYTES as u64;
        let mut from = header + (bytes - header).saturating_sub(keep.saturating_sub(header));
        while let Some(found) = reader.find(&self.fs, from, bytes)? {
            if found.header.first >= self.read_end {
                return Ok(Some(found));
            }
            from = found.end();
        }
        Ok(None)
    }

    /// Writes the part of a segment that is kept to another file.
    fn copy_tail(
        &self,
        reader: &mut SegmentReader<F::File>,
        to: &Path,
        first: u64,
        mut from: u64,
        end: u64,
    ) -> io::Result<()> {
        let mut file = self.fs.open(to)?;
        self.fs.truncate(&mut file, 0)?;
        self.fs.write_at(&mut file, 0, &SegmentHeader::bytes(first))?;
        let mut at = SEGMENT_HEADER_BYTES as u64;
        while from < end {
            let bytes = reader.bytes(&self.fs, from, COPY_BYTES, end)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.fs.write_at(&mut file, at, bytes)?;
            let len = bytes.len() as u64;
            (from, at) = (from + len, at + len);
        }
        self.fs.sync(&mut file)
    }

    /// Returns the space that the segments would take on the device with this many more bytes.
    pub(super) fn disk_bytes_with(&self, more: u64) -> u64 {
        match self.segments.back().filter(|_| self.active.is_some()) {
            Some(last) => self.usage.disk_bytes - on_disk(last.bytes) + on_disk(last.bytes + more),
            None => self.usage.disk_bytes + on_disk(SEGMENT_HEADER_BYTES as u64 + more),
        }
    }
}

/// How much of a segment is copied at once.
const COPY_BYTES: usize = 64 * 1024;
