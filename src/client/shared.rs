//! What the handles of a client and the driver of a connection share.

use std::{
    future::{Future, poll_fn},
    ops::Deref,
    pin::pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    task::{coop, yield_now},
    time::Instant,
};

use super::{
    pipeline::{AckWatermark, Answer, Kind, Pipeline, Slot, Submitted, WaiterId},
    settings::Settings,
    state::{ConnectionState, StateTracker},
    sync::{Mutex, MutexGuard},
};
pub(super) use crate::wake::wake_all;
use crate::{error::Error, metric::Metrics, wake::survives};

#[derive(Debug)]
pub(super) struct Shared {
    pipeline: Mutex<Pipeline>,
    settled: Arc<AckWatermark>,
    /// Where all connections of the client stand, and which of them this one is.
    state: Arc<StateTracker>,
    number: usize,
}

impl Shared {
    pub(super) fn new(settings: Settings, state: Arc<StateTracker>, number: usize) -> Self {
        let pipeline = Pipeline::new(settings);
        let settled = Arc::clone(pipeline.settled());
        Self { pipeline: Mutex::new(pipeline), settled, state, number }
    }

    /// The pipeline. Held for moments, and never while a task is woken.
    #[inline]
    pub(super) fn pipeline(&self) -> MutexGuard<'_, Pipeline> {
        // No panic can leave the pipeline half changed: nothing foreign runs under the lock but
        // the cloning of wakers, which comes last in what it is part of. Wakers are woken and
        // dropped outside, for either can run a task, and that task can come back here.
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: ConnectionState) {
        // Wakes those who watch the state.
        survives(|| self.state.set(self.number, state));
    }

    /// Takes no more requests. What has been accepted is served.
    pub(super) fn close(&self) {
        let mut wakers = Vec::new();
        let mut pipeline = self.pipeline();
        wakers.extend(pipeline.close());
        pipeline.cancel_reservations(&mut wakers);
        drop(pipeline);
        wake_all(&mut wakers);
    }

    /// Hands a request to the pipeline, and waits for its answer.
    ///
    /// The task's waker goes in with the request, so that a call takes the lock twice: once to ask,
    /// once to take the answer.
    #[inline]
    pub(super) async fn call(
        &self,
        kind: Kind,
        request: impl FnOnce(&mut Pipeline, Waker, Instant) -> Result<Submitted, Error>,
    ) -> Result<Answer, Error> {
        let mut request = Some(request);
        let mut call = Call::new(self, kind);
        poll_fn(|cx| {
            let Some(request) = request.take() else {
                return call.poll(cx);
            };
            let (waker, now) = (cx.waker().clone(), Instant::now());
            let submitted = request(&mut self.pipeline(), waker, now);
            match submitted {
                Ok(submitted) => call.begin(submitted),
                Err(error) => return Poll::Ready(Err(error)),
            }
            Poll::Pending
        })
        .await
    }

    /// The caller of `waiter` has left.
    pub(super) fn cancel(&self, waiter: WaiterId) {
        let mut wakers = Vec::new();
        let _left = self.remove(waiter, &mut wakers);
        wake_all(&mut wakers);
    }

    /// As [`cancel`](Self::cancel), but whom to wake is added to `wakers`, and what the caller leaves
    /// behind is returned: both are for when the caller of this holds no lock.
    pub(super) fn remove(&self, waiter: WaiterId, wakers: &mut Vec<Waker>) -> Option<Slot> {
        self.pipeline().cancel(waiter, Instant::now(), wakers)
    }
}

/// Has a call that fails take part in Tokio's cooperative budget. It may fail without having waited for
/// anything; a task that then calls again at once would never let another one run, nor its runtime end.
#[inline]
pub(super) async fn cooperative<T>(
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = call.await;
    if outcome.is_err() {
        coop::consume_budget().await;
    }
    outcome
}

/// Takes one from the task's budget, as [`cooperative`] does; pending if none is left, until the next turn
/// of the task.
#[cfg(feature = "tower")]
pub(super) fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    pin!(coop::consume_budget()).poll(cx)
}

/// The wait for one answer. Dropped before it is ready, it leaves the pipeline.
#[derive(Debug)]
pub(super) struct Call<S: Deref<Target = Shared>> {
    shared: S,
    kind: Kind,
    /// `None` before there was a request, and once there was an outcome.
    waiter: Option<WaiterId>,
    /// An answer that is being sorted.
    sorting: Option<Metrics>,
}

impl<S: Deref<Target = Shared>> Call<S> {
    #[inline]
    pub(super) fn new(shared: S, kind: Kind) -> Self {
        Self { shared, kind, waiter: None, sorting: None }
    }

    /// Waits for the outcome of the request that has been accepted.
    #[inline]
    pub(super) fn begin(&mut self, Submitted { waiter, driver }: Submitted) {
        self.waiter = Some(waiter);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        let Some(waiter) = self.waiter else {
            return self.poll_sorted(cx);
        };
        if self.kind == Kind::Put && self.shared.settled.is_acked(waiter) {
            self.waiter = None;
            return Poll::Ready(Ok(Answer::Stored));
        }
        let (outcome, _unneeded) = self.shared.pipeline().poll(waiter, cx.waker());
        let outcome = ready!(outcome);
        self.waiter = None;
        if let Ok(Answer::Found(metrics)) = outcome {
            self.sorting = Some(metrics);
            return self.poll_sorted(cx);
        }
        Poll::Ready(outcome)
    }

    /// Sorts what has been found, in the caller's task: the driver serves other callers too.
    fn poll_sorted(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if self.sorting.as_mut().is_some_and(|metrics| !metrics.sort_some()) {
            // Polled once, it has told the runtime.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        self.sorting.take().map_or(Poll::Pending, |metrics| Poll::Ready(Ok(Answer::Found(metrics))))
    }
}

impl<S: Deref<Target = Shared>> Drop for Call<S> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.shared.cancel(waiter);
        }
    }
}
