//! What is done with an open folder: appending, reading, settling.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{
    disk::Disk,
    error::SpoolError,
    folder::{Folder, POSITION, Segment, position_bytes, segment_name},
    segment::{HEADER_LEN, Header, encode_block},
    stats::SpoolStats,
};
use crate::metric::Sample;

impl<D: Disk> Folder<D> {
    /// Appends the first of some samples, as many as one block holds, and says how many those were.
    /// If there is no room, the oldest segment goes.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], and nothing was appended. It may work again later.
    pub(crate) fn append(&mut self, now: Instant, samples: &[Sample]) -> Result<usize, SpoolError> {
        if samples.is_empty() {
            return Ok(0);
        }
        let mut block = std::mem::take(&mut self.block);
        let header = encode_block(self.next, samples, &mut block);
        let written = self.write(&block);
        let len = block.len() as u64;
        self.block = block;
        written?;
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes += len;
            segment.end = header.end();
            segment.latest = segment.latest.max(header.latest);
        }
        self.bytes += len;
        self.next = header.end();
        self.counters.spooled += u64::from(header.count);
        self.unsynced_since.get_or_insert(now);
        self.sync_if_due(now);
        Ok(header.count as usize)
    }

    /// Writes a block behind the others, and leaves it to the caller to say so.
    fn write(&mut self, block: &[u8]) -> Result<(), SpoolError> {
        let len = block.len() as u64;
        self.check_active();
        if self.segments.back().is_none_or(|last| last.bytes + len > self.limits.segment_bytes()) {
            self.sync();
            self.active = None;
        }
        while self.bytes + HEADER_LEN as u64 + len > self.limits.max_bytes {
            if !self.make_room()? {
                break;
            }
        }
        if self.active.is_none() {
            self.start_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back()) else {
            return Ok(());
        };
        // What an earlier attempt may have left behind the segment's end is written over.
        if let Err(error) = self.disk.write_at(file, segment.bytes, block) {
            let path = segment.path.clone();
            return Err(self.failed("write", &path, error));
        }
        Ok(())
    }

    /// Sees to it that the active segment is still there, as it was written.
    fn check_active(&mut self) {
        let Some(segment) = self.segments.back().filter(|_| self.active.is_some()) else { return };
        // What an attempt that failed has left makes it longer.
        if self.disk.len(&segment.path).is_ok_and(|len| len >= segment.bytes) {
            return;
        }
        warn!(segment = ?segment.path, "the spool's segment was removed or cut by somebody else");
        self.active = None;
        self.count_gone();
    }

    fn start_segment(&mut self) -> Result<(), SpoolError> {
        // Of this name there may be one into which nothing could be written.
        if self.segments.back().is_some_and(|last| last.first == self.next)
            && let Some(empty) = self.segments.pop_back()
        {
            self.bytes -= if empty.gone { 0 } else { empty.bytes };
        }
        let path = self.path.join(segment_name(self.next));
        let mut opened = self.disk.open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            warn!(folder = ?self.path, "the spool's folder was removed: made anew");
            self.reopen()?;
            self.count_gone();
            opened = self.disk.open(&path);
        }
        let written = opened.and_then(|mut file| {
            self.disk.truncate(&mut file, 0)?;
            self.disk.write_at(&mut file, 0, &Header::bytes(self.next))?;
            Ok(file)
        });
        match written {
            Ok(file) => self.active = Some(file),
            Err(error) => {
                // Without a header or a block, it would be removed by whoever opens the folder next.
                let _ = self.disk.remove(&path);
                return Err(self.failed("begin the segment", &path, error));
            }
        }
        let (first, bytes) = (self.next, HEADER_LEN as u64);
        self.bytes += bytes;
        self.segments.push_back(Segment::empty(path, first, bytes));
        if let Err(error) = self.disk.sync_folder(&self.path) {
            let path = self.path.clone();
            self.report("sync", &path, error);
        }
        Ok(())
    }

    /// Removes a file that is settled, or drops the oldest segment. False if there is none.
    fn make_room(&mut self) -> Result<bool, SpoolError> {
        if let Some(segment) = self.stale.pop() {
            if let Err(error) = self.remove(&segment) {
                self.stale.push(segment);
                return Err(error);
            }
            return Ok(true);
        }
        let Some(segment) = self.segments.pop_front() else { return Ok(false) };
        if let Err(error) = self.remove(&segment) {
            self.segments.push_front(segment);
            return Err(error);
        }
        if self.segments.is_empty() {
            self.active = None;
        }
        self.reader = None;
        if !segment.gone {
            self.counters.dropped += self.orphan(segment.first, segment.end);
            self.counters.dropped_bytes += segment.bytes;
        }
        self.settled = self.settled.max(segment.end);
        self.save_position();
        Ok(true)
    }

    /// Removes a segment's file, if it is there.
    fn remove(&mut self, segment: &Segment) -> Result<(), SpoolError> {
        if !segment.gone {
            match self.disk.remove(&segment.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", &segment.path, error));
                }
                _ => self.bytes -= segment.bytes,
            }
        }
        Ok(())
    }

    /// How many samples from `first` to `end` are neither settled nor in somebody's hands. Those that
    /// are, are no longer on disk.
    fn orphan(&mut self, first: u64, end: u64) -> u64 {
        let unsettled = end - first.max(self.settled).min(end);
        match &mut self.outstanding {
            Some(batch) if !batch.orphaned && (first..end).contains(&batch.first) => {
                batch.orphaned = true;
                unsettled - batch.count
            }
            _ => unsettled,
        }
    }

    /// Counts as lost what was in files that are not there any more.
    pub(super) fn count_gone(&mut self) {
        for at in 0..self.segments.len() {
            let segment = &mut self.segments[at];
            let is_missing = !segment.gone
                && self
                    .disk
                    .len(&segment.path)
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            if !is_missing {
                continue;
            }
            segment.gone = true;
            self.bytes -= segment.bytes;
            let (first, end) = (segment.first, segment.end);
            self.counters.lost += self.orphan(first, end);
            if at == 0 {
                self.reader = None;
            }
            if at + 1 == self.segments.len() {
                self.active = None;
            }
        }
    }

    /// Says that the first `samples` of those that were [read](Self::read) last have had their
    /// outcome. Those behind them are read again.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if this could not be written down: they are settled, but not for the next
    /// process.
    pub(crate) fn settle(&mut self, samples: usize) -> Result<(), SpoolError> {
        if let Some(batch) = self.outstanding.take() {
            let settled = batch.count.min(samples as u64);
            self.counters.replayed += settled;
            if batch.orphaned {
                self.counters.dropped += batch.count - settled;
            } else {
                self.settled = batch.first + settled;
            }
        }
        let saved = self.write_position();
        self.trim();
        // Beyond this, samples may overtake what was settled here, which must then not be sent again.
        if self.is_drained()
            && self.limits.sync_every < Duration::MAX
            && let Err(error) = self.disk.sync(&mut self.position)
        {
            let path = self.path.join(POSITION);
            self.report("sync", &path, error);
        }
        saved
    }

    pub(super) fn save_position(&mut self) {
        if let Err(error) = self.write_position() {
            warn!(error = &error as &dyn std::error::Error, "some samples may be sent twice");
        }
    }

    fn write_position(&mut self) -> Result<(), SpoolError> {
        self.position_saved = false;
        self.disk.write_at(&mut self.position, 0, &position_bytes(self.settled)).map_err(
            |error| {
                let path = self.path.join(POSITION);
                self.failed("write", &path, error)
            },
        )?;
        self.position_saved = true;
        Ok(())
    }

    /// Removes the segments in front that are settled.
    pub(super) fn trim(&mut self) {
        let mut settled = std::mem::take(&mut self.stale);
        while self.segments.front().is_some_and(|first| first.end <= self.settled) {
            settled.extend(self.segments.pop_front());
            self.reader = None;
            self.read_failures = 0;
        }
        if self.segments.is_empty() {
            self.active = None;
            self.unsynced_since = None;
        }
        for segment in settled {
            if let Err(error) = self.remove(&segment) {
                warn!(error = &error as &dyn std::error::Error, "the spool goes on without");
                self.stale.push(segment);
            }
        }
    }

    /// Syncs what was appended, if it has gone unsynced for as long as it may.
    pub(crate) fn sync_if_due(&mut self, now: Instant) {
        let waited = self.unsynced_since.map(|since| now.saturating_duration_since(since));
        if waited.is_some_and(|waited| waited >= self.limits.sync_every) {
            self.sync();
        }
    }

    /// Syncs what was appended, whether it is due or not.
    pub(crate) fn sync(&mut self) {
        let (Some(file), Some(_)) = (&mut self.active, self.unsynced_since.take()) else { return };
        if let Err(error) = self.disk.sync(file) {
            // After a failure, the system may believe that everything is written (fsyncgate): another
            // file begins clean.
            self.active = None;
            if let Some(path) = self.segments.back().map(|segment| segment.path.clone()) {
                self.report("sync", &path, error);
            }
        }
    }

    /// The latest timestamp that any sample in the folder can have.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.segments.iter().map(|segment| segment.latest).max()
    }

    /// Whether nothing waits in the folder, and the next process will know.
    pub(crate) fn is_drained(&self) -> bool {
        let is_known = self.position_saved || (self.segments.is_empty() && self.stale.is_empty());
        self.settled == self.next && self.outstanding.is_none() && is_known
    }

    /// The counters.
    pub(crate) fn stats(&self) -> SpoolStats {
        let SpoolStats { recovered, spooled, replayed, dropped, lost, .. } = self.counters;
        SpoolStats {
            waiting: recovered + spooled - replayed - dropped - lost,
            bytes: self.bytes,
            segments: self.segments.len() as u64,
            ..self.counters
        }
    }
}
