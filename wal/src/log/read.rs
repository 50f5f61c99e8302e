//! Reading, oldest first.

use std::{io, ops::Range, path::Path};

use super::Wal;
use crate::{
    error::Error,
    event::{Event, QuarantineReason},
    fs::FileSystem,
    reader::{RecordRef, SegmentReader},
    record::{Record, SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// The number of failures in a row after which a segment is quarantined: a bad sector must not block the
/// entries behind it for ever.
pub(super) const MAX_READ_FAILURES: u32 = 5;

impl<F: FileSystem> Wal<F> {
    /// Visits the records that hold the oldest entries that are not committed, at most `max` entries, and
    /// returns their numbers. The range is empty if all entries are committed.
    ///
    /// Entries stay in the log until they are [committed](Self::commit), and are read again until then.
    /// The numbers of one call have no gap: where entries are missing, a call ends, and the next
    /// [reports](Event::Lost) them. [`Record::unread`] are the entries of a record to use.
    ///
    /// `visit` returns false for a record whose payload it cannot use: its entries then count as lost.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and what was visited is not read. A later call may succeed. If an open segment cannot
    /// be read five times in a row, it is quarantined, and its entries are lost.
    pub fn read(
        &mut self,
        max: usize,
        mut visit: impl FnMut(Record<'_>) -> bool,
    ) -> Result<Range<u64>, Error> {
        let max = max.max(1) as u64;
        self.read_end = self.committed;
        self.check_owner()?;
        loop {
            self.trim();
            let Some(segment) = self.segments.front() else {
                return Ok(self.committed..self.committed);
            };
            if segment.is_missing {
                self.committed = self.committed.max(segment.end);
                continue;
            }
            let (first, path) = (segment.first, segment.path.clone());
            self.skip_lost(first);
            let reader = match self.reader.take() {
                Some(reader) => Ok(reader),
                None => self.fs.open_read(&path).map(SegmentReader::new),
            };
            let is_open = reader.is_ok();
            match reader.and_then(|reader| self.read_first(reader, max, &mut visit)) {
                Ok(end) if end == self.committed => {}
                Ok(end) => {
                    self.read_failures = 0;
                    self.read_end = self.read_on(end, self.committed.saturating_add(max), visit);
                    return Ok(self.committed..self.read_end);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.counters.io_errors.count(&error);
                    self.events.push(Event::SegmentMissing { segment: path });
                    self.mark_missing();
                }
                // The segment may be intact: the process may be out of file descriptors.
                Err(error) if !is_open => return Err(self.failed("open", &path, error)),
                Err(error) => return Err(self.read_failed(&path, error)),
            }
        }
    }

    /// Reads the first segment, and returns the number behind the last entry that was read.
    fn read_first(
        &mut self,
        mut reader: SegmentReader<F::File>,
        max: u64,
        visit: &mut impl FnMut(Record<'_>) -> bool,
    ) -> io::Result<u64> {
        let mut end = self.committed;
        let Some(segment) = self.segments.front() else { return Ok(end) };
        let (segment_end, bytes) = (segment.end, segment.bytes);
        let mut from = reader.offset;
        while end - self.committed < max {
            let Some(found) = reader.find(&self.fs, from, bytes)? else { break };
            let is_first = end == self.committed;
            let RecordRef { offset, header } = found;
            let Some(payload) = reader.payload(&self.fs, &found)? else {
                from = found.payload_offset();
                continue;
            };
            if header.end() <= end {
                from = found.end();
                if is_first {
                    self.count_damaged(&reader, offset);
                    reader.offset = from;
                }
                continue;
            }
            let begin = header.first.max(end);
            // Behind missing entries, a new call begins.
            if header.first >= segment_end || (begin > end && !is_first) {
                break;
            }
            let most = if is_first { begin } else { self.committed }.saturating_add(max);
            // It may have more, with numbers that the next segment has too.
            let stop = header.end().min(segment_end).min(most);
            if !visit(Record::new(&header, begin..stop, payload)) {
                from = found.payload_offset();
                continue;
            }
            if is_first {
                self.skip_lost(begin);
                self.count_damaged(&reader, offset);
                reader.offset = offset;
            }
            end = stop;
            from = found.end();
        }
        if end == self.committed {
            self.counters.damaged_bytes += bytes.saturating_sub(reader.offset);
            reader.offset = bytes;
            self.skip_lost(segment_end);
            end = self.committed;
        }
        self.reader = Some(reader);
        Ok(end)
    }

    /// Reads on behind the first segment, as long as nothing is missing or damaged: that is found when its
    /// segment is the first.
    fn read_on(&self, mut end: u64, stop: u64, mut visit: impl FnMut(Record<'_>) -> bool) -> u64 {
        for segment in self.segments.iter().skip(1) {
            if end >= stop || segment.is_missing || segment.first != end {
                break;
            }
            let Ok(mut reader) = self.fs.open_read(&segment.path).map(SegmentReader::new) else {
                break;
            };
            let mut from = reader.offset;
            let segment_stop = segment.end.min(stop);
            while end < segment_stop
                && let Ok(Some(found)) = reader.find(&self.fs, from, segment.bytes)
                && found.offset == from
                && found.header.first == end
                && let Ok(Some(payload)) = reader.payload(&self.fs, &found)
            {
                let unread = end..found.header.end().min(segment_stop);
                let next = unread.end;
                if !visit(Record::new(&found.header, unread, payload)) {
                    return end;
                }
                (end, from) = (next, found.end());
            }
            if end < segment_stop {
                break;
            }
        }
        end
    }

    /// Visits all records of the log that hold entries from a number on, committed or not, oldest first. It
    /// changes nothing, and is for reading everything after [opening](Self::open), from
    /// [`committed`](Self::committed) on or from a number that the caller has stored.
    ///
    /// `visit` returns false for a record whose payload it cannot use: it then counts as damaged. Damage is
    /// skipped, and reported as [`Event::Damaged`] for each segment that has any, and [`Event::Lost`] for the
    /// entries from that number on that are missing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a segment cannot be opened or read.
    pub fn scan(
        &mut self,
        from: u64,
        mut visit: impl FnMut(Record<'_>) -> bool,
    ) -> Result<(), Error> {
        self.check_owner()?;
        let mut expected = from;
        for index in 0..self.segments.len() {
            let segment = &self.segments[index];
            if segment.is_missing || segment.end <= expected {
                continue;
            }
            let path = segment.path.clone();
            let end = segment.end;
            let scanned = self
                .fs
                .open_read(&path)
                .map_err(|error| ("open", error))
                .map(SegmentReader::new)
                .and_then(|reader| {
                    self.scan_records(index, reader, &mut expected, &mut visit)
                        .map_err(|error| ("read", error))
                });
            match scanned {
                Ok(0) => {}
                Ok(bytes) => {
                    self.counters.damaged_bytes += bytes;
                    self.events.push(Event::Damaged { segment: path, bytes });
                    if self.options.keep_damaged {
                        self.segments[index].quarantine = Some(QuarantineReason::Damaged);
                    }
                }
                Err((action, error)) => return Err(self.failed(action, &path, error)),
            }
            if expected < end {
                self.events.push(Event::Lost { entries: expected..end });
                expected = end;
            }
        }
        Ok(())
    }

    /// Visits the records of a segment from an entry on, and returns how many bytes were skipped because
    /// they hold no valid record.
    fn scan_records(
        &mut self,
        index: usize,
        mut reader: SegmentReader<F::File>,
        expected: &mut u64,
        visit: &mut impl FnMut(Record<'_>) -> bool,
    ) -> io::Result<u64> {
        let Some(segment) = self.segments.get(index) else { return Ok(0) };
        let header = SegmentHeader::decode(&reader.header(&self.fs)?);
        let mut damaged =
            if header == SegmentHeader::Valid { 0 } else { SEGMENT_HEADER_BYTES as u64 };
        let (mut from, mut valid_end) = (reader.offset, reader.offset);
        while let Some(found) = reader.find(&self.fs, from, segment.bytes)? {
            let RecordRef { offset, header } = found;
            let Some(payload) = reader.payload(&self.fs, &found)? else {
                from = found.payload_offset();
                continue;
            };
            if header.first >= segment.end {
                break;
            }
            let unread = header.first.max(*expected)..header.end().min(segment.end);
            let (first, end) = (unread.start, unread.end);
            if !unread.is_empty() && !visit(Record::new(&header, unread, payload)) {
                from = found.payload_offset();
                continue;
            }
            damaged += offset - valid_end;
            (from, valid_end) = (found.end(), found.end());
            if first < end {
                if *expected < first {
                    self.events.push(Event::Lost { entries: *expected..first });
                }
                *expected = end;
            }
        }
        Ok(damaged + segment.bytes.saturating_sub(valid_end))
    }

    /// Counts the bytes that were skipped between the reader and a record.
    fn count_damaged(&mut self, reader: &SegmentReader<F::File>, offset: u64) {
        self.counters.damaged_bytes += offset.saturating_sub(reader.offset);
    }

    /// Reports the entries before a number as lost, and does not wait for them any more.
    fn skip_lost(&mut self, number: u64) {
        if number > self.committed {
            self.events.push(Event::Lost { entries: self.committed..number });
            self.committed = number;
        }
    }

    fn read_failed(&mut self, path: &Path, error: io::Error) -> Error {
        self.read_failures += 1;
        if self.read_failures >= MAX_READ_FAILURES
            && let Some(segment) = self.segments.pop_front()
        {
            self.read_failures = 0;
            self.quarantine(&segment.path, QuarantineReason::Unreadable);
            self.usage.subtract(segment.bytes);
            self.skip_lost(segment.end);
            if self.segments.is_empty() {
                self.lose_active();
            }
        }
        self.failed("read", path, error)
    }
}
