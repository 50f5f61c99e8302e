//! What the task of a relay does with its spool.

use std::{collections::VecDeque, ops::Range, time::Duration};

use super::*;

/// How long the disk is left alone after an error.
const DISK_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What has become of points that were to be stored.
struct Stored {
    /// The numbers of the head, if it was to be stored and was.
    head: Option<Range<u64>>,
    /// How many points were stored, the head's included.
    points: u64,
    /// The chunks that were not stored.
    left: VecDeque<RelayBatch>,
    error: Option<metrics_wal::Error>,
}

impl<K: Sink, F> Worker<K, F>
where
    F: FileSystem + Send + 'static,
    F::File: Send,
{
    /// Stores the points in memory, in order, and syncs them. What cannot be stored stays in memory.
    pub(super) async fn spill(&mut self) {
        let Some(spool) = &self.spool else { return };
        let head = self.head.as_ref().filter(|head| head.stored.is_none());
        let head = head.map(|head| Arc::clone(&head.chunk));
        let (mut left, commit) = (self.pending.take(), self.commit.take());
        let done = spool.run(move |spool| {
            let (mut points, mut error, mut stored_head) = (0, None, None);
            let committed = commit.map_or(Ok(()), |number| spool.commit(number));
            let mut append = |chunk: &RelayBatch| match spool.append(chunk) {
                Ok(entries) => {
                    points += entries.end - entries.start;
                    Some(entries)
                }
                Err(failed) => {
                    error = Some(failed);
                    None
                }
            };
            let mut is_stored = true;
            if let Some(head) = &head {
                stored_head = append(head);
                is_stored = stored_head.is_some();
            }
            while is_stored && let Some(chunk) = left.front() {
                is_stored = append(chunk).is_some();
                if is_stored {
                    left.pop_front();
                }
            }
            if let Err(failed) = spool.sync() {
                error = Some(failed);
            }
            (committed, Stored { head: stored_head, points, left, error })
        });
        // Without a runtime this task ends too.
        let Some(((committed, stored), report)) = done.await else { return };
        let Stored { head, points, left, error } = stored;
        if let (Some(entries), Some(head)) = (head, &mut self.head) {
            head.stored = Some((entries.start, entries.end));
        }
        self.pending.restore(left);
        self.is_spool_empty &= points == 0;
        self.update(|stats| {
            stats.waiting -= points;
            stats.spooled += points;
        });
        self.on_committed(commit, committed.as_ref());
        self.on_disk_result(error.as_ref());
        self.on_report(&report);
    }

    /// Makes the oldest points of the spool the head.
    pub(super) async fn read_spool(&mut self) {
        let Some(spool) = &self.spool else {
            self.is_spool_empty = true;
            return;
        };
        let commit = self.commit.take();
        let done = spool.run(move |spool| {
            let committed = commit.map_or(Ok(()), |number| spool.commit(number));
            let read = spool.read(MAX_CHUNK_POINTS);
            if matches!(read, Ok(None)) {
                // After a loss of power an older value would replace a newer one that is sent from memory now.
                spool.sync_position();
            }
            (committed, read)
        });
        let Some(((committed, read), report)) = done.await else { return };
        self.on_report(&report);
        self.on_committed(commit, committed.as_ref());
        self.on_disk_result(read.as_ref().err());
        match read {
            Ok(Some(batch)) => {
                let stored = Some((batch.entries.start, batch.entries.end));
                let chunk = Arc::new(RelayBatch { puts: batch.puts, received: batch.received });
                self.head = Some(HeadBatch { chunk, stored });
            }
            Ok(None) => {
                self.is_spool_empty = true;
                // What is missing without a report cannot be read either.
                self.update(|stats| {
                    stats.dropped.spool_damaged += std::mem::take(&mut stats.spooled);
                });
            }
            Err(_) => {}
        }
    }

    /// Stores what is left, and closes the spool.
    pub(super) async fn close(&mut self) {
        self.intake();
        self.spill().await;
        let commit = self.commit.take();
        if let Some(spool) = &self.spool {
            let done = spool.run(move |spool| {
                let committed = commit.map_or(Ok(()), |number| spool.commit(number));
                spool.sync_position();
                committed
            });
            if let Some((Err(error), _)) = done.await {
                self.log.disk_failing(&error);
            }
        }
        self.spool = None;
        self.pending.take();
        self.head = self.head.take().filter(|head| head.stored.is_some());
        self.update(|stats| stats.dropped.closed += std::mem::take(&mut stats.waiting));
    }

    /// Tries again later to commit what could not be committed.
    fn on_committed(&mut self, number: Option<u64>, committed: Result<&(), &metrics_wal::Error>) {
        if let Err(error) = committed {
            self.commit = self.commit.max(number);
            self.log.disk_failing(error);
        }
    }

    fn on_disk_result(&mut self, error: Option<&metrics_wal::Error>) {
        match error {
            Some(error) => {
                self.disk_retry_at = Instant::now() + DISK_RETRY_DELAY;
                self.log.disk_failing(error);
            }
            None => self.log.disk_works(),
        }
    }

    /// Counts what the spool has lost.
    fn on_report(&mut self, report: &SpoolReport) {
        let count = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
        let (evicted, lost) = (count(&report.evicted), count(&report.lost));
        if let Some(HeadBatch { stored: Some((first, end)), .. }) = &mut self.head {
            for run in report.evicted.iter().chain(&report.lost) {
                // The oldest are lost first.
                if run.start <= *first {
                    *first = (*first).max(run.end.min(*end));
                }
            }
        }
        self.update(|stats| {
            let evicted = evicted.min(stats.spooled);
            let lost = lost.min(stats.spooled - evicted);
            stats.spooled -= evicted + lost;
            stats.dropped.spool_full += evicted;
            stats.dropped.spool_damaged += lost;
            stats.spool_bytes = report.disk_bytes;
            stats.spool_errors = report.io_errors;
        });
        for event in &report.events {
            self.log.spool_event(event);
        }
        if evicted > 0 {
            self.log.spool_full(evicted);
        }
        if report.is_abandoned {
            self.abandon();
        }
    }

    /// Goes on without the spool, which belongs to another process.
    fn abandon(&mut self) {
        self.log.abandoned();
        (self.spool, self.is_spool_empty, self.commit) = (None, true, None);
        // If it is in flight, its outcome counts for nothing.
        if let Some(HeadBatch { stored: Some((first, end)), .. }) = &mut self.head {
            *first = *end;
        }
        self.update(|stats| {
            stats.dropped.spool_damaged += std::mem::take(&mut stats.spooled);
            stats.spool_bytes = 0;
        });
    }
}
