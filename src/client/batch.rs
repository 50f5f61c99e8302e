//! Any number of puts with one wait.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    pipeline::{Progress, WaiterId},
    shared::Shared,
};
use crate::{
    error::{BatchError, Error},
    metric::Sample,
    protocol::{self, NotFinite},
};

/// How many samples become one entry of the pipeline: enough that what an entry costs does not
/// count, few enough that other callers get their turn between them.
const BLOCK: usize = 512;

pub(super) async fn put_all(shared: &Shared, samples: &[Sample]) -> Result<(), Error> {
    for sample in samples {
        NotFinite::check(&sample.key, sample.point.value)?;
    }
    let mut batch = Batch::begin(shared);
    let mut puts = BytesMut::new();
    let mut accepted = 0;
    let mut failure = None;
    while accepted < samples.len() {
        let Some(room) = batch.room(accepted).await else {
            break;
        };
        let rest = &samples[accepted..];
        let block = &rest[..rest.len().min(room)];
        puts.clear();
        for Sample { key, point } in block {
            protocol::encode_put(&mut puts, key, *point);
        }
        if let Err(error) = batch.extend(accepted, block.len(), &puts) {
            failure = Some((accepted, error));
            break;
        }
        accepted += block.len();
    }
    let progress = batch.finished().await;
    match progress.failure.or(failure) {
        None => Ok(()),
        Some((first_failed, error)) => Err(Error::Batch(Arc::new(BatchError {
            acknowledged: progress.acknowledged,
            total: samples.len(),
            first_failed,
            error,
        }))),
    }
}

/// A batch in the pipeline. Dropped, it withdraws what has not been sent.
struct Batch<'a> {
    shared: &'a Shared,
    waiter: WaiterId,
    pace: Pace,
}

impl<'a> Batch<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut pipeline = shared.pipeline();
        let pace = Pace::new(pipeline.request_timeout(), Instant::now());
        let waiter = pipeline.begin_batch();
        Self { shared, waiter, pace }
    }

    /// How many samples may be added to the `accepted`, once any may; `None` if adding more is of
    /// no use.
    async fn room(&mut self, accepted: usize) -> Option<usize> {
        poll_fn(|cx| {
            let mut pipeline = self.shared.pipeline();
            let window = self.pace.window.min(2 * pipeline.width());
            let block = (window / 2).clamp(1, BLOCK);
            let (progress, unneeded) = pipeline.poll_batch(self.waiter, window - block, cx.waker());
            let progress = progress.map(|progress| (progress.unfinished, progress.broken));
            drop(pipeline);
            drop(unneeded);
            let (unfinished, broken) = ready!(progress);
            self.pace.note(accepted - unfinished, window, Instant::now());
            Poll::Ready((!broken).then_some(block))
        })
        .await
    }

    fn extend(&self, index: usize, samples: usize, puts: &[u8]) -> Result<(), Error> {
        let now = Instant::now();
        let driver = self.shared.pipeline().extend_batch(self.waiter, index, samples, puts, now)?;
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// How the batch went, once everything that was accepted has an outcome.
    async fn finished(&self) -> Progress {
        poll_fn(|cx| {
            let mut pipeline = self.shared.pipeline();
            let (progress, unneeded) = pipeline.poll_batch(self.waiter, 0, cx.waker());
            let progress = progress.map(Progress::clone);
            drop(pipeline);
            drop(unneeded);
            progress
        })
        .await
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.shared.abandon(self.waiter);
    }
}

/// How many samples of a batch may be without an answer, so that each can be answered before its
/// deadline, whatever the server takes for one.
///
/// Begins with a few and doubles as long as the server answers them in good time, as TCP does with
/// segments (RFC 5681, slow start).
#[derive(Debug)]
struct Pace {
    window: usize,
    limit: Duration,
    /// When the present window began, and how many samples had an outcome then.
    since: Instant,
    finished: usize,
}

impl Pace {
    /// At ten puts a second, the slowest server that is worth a thought, this takes 1.6 seconds.
    const FIRST: usize = 16;

    fn new(limit: Duration, now: Instant) -> Self {
        Self { window: Self::FIRST, limit, since: now, finished: 0 }
    }

    /// So many samples have an outcome by now, with at most `window` under way.
    fn note(&mut self, finished: usize, window: usize, now: Instant) {
        if finished < self.finished + window {
            return;
        }
        let taken = now - self.since;
        if taken < self.limit / 4 {
            self.window = window * 2;
        } else if taken > self.limit / 2 {
            self.window = (window / 2).max(Self::FIRST);
        }
        self.since = now;
        self.finished = finished;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_while_answers_come_in_good_time_and_shrinks_when_they_do_not() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Duration::from_secs(4), start);
        pace.note(15, 16, after(1));
        assert_eq!(pace.window, 16);
        pace.note(16, 16, after(999));
        assert_eq!(pace.window, 32);
        pace.note(48, 32, after(2500));
        assert_eq!(pace.window, 32);
        pace.note(80, 32, after(5000));
        assert_eq!(pace.window, 16);
        pace.note(96, 16, after(8000));
        assert_eq!(pace.window, 16);
    }
}
