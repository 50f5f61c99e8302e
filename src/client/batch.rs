//! `put_all`: blocks of puts, paced by the server's answers.

use std::{
    borrow::Borrow,
    future::{Future, poll_fn},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{task::coop, time::Instant};

use super::{
    outcomes::Outcomes,
    pipeline::{Progress, WaiterId},
    pool::Pool,
    send_window::SendWindow,
    settings::CallTimeout,
    shared::{Shared, wake_all},
};
use crate::{
    error::{BatchError, Delivery, Error},
    metric::Sample,
    protocol::{self, NonFiniteValue},
};

/// How many samples become one entry of the pipeline: enough that the cost of an entry does not
/// count, few enough that requests of other callers get between them.
pub(super) const BLOCK_SAMPLES: usize = 512;

pub(super) async fn put_all<S: Borrow<Sample>>(
    pool: &Pool,
    timeout: Option<CallTimeout>,
    samples: &[S],
    outcomes: Option<&Outcomes>,
) -> Result<(), Error> {
    if samples.is_empty() {
        coop::consume_budget().await;
    }
    for sample in samples {
        let Sample { key, point } = sample.borrow();
        NonFiniteValue::ensure_finite(key, point.value)?;
    }
    let outcome = match pool.connections() {
        [only] => {
            let track = outcomes.map(|outcomes| Track { outcomes, indices: None });
            store(only, timeout, samples.iter().map(Borrow::borrow), samples.len(), track).await
        }
        _ => store_by_key(pool, timeout, samples, outcomes).await,
    };
    outcome.into_result(samples.len(), 0)
}

/// Where a part of a batch notes the outcomes of its samples when it ends, however it ends; and through
/// which it can be cancelled.
pub(super) struct Track<'a> {
    outcomes: &'a Outcomes,
    /// The indices of its samples in the whole, if it is not the whole.
    indices: Option<Vec<usize>>,
}

/// The outcome of a number of samples.
#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    pub(super) acknowledged: usize,
    /// The index of the first sample that failed, and why.
    pub(super) failure: Option<(usize, Error)>,
    /// The indices of the samples that the server rejected.
    pub(super) rejected: Vec<usize>,
    /// The indices of the samples at which the server closes the connection.
    pub(super) closed_on: Vec<usize>,
    /// All samples before this index were acknowledged or rejected, or are in `closed_on`.
    pub(super) settled: usize,
    /// The index of the first sample that failed for another reason than a rejection, and whether that failure is
    /// retryable.
    pub(super) interrupted: Option<(usize, bool)>,
    /// What holds for all samples that failed, if any did.
    pub(super) delivery: Option<Delivery>,
}

impl BatchOutcome {
    /// Translates the indices of a part of `total` samples, which has these `indices` in the whole.
    pub(super) fn into_global_indices(
        mut self,
        indices: impl Iterator<Item = usize>,
        total: usize,
    ) -> Self {
        if self.delivery.is_none() {
            // None failed.
            return Self { settled: total, ..self };
        }
        // Thousands may have been rejected, so each is looked up and not searched for.
        let indices = indices.collect::<Vec<_>>();
        self.map_indices(|index| indices.get(index).copied().unwrap_or(total));
        self
    }

    /// Translates the indices of samples that follow `before` others.
    pub(super) fn shift(&mut self, before: usize) {
        self.map_indices(|index| before + index);
    }

    fn map_indices(&mut self, map: impl Fn(usize) -> usize) {
        let failure = self.failure.iter_mut().map(|(index, _)| index);
        let interrupted = self.interrupted.iter_mut().map(|(index, _)| index);
        let failed = self.rejected.iter_mut().chain(&mut self.closed_on);
        for index in failed.chain(failure).chain(interrupted).chain([&mut self.settled]) {
            *index = map(*index);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.failure = first_by_index(self.failure.take(), other.failure);
        self.interrupted = first_by_index(self.interrupted, other.interrupted);
        self.delivery = Delivery::of_all(self.delivery.into_iter().chain(other.delivery));
        self.rejected.extend(other.rejected);
        self.closed_on.extend(other.closed_on);
        self.settled = self.settled.min(other.settled);
    }

    /// Fails if one of the `total` samples failed. `rejected` of those before the rest were rejected too.
    pub(super) fn into_result(mut self, total: usize, rejected: usize) -> Result<(), Error> {
        let Some((first_failed, error)) = self.failure else {
            return Ok(());
        };
        self.closed_on.retain(|&index| index < self.settled);
        self.closed_on.sort_unstable();
        Err(Error::Batch(Arc::new(BatchError {
            acknowledged: self.acknowledged,
            total,
            first_failed,
            settled: self.settled,
            rejected: rejected
                + self.rejected.into_iter().filter(|&index| index < self.settled).count(),
            closed_on: self.closed_on,
            delivery: self.delivery.filter(|_| self.acknowledged == 0).unwrap_or(Delivery::Unknown),
            retryable: self.interrupted.is_some_and(|(_, retryable)| retryable),
            error,
        })))
    }
}

pub(super) fn first_by_index<T>(
    one: Option<(usize, T)>,
    other: Option<(usize, T)>,
) -> Option<(usize, T)> {
    [one, other].into_iter().flatten().min_by_key(|&(index, _)| index)
}

/// Stores each sample over the connection of its key, over all connections concurrently.
async fn store_by_key<S: Borrow<Sample>>(
    pool: &Pool,
    timeout: Option<CallTimeout>,
    samples: &[S],
    outcomes: Option<&Outcomes>,
) -> BatchOutcome {
    let shard_of = |sample: &S| pool.shard_of(sample.borrow().key.as_str()) as u16;
    let shards = &*samples.iter().map(shard_of).collect::<Box<[_]>>();
    let parts = pool.connections().iter().enumerate().map(|(shard, shared)| async move {
        let indices =
            || (0..samples.len()).filter(move |&index| usize::from(shards[index]) == shard);
        let part = indices().map(|index| samples[index].borrow());
        let track = outcomes.map(|outcomes| Track { outcomes, indices: Some(indices().collect()) });
        let outcome = store(shared, timeout, part, indices().count(), track).await;
        outcome.into_global_indices(indices(), samples.len())
    });
    let mut parts = parts.map(Box::pin).collect::<Vec<_>>();
    let mut outcome = BatchOutcome { settled: samples.len(), ..BatchOutcome::default() };
    poll_fn(|cx| {
        parts.retain_mut(|part| match part.as_mut().poll(cx) {
            Poll::Ready(part) => {
                outcome.add(part);
                false
            }
            Poll::Pending => true,
        });
        if parts.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outcome
}

/// Stores `total` samples over one connection.
async fn store<'a>(
    shared: &Arc<Shared>,
    timeout: Option<CallTimeout>,
    mut samples: impl Iterator<Item = &'a Sample>,
    total: usize,
    track: Option<Track<'_>>,
) -> BatchOutcome {
    let mut batch = Batch::open(shared, timeout, track);
    let mut puts = BytesMut::new();
    let mut accepted = 0;
    let mut failure = None;
    while accepted < total {
        let Some(capacity) = poll_fn(|cx| batch.poll_capacity(accepted, cx)).await else {
            break;
        };
        let block = capacity.min(total - accepted);
        puts.clear();
        for Sample { key, point } in samples.by_ref().take(block) {
            protocol::encode_put(&mut puts, key.as_str(), *point);
        }
        if let Err(error) = batch.push_block(accepted, block, &puts) {
            failure = Some((accepted, error));
            break;
        }
        accepted += block;
    }
    let progress = poll_fn(|cx| batch.poll_complete(cx)).await;
    BatchOutcome::of(progress, accepted, total, failure)
}

impl BatchOutcome {
    /// Returns the outcome of a batch of `total` samples of which `accepted` were queued, and why the next one was
    /// not.
    pub(super) fn of(
        progress: Progress,
        accepted: usize,
        total: usize,
        failure: Option<(usize, Error)>,
    ) -> Self {
        let left = failure.as_ref().map(|&(index, ref error)| (index, error.is_retryable()));
        let unsent = (accepted < total).then_some(Delivery::NotSent);
        Self {
            acknowledged: progress.acknowledged,
            failure: progress.failure.or(failure),
            rejected: progress.rejected,
            closed_on: progress.closed_on,
            // What was never accepted is not settled either.
            settled: progress.interrupted.map_or(accepted, |(index, _)| index),
            interrupted: progress.interrupted.or(left),
            delivery: Delivery::of_all(progress.delivery.into_iter().chain(unsent)),
        }
    }
}

/// A batch in the pipeline of one connection. Dropped, it cancels what has not been sent.
pub(super) struct Batch<'a> {
    shared: Arc<Shared>,
    timeout: Option<CallTimeout>,
    waiter: WaiterId,
    window: SendWindow,
    outcomes: Option<&'a Outcomes>,
}

impl<'a> Batch<'a> {
    pub(super) fn open(
        shared: &Arc<Shared>,
        timeout: Option<CallTimeout>,
        track: Option<Track<'a>>,
    ) -> Self {
        let mut pipeline = shared.pipeline();
        let limit = timeout.map_or_else(|| pipeline.request_timeout(), CallTimeout::get);
        let window = SendWindow::new(limit, Instant::now());
        let waiter = pipeline.open_batch();
        drop(pipeline);
        let outcomes = track.map(|Track { outcomes, indices }| {
            if !outcomes.add_part(shared, waiter, indices) {
                shared.cancel(waiter);
            }
            outcomes
        });
        Self { shared: Arc::clone(shared), timeout, waiter, window, outcomes }
    }

    /// Returns how many samples may follow the `accepted` ones, once any may; `None` if the batch is
    /// interrupted, so that adding more is of no use.
    pub(super) fn poll_capacity(
        &mut self,
        accepted: usize,
        cx: &Context<'_>,
    ) -> Poll<Option<usize>> {
        let mut pipeline = self.shared.pipeline();
        let window = self.window.samples().min(2 * pipeline.window()).max(pipeline.wanted_puts());
        let block = (window / 2).clamp(1, BLOCK_SAMPLES);
        let (progress, unneeded) = pipeline.poll_batch(self.waiter, window - block, cx.waker());
        let progress =
            progress.map(|progress| (progress.outstanding, progress.interrupted.is_some()));
        drop(pipeline);
        drop(unneeded);
        let (outstanding, interrupted) = ready!(progress);
        self.window.on_progress(accepted - outstanding, window, Instant::now());
        Poll::Ready((!interrupted).then_some(block))
    }

    pub(super) fn push_block(
        &self,
        index: usize,
        samples: usize,
        puts: &[u8],
    ) -> Result<(), Error> {
        let (timeout, now) = (self.timeout, Instant::now());
        let mut pipeline = self.shared.pipeline();
        let driver = pipeline.extend_batch(self.waiter, index, samples, puts, timeout, now)?;
        drop(pipeline);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// Returns the progress once everything that was accepted has an outcome.
    fn poll_complete(&self, cx: &Context<'_>) -> Poll<Progress> {
        let mut pipeline = self.shared.pipeline();
        let (progress, unneeded) = pipeline.poll_batch(self.waiter, 0, cx.waker());
        let progress = progress.map(|progress| progress.clone());
        drop(pipeline);
        drop(unneeded);
        progress
    }
}

impl Batch<'_> {
    /// Ready once everything that was accepted has an outcome.
    pub(super) fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        let mut pipeline = self.shared.pipeline();
        let (progress, unneeded) = pipeline.poll_batch(self.waiter, 0, cx.waker());
        let drained = progress.map(drop);
        drop(pipeline);
        drop(unneeded);
        drained
    }

    /// Returns the progress, and starts to count again with the same window. Everything that was accepted must have an
    /// outcome.
    pub(super) fn restart(&mut self, now: Instant) -> Progress {
        self.window.restart(now);
        self.shared.pipeline().take_progress(self.waiter)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let Some(outcomes) = self.outcomes else { return self.shared.cancel(self.waiter) };
        let mut wakers = Vec::new();
        let _left = outcomes.end_part(&self.shared, self.waiter, &mut wakers);
        wake_all(&mut wakers);
    }
}
