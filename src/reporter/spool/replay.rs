//! Reading what waits in the folder, oldest first.

use std::{io, path::Path};

use tracing::warn;

use super::{
    disk::Disk,
    error::SpoolError,
    folder::{Folder, Outstanding},
    reader::{Found, Reader},
};
use crate::metric::Sample;

/// After so many failures in a row, a segment is left behind: a bad sector must not hold up the
/// samples behind it for ever.
const MOST_READ_FAILURES: u32 = 5;

impl<D: Disk> Folder<D> {
    /// The oldest samples that have had no outcome, `max` at most. They stay where they are until
    /// they are
    /// [settled](Self::settle); what was read before and is not settled is read again. None if
    /// nothing waits.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the file system refuses. It may work again later. If a segment that is open
    /// cannot be read five times in a row, it is set aside, and its samples count as lost.
    pub(crate) fn read(&mut self, max: usize) -> Result<Option<Vec<Sample>>, SpoolError> {
        if let Some(batch) = self.outstanding.take().filter(|batch| batch.orphaned) {
            self.counters.dropped += batch.count;
        }
        loop {
            self.trim();
            let Some(segment) = self.segments.front() else { return Ok(None) };
            if segment.gone {
                self.settled = self.settled.max(segment.end);
                continue;
            }
            let (first, path) = (segment.first, segment.path.clone());
            if first > self.settled {
                self.lose_until(first);
            }
            let reader = match self.reader.take() {
                Some(reader) => Ok(reader),
                None => self.disk.open_to_read(&path).map(Reader::new),
            };
            let is_open = reader.is_ok();
            match reader.and_then(|reader| self.read_first(reader, max.max(1))) {
                Ok(samples) if samples.is_empty() => {}
                Ok(samples) => {
                    self.read_failures = 0;
                    let count = samples.len() as u64;
                    self.outstanding =
                        Some(Outstanding { first: self.settled, count, orphaned: false });
                    return Ok(Some(samples));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.counters.io_errors.count(&error);
                    warn!(folder = ?self.path, "a segment of the spool was removed by somebody else");
                    self.count_gone();
                }
                // It says nothing of the segment: there may be no file descriptor left.
                Err(error) if !is_open => return Err(self.failed("open", &path, error)),
                Err(error) => return Err(self.read_failed(&path, error)),
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
            let Some(found) = reader.find(&self.disk, from, bytes)? else { break };
            let expected = self.settled + samples.len() as u64;
            if found.header.end() <= expected {
                from = found.end();
                if samples.is_empty() {
                    self.count_damaged(&reader, &found);
                    reader.offset = from;
                }
                continue;
            }
            let Some(mut block) = reader.samples(&self.disk, &found)? else {
                from = found.payload_at();
                continue;
            };
            if found.header.first > expected {
                // The samples in between are told apart from these by being settled first.
                if !samples.is_empty() {
                    break;
                }
                self.lose_until(found.header.first);
            }
            if samples.is_empty() {
                self.count_damaged(&reader, &found);
                reader.offset = found.at;
            }
            let known = expected.saturating_sub(found.header.first);
            block.drain(
                ..usize::try_from(known).map_or(block.len(), |known| known.min(block.len())),
            );
            block.truncate(max - samples.len());
            samples.append(&mut block);
            from = found.end();
        }
        if samples.is_empty() {
            self.counters.damaged_bytes += bytes - reader.offset;
            reader.offset = bytes;
            self.lose_until(segment_end);
        }
        self.reader = Some(reader);
        Ok(samples)
    }

    /// Counts what was passed over between the reader and a block.
    fn count_damaged(&mut self, reader: &Reader<D::File>, found: &Found) {
        self.counters.damaged_bytes += found.at.saturating_sub(reader.offset);
    }

    /// Counts what is missing up to a number.
    fn lose_until(&mut self, number: u64) {
        let missing = number.saturating_sub(self.settled);
        if missing > 0 {
            warn!(folder = ?self.path, samples = missing, "samples in the spool cannot be read any more");
            self.counters.lost += missing;
            self.settled = number;
        }
    }

    fn read_failed(&mut self, path: &Path, error: io::Error) -> SpoolError {
        self.read_failures += 1;
        if self.read_failures >= MOST_READ_FAILURES
            && let Some(segment) = self.segments.pop_front()
        {
            self.read_failures = 0;
            self.set_aside(&segment);
            self.bytes -= segment.bytes;
            self.lose_until(segment.end);
            if self.segments.is_empty() {
                self.active = None;
            }
        }
        self.failed("read", path, error)
    }
}
