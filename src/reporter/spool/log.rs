//! What is done with an open folder: appending, reading, settling.

use std::time::{Duration, Instant};

use super::{
    error::SpoolError,
    fs::FileSystem,
    notices::{Aside, Notice},
    position::Position,
    segment::{HEADER_LEN, Header, encode_block},
    segment_log::Loss,
    segment_log::{POSITION, Segment, SegmentLog, segment_name},
    stats::SpoolStats,
};
use crate::metric::Sample;

impl<D: FileSystem> SegmentLog<D> {
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
        self.check_owner()?;
        let mut block = std::mem::take(&mut self.block);
        let header = encode_block(self.next, samples, &mut block);
        let written = self.write(&block);
        let len = block.len() as u64;
        self.block = block;
        written?;
        if let Some(segment) = self.segments.back_mut() {
            self.usage.subtract(segment.bytes);
            segment.bytes += len;
            segment.end = header.end();
            segment.latest = segment.latest.max(header.latest);
            self.usage.add(segment.bytes);
        }
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
            self.retire_active();
        }
        while let Some(excess) =
            self.disk_bytes_with(len).checked_sub(self.limits.max_bytes).filter(|&more| more > 0)
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
        // What an earlier attempt may have left behind the segment's end is written over.
        if let Err(error) = self.fs.write_at(file, segment.bytes, block) {
            let path = segment.path.clone();
            self.has_torn_end = true;
            return Err(self.failed("write", &path, error));
        }
        Ok(())
    }

    /// Appends no more to the active segment.
    fn retire_active(&mut self) {
        let torn = std::mem::take(&mut self.has_torn_end);
        if let (Some(mut file), Some(segment), true) =
            (self.active.take(), self.segments.back(), torn)
            && let Err(error) = self.fs.truncate(&mut file, segment.bytes)
        {
            // What is there has numbers that the next segment has too.
            let path = segment.path.clone();
            self.report("cut", &path, error);
        }
    }

    /// Sees to it that the active segment is still there, as it was written.
    fn check_active(&mut self) {
        let Some(segment) = self.segments.back().filter(|_| self.active.is_some()) else { return };
        // What an attempt that failed has left makes it longer.
        if self.fs.len(&segment.path).is_ok_and(|len| len >= segment.bytes) {
            return;
        }
        self.notices.push(Notice::SegmentGone { segment: segment.path.clone() });
        self.active = None;
        self.mark_missing();
    }

    fn start_segment(&mut self) -> Result<(), SpoolError> {
        self.has_torn_end = false;
        let path = self.path.join(segment_name(self.next));
        // Of this name there may be one into which nothing could be written, or one that was put there.
        if self.segments.back().is_some_and(|last| last.first == self.next) {
            if let Some(empty) = self.segments.pop_back().filter(|empty| !empty.gone) {
                self.usage.subtract(empty.bytes);
            }
        } else if self.fs.len(&path).is_ok_and(|len| len > HEADER_LEN as u64) {
            self.quarantine(&path, Aside::Settled);
        }
        let mut opened = self.fs.open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            self.notices.push(Notice::FolderGone);
            self.reopen()?;
            self.mark_missing();
            opened = self.fs.open(&path);
        }
        let written = opened.and_then(|mut file| {
            self.fs.truncate(&mut file, 0)?;
            self.fs.write_at(&mut file, 0, &Header::bytes(self.next))?;
            Ok(file)
        });
        match written {
            Ok(file) => self.active = Some(file),
            Err(error) => {
                // Without a header or a block, it would be removed by whoever opens the folder next.
                let _ = self.fs.remove(&path);
                return Err(self.failed("begin the segment", &path, error));
            }
        }
        let (first, bytes) = (self.next, HEADER_LEN as u64);
        self.usage.add(bytes);
        self.segments.push_back(Segment::empty(path, first, bytes));
        if let Err(error) = self.fs.sync_dir(&self.path) {
            let path = self.path.clone();
            self.report("sync", &path, error);
        }
        Ok(())
    }

    /// Removes a segment's file, if it is there.
    pub(super) fn remove(&mut self, segment: &Segment) -> Result<(), SpoolError> {
        if segment.aside && !segment.gone {
            self.quarantine(&segment.path, Aside::Settled);
            self.usage.subtract(segment.bytes);
        } else if !segment.gone {
            match self.fs.remove(&segment.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", &segment.path, error));
                }
                _ => self.usage.subtract(segment.bytes),
            }
        }
        Ok(())
    }

    /// Counts as lost what was in files that are not there any more.
    pub(super) fn mark_missing(&mut self) {
        for at in 0..self.segments.len() {
            let segment = &mut self.segments[at];
            let is_missing = !segment.gone
                && self
                    .fs
                    .len(&segment.path)
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            if !is_missing {
                continue;
            }
            segment.gone = true;
            self.usage.subtract(segment.bytes);
            let (first, end) = (segment.first, segment.end);
            self.counters.lost += self.orphan(first, end, Loss::Lost);
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
        self.settle_outstanding(samples as u64);
        if self.check_owner().is_err() {
            return Ok(());
        }
        let saved = self.write_position();
        self.trim();
        // Beyond this, samples may overtake what was settled here, which must then not be sent again.
        if self.is_drained()
            && self.limits.sync_every < Duration::MAX
            && let Err(error) = self.fs.sync(&mut self.position)
        {
            let path = self.path.join(POSITION);
            self.report("sync", &path, error);
        }
        saved
    }

    /// Counts the outcomes of what was read: of the first `samples` that were handed out, and of those
    /// of the others that cannot be read again.
    pub(super) fn settle_outstanding(&mut self, samples: u64) {
        let Some(batch) = self.uncommitted_read.take() else { return };
        let (mut end, mut replayed, mut expired) = (batch.first, 0, 0);
        let mut too_old = batch.expired.iter().copied().peekable();
        while end < batch.first + batch.count {
            if too_old.next_if_eq(&end).is_some() {
                expired += 1;
            } else if replayed < samples {
                replayed += 1;
            } else {
                break;
            }
            end += 1;
        }
        let mut left = batch.first + batch.count - end;
        for (evicted, loss) in batch.evicted {
            let unsettled = evicted.end.saturating_sub(evicted.start.max(end));
            left -= unsettled;
            match loss {
                Loss::Dropped => self.counters.dropped += unsettled,
                Loss::Lost => self.counters.lost += unsettled,
            }
        }
        self.counters.replayed += replayed;
        self.counters.expired += expired;
        if expired > 0 {
            self.notices.push(Notice::Expired { samples: expired });
        }
        if self.is_abandoned() {
            self.counters.abandoned += left;
        }
        self.settled = self.settled.max(end);
    }

    pub(super) fn save_cursor(&mut self) {
        if let Err(error) = self.write_position() {
            self.notices.push(Notice::PositionUnsaved(error));
        }
    }

    pub(super) fn write_position(&mut self) -> Result<(), SpoolError> {
        self.position_saved = false;
        let kept = self.segments.iter().chain(&self.stale).map(|segment| segment.first).min();
        let removed = kept.unwrap_or(self.settled).min(self.settled);
        let position = Position { settled: self.settled, removed };
        self.fs.write_at(&mut self.position, 0, &position.bytes()).map_err(|error| {
            let path = self.path.join(POSITION);
            self.failed("write", &path, error)
        })?;
        self.position_saved = true;
        Ok(())
    }

    /// Removes the segments in front that are settled.
    pub(super) fn trim(&mut self) {
        let mut settled = std::mem::take(&mut self.stale);
        let had = settled.len() + self.segments.len();
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
                self.notices.push(Notice::Failed(error));
                self.stale.push(segment);
            }
        }
        if self.stale.len() + self.segments.len() < had && self.position_saved {
            // From now on they are known to have been removed.
            self.save_cursor();
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
        if let Err(error) = self.fs.sync(file) {
            // After a failure, the system may believe that everything is written (fsyncgate): another
            // file begins clean.
            self.retire_active();
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
        self.settled == self.next && self.uncommitted_read.is_none() && is_known
    }

    /// The counters.
    pub(crate) fn stats(&self) -> SpoolStats {
        let SpoolStats { recovered, spooled, replayed, dropped, expired, lost, abandoned, .. } =
            self.counters;
        SpoolStats {
            waiting: recovered + spooled - replayed - dropped - expired - lost - abandoned,
            bytes: self.usage.bytes,
            disk_bytes: self.usage.disk_bytes,
            segments: self.segments.len() as u64,
            ..self.counters
        }
    }
}
