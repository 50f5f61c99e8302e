//! Making room, oldest first.

use std::io;

use super::{
    error::SpoolError,
    fs::FileSystem,
    notices::{Health, Notice},
    reader::{BlockRef, Reader},
    replay::MAX_READ_FAILURES,
    segment::{HEADER_LEN, Header},
    segment_log::{Loss, POSITION, SegmentLog, TEMPORARY, segment_name},
    usage::on_disk,
};

impl<D: FileSystem> SegmentLog<D> {
    /// Drops what is too much, if the bound has become smaller since it was written.
    pub(super) fn fit(&mut self) {
        while let Some(excess) = self.usage.disk_bytes.checked_sub(self.limits.max_bytes + 1) {
            match self.evict_oldest(excess + 1) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.notices.push(Notice::Failed(error)),
            }
        }
    }

    /// Removes a file that is settled, or drops the oldest segment, or the oldest `excess` bytes of
    /// one that was written under a far larger bound. Returns false if there is none.
    pub(super) fn evict_oldest(&mut self, excess: u64) -> Result<bool, SpoolError> {
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
            self.active = None;
        }
        self.reader = None;
        if !segment.gone {
            self.drop_until(segment.first, segment.end, segment.bytes);
        }
        self.settled = self.settled.max(segment.end);
        self.save_cursor();
        Ok(true)
    }

    /// Counts samples that are dropped for want of room.
    fn drop_until(&mut self, first: u64, end: u64, bytes: u64) {
        let samples = self.orphan(first, end, Loss::Dropped);
        self.counters.dropped += samples;
        self.counters.dropped_bytes += bytes;
        self.notices.push(Notice::Dropped { samples });
    }

    /// Replaces the first segment by one without its oldest blocks, if it is far larger than segments
    /// are now. Returns false if it is not, or nothing of it can be kept.
    fn shrink_first(&mut self, excess: u64) -> Result<bool, SpoolError> {
        let usual = self.limits.segment_bytes();
        let Some(segment) = self.segments.front() else { return Ok(false) };
        let is_active = self.active.is_some() && self.segments.len() == 1;
        if segment.gone || segment.aside || is_active || segment.bytes <= 2 * usual {
            return Ok(false);
        }
        let (path, bytes, first) = (segment.path.clone(), segment.bytes, segment.first);
        let keep = bytes.saturating_sub(excess.max(usual));
        let found = self.fs.open_read(&path).map(Reader::new).and_then(|mut reader| {
            let kept = self.first_to_keep(&mut reader, keep, bytes)?;
            Ok(kept.map(|kept| (reader, kept)))
        });
        let (mut reader, kept) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(error) => {
                // One that cannot be read at all goes as a whole.
                self.read_failures += 1;
                let error = self.failed("read", &path, error);
                let is_hopeless = self.read_failures >= MAX_READ_FAILURES;
                return if is_hopeless { Ok(false) } else { Err(error) };
            }
        };
        let temporary = self.path.join(segment_name(first) + TEMPORARY);
        if let Err(error) = self.copy_tail(&mut reader, &temporary, first, kept.at, bytes) {
            let _ = self.fs.remove(&temporary);
            return Err(self.failed("write", &temporary, error));
        }
        drop(reader);
        // In this order: whatever happens in between, what is missing is known to be settled.
        self.save_settled(kept.header.first)?;
        self.drop_until(first, kept.header.first, kept.at - HEADER_LEN as u64);
        self.settled = self.settled.max(kept.header.first);
        let replaced = self.fs.rename(&temporary, &path);
        if let Err(error) = replaced {
            let _ = self.fs.remove(&temporary);
            return Err(self.failed("replace", &path, error));
        }
        self.reader = None;
        if let Some(segment) = self.segments.front_mut() {
            self.usage.subtract(bytes);
            segment.bytes = HEADER_LEN as u64 + bytes - kept.at;
            self.usage.add(segment.bytes);
        }
        if let Err(error) = self.fs.sync_dir(&self.path) {
            let path = self.path.clone();
            self.report("sync", &path, error);
        }
        Ok(true)
    }

    /// Writes down, and syncs, that what is before a number is settled, which it is about to be.
    fn save_settled(&mut self, number: u64) -> Result<(), SpoolError> {
        let before = self.settled;
        self.settled = before.max(number);
        let saved = self.write_position().and_then(|()| {
            let synced = self.fs.sync(&mut self.position);
            synced.map_err(|error| self.failed("sync", &self.path.join(POSITION), error))
        });
        self.settled = before;
        saved
    }

    /// The first block of a segment from which on it has no more bytes than it may keep. Blocks whose
    /// samples are in hand go too.
    fn first_to_keep(
        &self,
        reader: &mut Reader<D::File>,
        keep: u64,
        bytes: u64,
    ) -> io::Result<Option<BlockRef>> {
        let in_hand = self.uncommitted_read.as_ref().map_or(0, |batch| batch.first + batch.count);
        let header = HEADER_LEN as u64;
        let mut from = header + (bytes - header).saturating_sub(keep.saturating_sub(header));
        while let Some(found) = reader.find(&self.fs, from, bytes)? {
            if found.header.first >= in_hand {
                return Ok(Some(found));
            }
            from = found.end();
        }
        Ok(None)
    }

    /// Writes what of a segment is kept to another file.
    fn copy_tail(
        &self,
        reader: &mut Reader<D::File>,
        to: &std::path::Path,
        first: u64,
        mut from: u64,
        end: u64,
    ) -> io::Result<()> {
        let mut file = self.fs.open(to)?;
        self.fs.truncate(&mut file, 0)?;
        self.fs.write_at(&mut file, 0, &Header::bytes(first))?;
        let mut at = HEADER_LEN as u64;
        while from < end {
            let bytes = reader.bytes(&self.fs, from, COPIED_BYTES, end)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.fs.write_at(&mut file, at, bytes)?;
            let len = bytes.len() as u64;
            (from, at) = (from + len, at + len);
        }
        self.fs.sync(&mut file)
    }

    /// What the segments would take on disk with so many bytes more.
    pub(super) fn disk_bytes_with(&self, more: u64) -> u64 {
        match self.segments.back().filter(|_| self.active.is_some()) {
            Some(last) => self.usage.disk_bytes - on_disk(last.bytes) + on_disk(last.bytes + more),
            None => self.usage.disk_bytes + on_disk(HEADER_LEN as u64 + more),
        }
    }

    /// How the folder is, apart from what it has to say.
    pub(crate) fn health(&self) -> Health {
        Health {
            has_room: self.usage.disk_bytes <= self.limits.max_bytes / 2,
            is_position_saved: self.position_saved,
            is_tidy: self.stale.is_empty(),
        }
    }

    /// How many samples from `first` to `end` are neither settled nor in hand. Those that are in hand
    /// are no longer on disk, and have this fate if they are not settled.
    pub(super) fn orphan(&mut self, first: u64, end: u64, loss: Loss) -> u64 {
        let from = first.max(self.settled).min(end);
        let Some(batch) = &mut self.uncommitted_read else { return end - from };
        let in_hand = from.max(batch.first)..end.min(batch.first + batch.count);
        if in_hand.is_empty() {
            return end - from;
        }
        let others = end - from - (in_hand.end - in_hand.start);
        batch.evicted.push((in_hand, loss));
        others
    }
}

/// How much of a segment is copied at once.
const COPIED_BYTES: usize = 64 * 1024;
