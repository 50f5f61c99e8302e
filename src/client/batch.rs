//! Any number of puts with one wait.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{task::coop, time::Instant};

use super::{
    outcomes::Outcomes,
    pipeline::{Progress, WaiterId},
    pool::Pool,
    shared::{Shared, wake_all},
};
use crate::{
    error::{BatchError, Delivery, Error},
    metric::Sample,
    protocol::{self, NonFiniteValue},
};

/// How many samples become one entry of the pipeline: enough that what an entry costs does not
/// count, few enough that other callers get their turn between them.
const BLOCK_SAMPLES: usize = 512;

pub(super) async fn put_all(
    pool: &Pool,
    samples: &[Sample],
    outcomes: Option<&Outcomes>,
) -> Result<(), Error> {
    if samples.is_empty() {
        coop::consume_budget().await;
    }
    for sample in samples {
        NonFiniteValue::ensure_finite(&sample.key, sample.point.value)?;
    }
    let stored = match pool.connections() {
        [only] => {
            let track = outcomes.map(|outcomes| Track { outcomes, places: None });
            store(only, samples.iter(), samples.len(), track).await
        }
        _ => store_by_key(pool, samples, outcomes).await,
    };
    let BatchOutcome { acknowledged, failure, refused, mut closed_on, settled, broken, delivery } =
        stored;
    closed_on.retain(|&reservation| reservation < settled);
    closed_on.sort_unstable();
    match failure {
        None => Ok(()),
        Some((first_failed, error)) => Err(Error::Batch(Arc::new(BatchError {
            acknowledged,
            total: samples.len(),
            first_failed,
            settled,
            rejected: refused.into_iter().filter(|&reservation| reservation < settled).count(),
            closed_on,
            delivery: delivery.filter(|_| acknowledged == 0).unwrap_or(Delivery::Unknown),
            retryable: broken.is_some_and(|(_, retryable)| retryable),
            error,
        }))),
    }
}

/// Where a part of a batch notes what became of its samples when it ends, however it ends; and through
/// which it can be cancelled.
struct Track<'a> {
    outcomes: &'a Outcomes,
    /// The places of its samples in the whole, if it is not the whole.
    places: Option<Vec<usize>>,
}

/// What has become of samples.
#[derive(Default)]
struct BatchOutcome {
    acknowledged: usize,
    /// The first that failed, by its place, and why.
    failure: Option<(usize, Error)>,
    /// The places of those that the server has refused.
    refused: Vec<usize>,
    /// The places of those at which the server closes the connection.
    closed_on: Vec<usize>,
    /// All before this place were acknowledged or refused, or are in `closed_on`.
    settled: usize,
    /// The first that failed for another reason than a refusal, by its place, and whether it may
    /// work if it is tried again.
    broken: Option<(usize, bool)>,
    /// What is true of all that failed, if any did.
    delivery: Option<Delivery>,
}

impl BatchOutcome {
    /// Of one part of `total` samples, which has these `places` in the whole: as seen from there.
    fn among_all(mut self, places: impl Iterator<Item = usize>, total: usize) -> Self {
        let Some((first_failed, _)) = &mut self.failure else {
            return Self { settled: total, ..self };
        };
        // Thousands may have been refused, so each is looked up and not searched for.
        let places = places.collect::<Vec<_>>();
        let broken = self.broken.iter_mut().map(|(reservation, _)| reservation);
        let first = [first_failed, &mut self.settled];
        let failed = self.refused.iter_mut().chain(&mut self.closed_on);
        for reservation in failed.chain(first).chain(broken) {
            *reservation = places.get(*reservation).copied().unwrap_or(total);
        }
        self
    }

    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.failure = earliest(self.failure.take(), other.failure);
        self.broken = earliest(self.broken, other.broken);
        self.delivery = Delivery::of_all(self.delivery.into_iter().chain(other.delivery));
        self.refused.extend(other.refused);
        self.closed_on.extend(other.closed_on);
        self.settled = self.settled.min(other.settled);
    }
}

fn earliest<T>(one: Option<(usize, T)>, other: Option<(usize, T)>) -> Option<(usize, T)> {
    [one, other].into_iter().flatten().min_by_key(|&(reservation, _)| reservation)
}

/// Stores each sample over the connection of its key, over all connections at once.
async fn store_by_key(
    pool: &Pool,
    samples: &[Sample],
    outcomes: Option<&Outcomes>,
) -> BatchOutcome {
    let shard_of = |sample: &Sample| pool.shard_of(sample.key.as_str()) as u16;
    let shards = &*samples.iter().map(shard_of).collect::<Box<[_]>>();
    let parts = pool.connections().iter().enumerate().map(|(number, shared)| async move {
        let places =
            || (0..samples.len()).filter(move |&index| usize::from(shards[index]) == number);
        let part = places().map(|index| &samples[index]);
        let track = outcomes.map(|outcomes| Track { outcomes, places: Some(places().collect()) });
        let stored = store(shared, part, places().count(), track).await;
        stored.among_all(places(), samples.len())
    });
    let mut parts = parts.map(Box::pin).collect::<Vec<_>>();
    let mut stored = BatchOutcome { settled: samples.len(), ..BatchOutcome::default() };
    poll_fn(|cx| {
        parts.retain_mut(|part| match part.as_mut().poll(cx) {
            Poll::Ready(part) => {
                stored.add(part);
                false
            }
            Poll::Pending => true,
        });
        if parts.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    stored
}

/// Stores the `number` samples over one connection.
async fn store<'a>(
    shared: &Arc<Shared>,
    mut samples: impl Iterator<Item = &'a Sample>,
    number: usize,
    track: Option<Track<'_>>,
) -> BatchOutcome {
    let mut batch = Batch::begin(shared, track);
    let mut puts = BytesMut::new();
    let mut accepted = 0;
    let mut failure = None;
    while accepted < number {
        let Some(room) = batch.room(accepted).await else {
            break;
        };
        let block = room.min(number - accepted);
        puts.clear();
        for Sample { key, point } in samples.by_ref().take(block) {
            protocol::encode_put(&mut puts, key.as_str(), *point);
        }
        if let Err(error) = batch.extend(accepted, block, &puts) {
            failure = Some((accepted, error));
            break;
        }
        accepted += block;
    }
    let progress = batch.finished().await;
    let left = failure.as_ref().map(|&(at, ref error)| (at, error.is_retryable()));
    let unsent = (accepted < number).then_some(Delivery::NotSent);
    BatchOutcome {
        acknowledged: progress.acknowledged,
        failure: progress.failure.or(failure),
        refused: progress.refused,
        closed_on: progress.closed_on,
        // What was never accepted is not settled either.
        settled: progress.broken.map_or(accepted, |(at, _)| at),
        broken: progress.broken.or(left),
        delivery: Delivery::of_all(progress.delivery.into_iter().chain(unsent)),
    }
}

/// A batch in the pipeline. Dropped, it withdraws what has not been sent.
struct Batch<'a> {
    shared: &'a Arc<Shared>,
    waiter: WaiterId,
    pace: SendWindow,
    outcomes: Option<&'a Outcomes>,
}

impl<'a> Batch<'a> {
    fn begin(shared: &'a Arc<Shared>, track: Option<Track<'a>>) -> Self {
        let mut pipeline = shared.pipeline();
        let pace = SendWindow::new(pipeline.request_timeout(), Instant::now());
        let waiter = pipeline.begin_batch();
        drop(pipeline);
        let outcomes = track.map(|Track { outcomes, places }| {
            if !outcomes.add_part(shared, waiter, places) {
                shared.cancel(waiter);
            }
            outcomes
        });
        Self { shared, waiter, pace, outcomes }
    }

    /// How many samples may be added to the `accepted`, once any may; `None` if adding more is of
    /// no use.
    async fn room(&mut self, accepted: usize) -> Option<usize> {
        poll_fn(|cx| {
            let mut pipeline = self.shared.pipeline();
            let window = self.pace.window.min(2 * pipeline.window()).max(pipeline.wanted_puts());
            let block = (window / 2).clamp(1, BLOCK_SAMPLES);
            let (progress, unneeded) = pipeline.poll_batch(self.waiter, window - block, cx.waker());
            let progress =
                progress.map(|progress| (progress.unfinished, progress.broken.is_some()));
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
        let Some(outcomes) = self.outcomes else { return self.shared.cancel(self.waiter) };
        let mut wakers = Vec::new();
        let _left = outcomes.end_part(self.shared, self.waiter, &mut wakers);
        wake_all(&mut wakers);
    }
}

/// How many samples of a batch may be without an answer, so that each can be answered before its
/// deadline, whatever the server takes for one.
///
/// Begins with a few and doubles as long as the server answers them in good time, as TCP does with
/// segments (RFC 5681, slow start).
#[derive(Debug)]
struct SendWindow {
    window: usize,
    limit: Duration,
    /// When the present window began, and how many samples had an outcome then.
    since: Instant,
    finished: usize,
}

impl SendWindow {
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
        let mut pace = SendWindow::new(Duration::from_secs(4), start);
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
