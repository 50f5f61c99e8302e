//! What the handles of a client and its driver share.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::{sync::watch, time::Instant};

use super::{
    connect::ConnectionState,
    pipeline::{Answer, Pipeline, Settings, Submitted, WaiterId},
};
use crate::error::Error;

#[derive(Debug)]
pub(super) struct Shared {
    pipeline: Mutex<Pipeline>,
    state: watch::Sender<ConnectionState>,
}

impl Shared {
    pub(super) fn new(settings: Settings, state: ConnectionState) -> Self {
        Self { pipeline: Mutex::new(Pipeline::new(settings)), state: watch::Sender::new(state) }
    }

    /// The pipeline. Held for moments, and never while a task is woken.
    #[inline]
    pub(super) fn pipeline(&self) -> MutexGuard<'_, Pipeline> {
        // No panic can leave the pipeline half changed: nothing foreign runs under the lock but
        // the cloning of wakers, which comes last in what it is part of. Wakers are woken and
        // dropped outside, for either can run a task, and that task can come back here.
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> &watch::Sender<ConnectionState> {
        &self.state
    }

    /// Hands a request to the pipeline, and returns the wait for its answer.
    #[inline]
    pub(super) fn submit(
        &self,
        request: impl FnOnce(&mut Pipeline, Instant) -> Result<Submitted, Error>,
    ) -> Result<Call<'_>, Error> {
        let now = Instant::now();
        let Submitted { waiter, driver } = request(&mut self.pipeline(), now)?;
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Call { shared: self, waiter: Some(waiter) })
    }

    /// The caller of `waiter` has left.
    pub(super) fn abandon(&self, waiter: WaiterId) {
        let mut wakers = Vec::new();
        let left_behind = self.pipeline().abandon(waiter, Instant::now(), &mut wakers);
        drop(left_behind);
        wake_all(&mut wakers);
    }
}

/// Wakes tasks, after the pipeline's lock has been released: a task may run at once, and want it.
#[inline]
pub(super) fn wake_all(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

/// The wait for one answer. Dropped before it is ready, it leaves the pipeline.
#[derive(Debug)]
pub(super) struct Call<'a> {
    shared: &'a Shared,
    /// `None` once there was an outcome.
    waiter: Option<WaiterId>,
}

impl Future for Call<'_> {
    type Output = Result<Answer, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(waiter) = self.waiter else {
            return Poll::Pending;
        };
        let (outcome, _unneeded) = self.shared.pipeline().poll(waiter, cx.waker());
        let outcome = ready!(outcome);
        self.waiter = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.shared.abandon(waiter);
        }
    }
}
