//! What the handles of a client and the driver of a connection share.

use std::{
    future::poll_fn,
    ops::Deref,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::time::Instant;

use super::{
    connect::ConnectionState,
    pipeline::{Answer, Kind, Pipeline, Progress, Settings, Settled, Slot, Submitted, WaiterId},
    standing::Standing,
    sync::{Mutex, MutexGuard},
};
use crate::error::Error;

#[derive(Debug)]
pub(super) struct Shared {
    pipeline: Mutex<Pipeline>,
    settled: Arc<Settled>,
    /// Where all connections of the client stand, and which of them this one is.
    standing: Arc<Standing>,
    number: usize,
}

impl Shared {
    pub(super) fn new(settings: Settings, standing: Arc<Standing>, number: usize) -> Self {
        let pipeline = Pipeline::new(settings);
        let settled = Arc::clone(pipeline.settled());
        Self { pipeline: Mutex::new(pipeline), settled, standing, number }
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
        self.standing.set(self.number, state);
    }

    /// Takes no more requests. What has been accepted is served.
    pub(super) fn close(&self) {
        let mut wakers = Vec::new();
        let mut pipeline = self.pipeline();
        wakers.extend(pipeline.close());
        pipeline.dismiss(&mut wakers);
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

    /// The caller of `waiter` has left. Returns how far it had come, if it was a batch.
    pub(super) fn abandon(&self, waiter: WaiterId) -> Option<Progress> {
        let mut wakers = Vec::new();
        let left_behind = self.pipeline().abandon(waiter, Instant::now(), &mut wakers);
        let progress = left_behind.and_then(Slot::into_progress);
        wake_all(&mut wakers);
        progress
    }
}

/// Wakes tasks, after the pipeline's lock has been released: a task may run at once, and want it.
#[inline]
pub(super) fn wake_all(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

/// The wait for one answer. Dropped before it is ready, it leaves the pipeline.
#[derive(Debug)]
pub(super) struct Call<S: Deref<Target = Shared>> {
    shared: S,
    kind: Kind,
    /// `None` before there was a request, and once there was an outcome.
    waiter: Option<WaiterId>,
}

impl<S: Deref<Target = Shared>> Call<S> {
    #[inline]
    pub(super) fn new(shared: S, kind: Kind) -> Self {
        Self { shared, kind, waiter: None }
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
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Answer, Error>> {
        let Some(waiter) = self.waiter else {
            return Poll::Pending;
        };
        if self.kind == Kind::Put && self.shared.settled.has_stored(waiter) {
            self.waiter = None;
            return Poll::Ready(Ok(Answer::Stored));
        }
        let (outcome, _unneeded) = self.shared.pipeline().poll(waiter, cx.waker());
        let outcome = ready!(outcome);
        self.waiter = None;
        Poll::Ready(outcome)
    }
}

impl<S: Deref<Target = Shared>> Drop for Call<S> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.shared.abandon(waiter);
        }
    }
}
