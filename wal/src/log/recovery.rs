//! Reads a directory when it is opened.

use std::io;

use super::{Segment, SyncPoint, Wal, names::FileName};
use crate::{
    error::Error,
    event::{Event, QuarantineReason},
    fs::FileSystem,
    reader::SegmentReader,
    record::{SEGMENT_HEADER_BYTES, SegmentHeader},
};

impl<F: FileSystem> Wal<F> {
    /// Takes over the files of the directory. Segments that end at or before `removed` had been removed.
    pub(super) fn recover(&mut self, files: Vec<(String, u64)>, removed: u64) -> Result<(), Error> {
        let mut found: Vec<Segment> = Vec::new();
        for (name, bytes) in files {
            let path = self.dir.join(&name);
            match FileName::of(&name) {
                FileName::Segment(first) => found.push(Segment::empty(path, first, bytes)),
                // A process was killed while it cut a segment, which is there as it was.
                FileName::Temporary => {
                    if let Err(error) = self.fs.remove(&path) {
                        self.report("remove", &path, error);
                    }
                }
                FileName::Known => {}
                FileName::Unknown => self.events.push(Event::UnknownFile { name }),
            }
        }
        found.sort_by_key(|segment| segment.first);
        while let Some(mut segment) = found.pop() {
            // Only the last segment can be torn: damage in others is kept, and found when they are read.
            let next = self.segments.front().map(|next| next.first);
            let reader = match self.fs.open_read(&segment.path) {
                Ok(file) => SegmentReader::new(file),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.report("open", &segment.path, error);
                    continue;
                }
                // The segment may be intact: the process may be out of file descriptors.
                Err(error) => return Err(Error::io("open", segment.path, error)),
            };
            match self.scan_segment(&mut segment, reader, next) {
                Ok(Contents::Records) => {
                    self.usage.add(segment.bytes);
                    self.segments.push_front(segment);
                }
                Ok(Contents::Empty) => {
                    self.counters.torn_bytes += segment.bytes;
                    if let Err(error) = self.fs.remove(&segment.path) {
                        self.report("remove", &segment.path, error);
                    }
                }
                Ok(Contents::Unreadable) => {
                    self.quarantine(&segment.path, QuarantineReason::Unreadable);
                }
                Ok(Contents::Newer { version }) => {
                    return Err(Error::NewerVersion { path: segment.path, version });
                }
                Err(error) => {
                    self.report("read", &segment.path, error);
                    self.quarantine(&segment.path, QuarantineReason::Unreadable);
                }
            }
        }
        self.resolve_overlaps();
        self.quarantine_before(removed);
        let end = self.segments.back().map_or(0, |last| last.end);
        self.next = end.max(self.committed);
        self.synced = SyncPoint { end: self.next, bytes: 0 };
        let first = self.segments.front().map_or(self.next, |first| first.first);
        self.committed = self.committed.max(first);
        self.counters.recovered = self.next - self.committed;
        for Segment { path, first, end, .. } in &self.segments {
            if *end <= self.committed {
                let (segment, entries) = (path.clone(), end - first);
                self.events.push(Event::Leftover { segment, entries });
            }
        }
        self.trim();
        Ok(())
    }

    /// Makes the numbers of all segments distinct. They are not if one of them is of another log, or if
    /// the end of one could not be cut: then the entries of the next segment are the newer.
    fn resolve_overlaps(&mut self) {
        let mut index = 0;
        while let (Some(this), Some(next)) =
            (self.segments.get(index), self.segments.get(index + 1))
        {
            if this.end <= next.first {
                index += 1;
            } else if next.end <= this.end {
                if let Some(inner) = self.segments.remove(index + 1) {
                    self.usage.subtract(inner.bytes);
                    self.quarantine(&inner.path, QuarantineReason::Committed);
                }
            } else {
                let end = next.first;
                let this = &mut self.segments[index];
                (this.end, this.quarantine) = (end, Some(QuarantineReason::Committed));
                index += 1;
            }
        }
    }

    /// Quarantines segments that are older than what was ever removed: they were put back.
    fn quarantine_before(&mut self, removed: u64) {
        while self.segments.front().is_some_and(|first| first.end <= removed) {
            let Some(segment) = self.segments.pop_front() else { return };
            self.usage.subtract(segment.bytes);
            self.quarantine(&segment.path, QuarantineReason::Committed);
        }
    }

    /// Finds out what a segment holds. Cuts its torn end if it is the last, and the zeros that it was filled
    /// with if the `next` segment begins with its next entry.
    fn scan_segment(
        &mut self,
        segment: &mut Segment,
        mut reader: SegmentReader<F::File>,
        next: Option<u64>,
    ) -> io::Result<Contents> {
        let header = SegmentHeader::decode(&reader.header(&self.fs)?);
        if let SegmentHeader::Newer { version } = header {
            return Ok(Contents::Newer { version });
        }
        let mut end = SEGMENT_HEADER_BYTES as u64;
        let mut from = end;
        while let Some(found) = reader.find(&self.fs, from, segment.bytes)? {
            if reader.payload(&self.fs, &found)?.is_none() {
                from = found.payload_offset();
                continue;
            }
            (end, from) = (found.end(), found.end());
            segment.end = segment.end.max(found.header.end());
            segment.latest = segment.latest.max(found.header.latest);
        }
        let is_torn = segment.bytes < SEGMENT_HEADER_BYTES as u64;
        if segment.end == segment.first {
            let is_empty = end == SEGMENT_HEADER_BYTES as u64
                && (is_torn || matches!(header, SegmentHeader::Valid));
            return Ok(if is_empty { Contents::Empty } else { Contents::Unreadable });
        }
        // Zeros behind the records were never a record.
        let torn = reader.last_byte(&self.fs, end, segment.bytes)? - end;
        let is_cut = match next {
            None => true,
            Some(next) => torn == 0 && segment.end == next,
        };
        if is_cut && end < segment.bytes {
            if torn > 0 {
                let path = segment.path.clone();
                self.events.push(Event::TornTail { segment: path, bytes: torn });
                self.counters.torn_bytes += torn;
            }
            let file = self.fs.open(&segment.path);
            match file.and_then(|mut file| self.fs.truncate(&mut file, end)) {
                Ok(()) => segment.bytes = end,
                // Nothing behind the last record is read.
                Err(error) => self.report("cut", &segment.path, error),
            }
        }
        Ok(Contents::Records)
    }
}

/// What was found in a file that has the name of a segment.
enum Contents {
    Records,
    /// It is a segment to which no record was written completely.
    Empty,
    Unreadable,
    Newer {
        version: u8,
    },
}
