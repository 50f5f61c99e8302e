//! A log of samples on disk: what is appended is read from the front and settled, or dropped.

use std::{ops::Range, path::Path, time::Instant};

use metrics_wal::{Event, FileSystem, Fsync, Options, OsFileSystem, Wal};

use super::{
    error::SpoolError,
    notices::{Health, Notice, SpoolLogger},
    samples::{MAX_RECORD_BYTES, decode, encode},
    stats::SpoolStats,
};
use crate::metric::Sample;

/// How much a log may hold, and when it is synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolLimits {
    /// The space of its segments, in bytes, counted in disk blocks.
    pub(crate) max_bytes: u64,
    pub(crate) fsync: Fsync,
}

impl SpoolLimits {
    /// Sixteen segments of two records.
    pub(crate) const MIN_BYTES: u64 = 16 * 2 * MAX_RECORD_BYTES as u64;

    /// Returns the options of the log. When it is full one segment is dropped, a sixteenth of it.
    fn options(&self) -> Options {
        let segment_bytes =
            (self.max_bytes / 16).clamp(2 * MAX_RECORD_BYTES as u64, 8 * 1024 * 1024);
        Options::new().segment_bytes(segment_bytes).max_bytes(self.max_bytes)
    }
}

/// An open log of samples, each of which is an entry of a [`Wal`].
///
/// What was appended survives the end of this process, however it ends. It survives a loss of power if it
/// was synced: as [`SpoolLimits::fsync`] says, if [`sync`](Self::sync) is called as often.
#[derive(Debug)]
pub(crate) struct SampleLog<F: FileSystem = OsFileSystem> {
    pub(super) wal: Wal<F>,
    limits: SpoolLimits,
    in_hand: Option<InHand>,
    unsynced_since: Option<Instant>,
    payload: Vec<u8>,
    /// What is to be logged, once no lock is held.
    notices: Vec<Notice>,
    /// The counters that are not those of the [`Wal`], see [`SampleLog::stats`].
    counters: SpoolStats,
}

/// Samples that were read and are not settled yet.
#[derive(Debug)]
struct InHand {
    entries: Range<u64>,
    /// The numbers of those that were too old to be handed out, in order.
    expired: Vec<u64>,
    /// Those that are not on disk any more, and why.
    gone: Vec<(Range<u64>, Loss)>,
}

/// Why samples are not on disk any more without having been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The log was full.
    Dropped,
    /// Their segment is missing, or damaged.
    Lost,
}

impl<F: FileSystem> SampleLog<F> {
    /// Opens the log in a directory, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// [`SpoolError`]. Damaged segments are no error: what can be read of them is.
    pub(crate) fn open(fs: F, dir: &Path, limits: SpoolLimits) -> Result<Self, SpoolError> {
        let wal = Wal::open(fs, dir, limits.options()).map_err(|failed| {
            let notices = failed.events.into_iter().filter_map(notice).collect();
            SpoolLogger::default().write(dir, notices, Health::default());
            failed.error
        })?;
        let recovered = wal.stats().recovered;
        let mut log = Self {
            wal,
            limits,
            in_hand: None,
            unsynced_since: None,
            payload: Vec::new(),
            notices: Vec::new(),
            counters: SpoolStats { recovered, ..SpoolStats::default() },
        };
        log.process_events();
        Ok(log)
    }

    /// Appends the first of some samples, as many as one record holds, and returns how many those are. If
    /// the log is full, its oldest segment is dropped.
    ///
    /// # Errors
    ///
    /// [`SpoolError`], and nothing was appended. A later call may succeed.
    pub(crate) fn append(&mut self, now: Instant, samples: &[Sample]) -> Result<usize, SpoolError> {
        if samples.is_empty() {
            return Ok(0);
        }
        let mut payload = std::mem::take(&mut self.payload);
        let (count, latest) = encode(samples, &mut payload);
        let appended = self.wal.append(count, latest, &payload);
        self.payload = payload;
        self.process_events();
        appended?;
        self.counters.spooled += u64::from(count);
        self.unsynced_since.get_or_insert(now);
        self.sync_if_due(now);
        Ok(count as usize)
    }

    /// Syncs what was appended, if [`SpoolLimits::fsync`] says so.
    pub(super) fn sync_if_due(&mut self, now: Instant) {
        let unsynced = self.unsynced_since.map(|since| now.saturating_duration_since(since));
        let is_due = match self.limits.fsync {
            Fsync::Always => unsynced.is_some(),
            Fsync::Every(time) => unsynced.is_some_and(|unsynced| unsynced >= time),
            Fsync::Never => false,
        };
        if is_due {
            self.sync();
        }
    }

    /// Syncs what was appended.
    pub(crate) fn sync(&mut self) {
        if self.unsynced_since.take().is_some()
            && let Err(error) = self.wal.sync()
        {
            self.notices.push(Notice::Failed(error.into()));
        }
        self.process_events();
    }

    /// Returns the oldest samples that are not settled, `max` at most, without those with timestamps before
    /// `oldest`, which are dropped. They stay in the log until they are [settled](Self::settle), and are
    /// read again until then. Returns `None` if no sample waits.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the file system fails. A later call may succeed. If an open segment cannot be read
    /// five times in a row, it is quarantined, and its samples are lost.
    pub(crate) fn read_since(
        &mut self,
        oldest: i64,
        max: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        self.settle_or_note(0);
        loop {
            let mut samples = Vec::new();
            let read = self.wal.read(max, |record| decode(&record, &mut samples));
            self.process_events();
            let entries = read?;
            if entries.is_empty() {
                return Ok(None);
            }
            if let Some(samples) = self.hand_out(entries, samples, oldest) {
                return Ok(Some(samples));
            }
            self.settle_or_note(0);
        }
    }

    /// Reads samples of any age.
    #[cfg(test)]
    pub(crate) fn read(&mut self, max: usize) -> Result<Option<Vec<Sample>>, SpoolError> {
        self.read_since(i64::MIN, max)
    }

    /// Notes that samples are in hand, and removes those that are too old. Returns `None` if all are.
    fn hand_out(
        &mut self,
        entries: Range<u64>,
        mut samples: Vec<Sample>,
        oldest: i64,
    ) -> Option<Vec<Sample>> {
        let (mut number, mut expired) = (entries.start, Vec::new());
        samples.retain(|sample| {
            let is_wanted = sample.point.timestamp >= oldest;
            if !is_wanted {
                expired.push(number);
            }
            number += 1;
            is_wanted
        });
        self.in_hand = Some(InHand { entries, expired, gone: Vec::new() });
        (!samples.is_empty()).then_some(samples)
    }

    /// Settles the first `samples` of those that were [read](Self::read_since) last: they have their outcome.
    /// Those behind them are read again.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if this could not be written: they are settled, but the next process may read them
    /// again.
    pub(crate) fn settle(&mut self, samples: usize) -> Result<(), SpoolError> {
        let number = self.settle_in_hand(samples as u64);
        let saved = self.wal.commit(number.unwrap_or(0));
        // From now on, newer samples may overtake what was settled here, which must not be sent again.
        if self.is_drained() && self.limits.fsync != Fsync::Never {
            self.wal.sync_position();
        }
        self.process_events();
        saved.map_err(SpoolError::from)
    }

    fn settle_or_note(&mut self, samples: usize) {
        if self.in_hand.is_some()
            && let Err(error) = self.settle(samples)
        {
            self.notices.push(Notice::PositionNotSaved(error));
        }
    }

    /// Counts the outcomes of what is in hand: of the first `samples` that were handed out, and of those of
    /// the others that cannot be read again. Returns the number behind the last with an outcome.
    fn settle_in_hand(&mut self, samples: u64) -> Option<u64> {
        let InHand { entries, expired: too_old, gone } = self.in_hand.take()?;
        let (mut end, mut replayed, mut expired) = (entries.start, 0, 0);
        let mut too_old = too_old.into_iter().peekable();
        while end < entries.end {
            if too_old.next_if_eq(&end).is_some() {
                expired += 1;
            } else if replayed < samples {
                replayed += 1;
            } else {
                break;
            }
            end += 1;
        }
        let mut left = entries.end - end;
        for (gone, loss) in gone {
            let unsettled = gone.end.saturating_sub(gone.start.max(end));
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
        if self.wal.is_abandoned() {
            self.counters.abandoned += left;
        }
        Some(end)
    }

    /// Counts what has happened in the log, and keeps what is to be logged.
    fn process_events(&mut self) {
        for event in self.wal.take_events() {
            match &event {
                Event::Lost { entries } => {
                    self.counters.lost += self.orphan(entries.clone(), Loss::Lost);
                }
                Event::Evicted { entries, bytes } => {
                    self.counters.dropped += self.orphan(entries.clone(), Loss::Dropped);
                    self.counters.dropped_bytes += bytes;
                }
                Event::Abandoned => {
                    let in_hand = self.in_hand.as_ref().map_or(0, |in_hand| len(&in_hand.entries));
                    let samples = self.stats().waiting.saturating_sub(in_hand);
                    self.counters.abandoned += samples;
                    self.unsynced_since = None;
                    self.notices.push(Notice::Abandoned { samples });
                }
                _ => {}
            }
            self.notices.extend(notice(event));
        }
    }

    /// Returns how many entries that are not on disk any more are not in hand. Those in hand have this loss
    /// if they are not settled.
    fn orphan(&mut self, entries: Range<u64>, loss: Loss) -> u64 {
        let Some(in_hand) = &mut self.in_hand else { return len(&entries) };
        let common = entries.start.max(in_hand.entries.start)..entries.end.min(in_hand.entries.end);
        let others = len(&entries) - len(&common);
        if !common.is_empty() {
            in_hand.gone.push((common, loss));
        }
        others
    }

    /// Returns the latest timestamp that any sample in the log can have.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.wal.latest()
    }

    /// Returns whether no sample waits in the log, and the next process will know.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_hand.is_none() && self.wal.is_drained()
    }

    /// Returns whether the directory was found to be taken over by another process.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.wal.is_abandoned()
    }

    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        self.wal.is_synced()
    }

    pub(super) fn dir(&self) -> &Path {
        self.wal.dir()
    }

    pub(super) fn note(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub(crate) fn health(&self) -> Health {
        Health {
            has_room: self.wal.stats().disk_bytes <= self.limits.max_bytes / 2,
            is_position_saved: self.wal.is_position_saved(),
            is_tidy: !self.wal.has_stale_segments(),
        }
    }

    /// Returns the counters.
    pub(crate) fn stats(&self) -> SpoolStats {
        let SpoolStats { recovered, spooled, replayed, dropped, expired, lost, abandoned, .. } =
            self.counters;
        let wal = self.wal.stats();
        SpoolStats {
            waiting: recovered + spooled - replayed - dropped - expired - lost - abandoned,
            bytes: wal.bytes,
            disk_bytes: wal.disk_bytes,
            segments: wal.segments,
            damaged_bytes: wal.damaged_bytes,
            torn_bytes: wal.torn_bytes,
            quarantined: wal.quarantined,
            io_errors: wal.io_errors,
            ..self.counters
        }
    }
}

/// Returns what is to be logged of an event, if that does not depend on what is in hand.
fn notice(event: Event) -> Option<Notice> {
    Some(match event {
        Event::UnknownFile { name } => Notice::UnknownFile { name },
        Event::TornTail { segment, bytes } => Notice::TornTail { segment, bytes },
        Event::Quarantined { path, reason } => Notice::Quarantined { path, reason },
        Event::Leftover { segment, entries } => Notice::Leftover { segment, samples: entries },
        Event::Failed(error) => Notice::Failed(error.into()),
        Event::PositionNotSaved(error) => Notice::PositionNotSaved(error.into()),
        Event::SegmentMissing { segment } => Notice::SegmentMissing { segment },
        Event::DirectoryRecreated => Notice::DirectoryRecreated,
        Event::Lost { entries } => Notice::Lost { samples: len(&entries) },
        Event::Evicted { entries, .. } => Notice::Dropped { samples: len(&entries) },
        _ => return None,
    })
}

fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}
