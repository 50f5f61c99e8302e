//! Reading what waits in the folder, oldest first.

use std::{io, path::Path};

use super::{
    error::SpoolError,
    fs::FileSystem,
    notices::{Aside, Notice},
    reader::{BlockRef, Reader},
    segment_log::{Outstanding, SegmentLog},
};
use crate::metric::Sample;

/// After so many failures in a row, a segment is left behind: a bad sector must not hold up the
/// samples behind it for ever.
pub(super) const MAX_READ_FAILURES: u32 = 5;

impl<D: FileSystem> SegmentLog<D> {
    /// As [`read_since`](Self::read_since), however old the samples are.
    #[cfg(test)]
    pub(crate) fn read(&mut self, max: usize) -> Result<Option<Vec<Sample>>, SpoolError> {
        self.read_since(i64::MIN, max)
    }

    /// The oldest samples that have had no outcome, `max` at most, but for those with timestamps before
    /// `oldest`: they are dropped. The others stay where they are until they are
    /// [settled](Self::settle); what was read before and is not settled is read again. None if
    /// nothing waits.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the file system refuses. It may work again later. If a segment that is open
    /// cannot be read five times in a row, it is set aside, and its samples count as lost.
    pub(crate) fn read_since(
        &mut self,
        oldest: i64,
        max: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        let max = max.max(1);
        // Nothing of it was settled, and what the disk does not have any more cannot be read again.
        self.settle_outstanding(0);
        self.check_owner()?;
        loop {
            self.trim();
            let Some(segment) = self.segments.front() else { return Ok(None) };
            if segment.gone {
                self.settled = self.settled.max(segment.end);
                continue;
            }
            let (first, path) = (segment.first, segment.path.clone());
            if first > self.settled {
                self.mark_lost_until(first);
            }
            let reader = match self.reader.take() {
                Some(reader) => Ok(reader),
                None => self.fs.open_read(&path).map(Reader::new),
            };
            let is_open = reader.is_ok();
            match reader.and_then(|reader| self.read_first(reader, max)) {
                Ok(samples) if samples.is_empty() => {}
                Ok(mut samples) => {
                    self.read_failures = 0;
                    self.read_on(&mut samples, max);
                    if let Some(samples) = self.hand_out(samples, oldest) {
                        return Ok(Some(samples));
                    }
                    self.settle_outstanding(0);
                    self.save_cursor();
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.counters.io_errors.count(&error);
                    self.notices.push(Notice::SegmentGone { segment: path });
                    self.mark_missing();
                }
                // It says nothing of the segment: there may be no file descriptor left.
                Err(error) if !is_open => return Err(self.failed("open", &path, error)),
                Err(error) => return Err(self.read_failed(&path, error)),
            }
        }
    }

    /// Notes that samples are in hand, and leaves out those that are too old. None if all are.
    fn hand_out(&mut self, mut samples: Vec<Sample>, oldest: i64) -> Option<Vec<Sample>> {
        let (first, count) = (self.settled, samples.len() as u64);
        let (mut number, mut expired) = (first, Vec::new());
        samples.retain(|sample| {
            let is_wanted = sample.point.timestamp >= oldest;
            if !is_wanted {
                expired.push(number);
            }
            number += 1;
            is_wanted
        });
        self.uncommitted_read = Some(Outstanding { first, count, expired, evicted: Vec::new() });
        (!samples.is_empty()).then_some(samples)
    }

    /// Reads on behind the first segment, as long as nothing is amiss: what is will be found when its
    /// segment is the first.
    fn read_on(&self, samples: &mut Vec<Sample>, max: usize) {
        for segment in self.segments.iter().skip(1) {
            let expected = self.settled + samples.len() as u64;
            if samples.len() >= max || segment.gone || segment.first != expected {
                return;
            }
            let Ok(mut reader) = self.fs.open_read(&segment.path).map(Reader::new) else {
                return;
            };
            let mut from = reader.offset;
            while let Ok(Some(found)) = reader.find(&self.fs, from, segment.bytes) {
                let expected = self.settled + samples.len() as u64;
                let is_next = found.at == from && found.header.first == expected;
                let left = segment.end.saturating_sub(expected);
                let room = max - samples.len();
                let room = usize::try_from(left).map_or(room, |left| left.min(room));
                if !is_next || room == 0 {
                    break;
                }
                let Ok(Some(mut block)) = reader.samples(&self.fs, &found) else { return };
                block.truncate(room);
                samples.append(&mut block);
                from = found.end();
            }
        }
    }

    /// Reads from the first segment. None are left in it if none come.
    fn read_first(&mut self, mut reader: Reader<D::File>, max: usize) -> io::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let Some(segment) = self.segments.front() else { return Ok(samples) };
        let (segment_end, bytes) = (segment.end, segment.bytes);
        let mut from = reader.offset;
        while samples.len() < max {
            let Some(found) = reader.find(&self.fs, from, bytes)? else { break };
            let expected = self.settled + samples.len() as u64;
            if found.header.end() <= expected {
                from = found.end();
                if samples.is_empty() {
                    self.count_corrupt(&reader, &found);
                    reader.offset = from;
                }
                continue;
            }
            let Some(mut block) = reader.samples(&self.fs, &found)? else {
                from = found.payload_at();
                continue;
            };
            if found.header.first >= segment_end {
                break;
            }
            if found.header.first > expected {
                // The samples in between are told apart from these by being settled first.
                if !samples.is_empty() {
                    break;
                }
                self.mark_lost_until(found.header.first);
            }
            if samples.is_empty() {
                self.count_corrupt(&reader, &found);
                reader.offset = found.at;
            }
            let known = expected.saturating_sub(found.header.first);
            block.drain(
                ..usize::try_from(known).map_or(block.len(), |known| known.min(block.len())),
            );
            // It may have more, of numbers that the next segment has too.
            let left = segment_end.saturating_sub(self.settled + samples.len() as u64);
            let room = max - samples.len();
            block.truncate(usize::try_from(left).map_or(room, |left| left.min(room)));
            samples.append(&mut block);
            from = found.end();
        }
        if samples.is_empty() {
            self.counters.damaged_bytes += bytes - reader.offset;
            reader.offset = bytes;
            self.mark_lost_until(segment_end);
        }
        self.reader = Some(reader);
        Ok(samples)
    }

    /// Counts what was passed over between the reader and a block.
    fn count_corrupt(&mut self, reader: &Reader<D::File>, found: &BlockRef) {
        self.counters.damaged_bytes += found.at.saturating_sub(reader.offset);
    }

    /// Counts what is missing up to a number.
    fn mark_lost_until(&mut self, number: u64) {
        let missing = number.saturating_sub(self.settled);
        if missing > 0 {
            self.notices.push(Notice::Lost { samples: missing });
            self.counters.lost += missing;
            self.settled = number;
        }
    }

    fn read_failed(&mut self, path: &Path, error: io::Error) -> SpoolError {
        self.read_failures += 1;
        if self.read_failures >= MAX_READ_FAILURES
            && let Some(segment) = self.segments.pop_front()
        {
            self.read_failures = 0;
            self.quarantine(&segment.path, Aside::Unreadable);
            self.usage.subtract(segment.bytes);
            self.mark_lost_until(segment.end);
            if self.segments.is_empty() {
                self.active = None;
            }
        }
        self.failed("read", path, error)
    }
}
