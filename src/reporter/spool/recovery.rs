//! What lies in a folder when it is opened.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    error::SpoolError,
    fs::FileSystem,
    notices::{Aside, Notice},
    reader::Reader,
    segment::{HEADER_LEN, Header},
    segment_log::{LOCK, POSITION, SEGMENT, Segment, SegmentLog, TEMPORARY, io_error},
};

impl<D: FileSystem> SegmentLog<D> {
    /// Takes over what lies in the folder. Segments with numbers before `removed` had been removed from
    /// it.
    pub(super) fn recover(
        &mut self,
        files: Vec<(String, u64)>,
        removed: u64,
    ) -> Result<(), SpoolError> {
        let mut found: Vec<Segment> = Vec::new();
        for (name, bytes) in files {
            let path = self.path.join(&name);
            match FileName::of(&name) {
                FileName::Segment(first) => found.push(Segment::empty(path, first, bytes)),
                // A process was killed while it made a segment smaller, which is there as it was.
                FileName::Temporary => {
                    if let Err(error) = self.fs.remove(&path) {
                        self.report("remove", &path, error);
                    }
                }
                FileName::Ours => {}
                FileName::Foreign => self.notices.push(Notice::ForeignFile { file: name }),
            }
        }
        found.sort_by_key(|segment| segment.first);
        while let Some(mut segment) = found.pop() {
            // Only what was written last can be torn, and only there is it worth reading everything.
            let is_last = self.segments.is_empty();
            let file = match self.fs.open_read(&segment.path) {
                Ok(file) => Reader::new(file),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.report("open", &segment.path, error);
                    continue;
                }
                // It says nothing of the segment: there may be no file descriptor left.
                Err(error) => return Err(io_error("open", &segment.path, error)),
            };
            match self.scan_segment(&mut segment, file, is_last) {
                Ok(Contents::Blocks) => {
                    self.usage.add(segment.bytes);
                    self.segments.push_front(segment);
                }
                Ok(Contents::Nothing) => {
                    self.counters.torn_bytes += segment.bytes;
                    if let Err(error) = self.fs.remove(&segment.path) {
                        self.report("remove", &segment.path, error);
                    }
                }
                Ok(Contents::Foreign) => self.quarantine(&segment.path, Aside::Unreadable),
                Ok(Contents::Newer { version }) => {
                    return Err(SpoolError::Newer { path: segment.path, version });
                }
                Err(error) => {
                    self.report("read", &segment.path, error);
                    self.quarantine(&segment.path, Aside::Unreadable);
                }
            }
        }
        self.resolve_overlaps();
        self.set_aside_before(removed);
        let end = self.segments.back().map_or(0, |last| last.end);
        self.next = end.max(self.settled);
        let first = self.segments.front().map_or(self.next, |first| first.first);
        self.settled = self.settled.max(first);
        self.counters.recovered = self.next - self.settled;
        for Segment { path: segment, first, end, .. } in &self.segments {
            if *end <= self.settled {
                let (segment, samples) = (segment.clone(), end - first);
                self.notices.push(Notice::Leftover { segment, samples });
            }
        }
        self.trim();
        Ok(())
    }

    /// Sees to it that no two segments have samples of the same numbers, as they do if one of them is of
    /// another spool. Only one of the two can be read.
    fn resolve_overlaps(&mut self) {
        let mut at = 0;
        while let (Some(this), Some(next)) = (self.segments.get(at), self.segments.get(at + 1)) {
            if this.end <= next.first {
                at += 1;
            } else if next.end <= this.end {
                if let Some(inner) = self.segments.remove(at + 1) {
                    self.usage.subtract(inner.bytes);
                    self.quarantine(&inner.path, Aside::Settled);
                }
            } else {
                let end = next.first;
                let this = &mut self.segments[at];
                (this.end, this.aside) = (end, true);
                at += 1;
            }
        }
    }

    /// Sets aside segments that are older than what was ever removed: they were put back.
    fn set_aside_before(&mut self, removed: u64) {
        while self.segments.front().is_some_and(|first| first.end <= removed) {
            let Some(segment) = self.segments.pop_front() else { return };
            self.usage.subtract(segment.bytes);
            self.quarantine(&segment.path, Aside::Settled);
        }
    }

    /// Finds out what a segment holds; cuts what is torn, if it was written last.
    fn scan_segment(
        &mut self,
        segment: &mut Segment,
        mut file: Reader<D::File>,
        is_last: bool,
    ) -> io::Result<Contents> {
        let header = Header::read(&file.header(&self.fs)?);
        if let Header::Unknown { version } = header {
            return Ok(Contents::Newer { version });
        }
        let mut tail = HEADER_LEN as u64;
        let mut from = tail;
        while let Some(found) = file.find(&self.fs, from, segment.bytes)? {
            if is_last && file.samples(&self.fs, &found)?.is_none() {
                from = found.payload_at();
                continue;
            }
            (tail, from) = (found.end(), found.end());
            segment.end = segment.end.max(found.header.end());
            segment.latest = segment.latest.max(found.header.latest);
        }
        let is_torn = segment.bytes < HEADER_LEN as u64;
        if segment.end == segment.first {
            let is_empty =
                tail == HEADER_LEN as u64 && (is_torn || matches!(header, Header::Valid { .. }));
            return Ok(if is_empty { Contents::Nothing } else { Contents::Foreign });
        }
        if is_last && tail < segment.bytes {
            let cut = segment.bytes - tail;
            self.notices.push(Notice::Torn { segment: segment.path.clone(), bytes: cut });
            self.counters.torn_bytes += cut;
            let file = self.fs.open(&segment.path);
            match file.and_then(|mut file| self.fs.truncate(&mut file, tail)) {
                Ok(()) => segment.bytes = tail,
                // Nothing is read from behind the last block anyway.
                Err(error) => self.report("cut", &segment.path, error),
            }
        }
        Ok(Contents::Blocks)
    }

    /// Gives a file a name by which it is no segment any more.
    pub(super) fn quarantine(&mut self, path: &Path, why: Aside) {
        let suffix = match why {
            Aside::Unreadable => ".unreadable",
            Aside::Settled => ".settled",
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(suffix);
        let mut free = PathBuf::from(&aside);
        let mut number = 0;
        // What was set aside before is not written over.
        while self.fs.len(&free).is_ok() {
            number += 1;
            let mut numbered = aside.clone();
            numbered.push(format!(".{number}"));
            free = numbered.into();
        }
        self.counters.quarantine += 1;
        match self.fs.rename(path, &free) {
            Ok(()) => self.notices.push(Notice::SetAside { file: free, why }),
            Err(error) => self.report("rename", path, error),
        }
    }
}

/// What was found in a file that is named like a segment.
enum Contents {
    Blocks,
    /// It is a segment, of which not even one block was written.
    Nothing,
    Foreign,
    Newer {
        version: u8,
    },
}

/// What a file is by its name.
enum FileName {
    /// A segment, with the number of its first sample.
    Segment(u64),
    /// What was to replace a segment.
    Temporary,
    /// The lock, the position, or a segment that was set aside.
    Ours,
    Foreign,
}

impl FileName {
    fn of(name: &str) -> Self {
        if [LOCK, POSITION].contains(&name) {
            return Self::Ours;
        }
        let Some((digits, suffix)) = name.split_once(SEGMENT) else { return Self::Foreign };
        let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        match (digits.parse(), suffix) {
            (Ok(first), "") if is_number => Self::Segment(first),
            (Ok(_), TEMPORARY) if is_number => Self::Temporary,
            (Ok(_), suffix) if is_number && suffix.starts_with('.') => Self::Ours,
            _ => Self::Foreign,
        }
    }
}
