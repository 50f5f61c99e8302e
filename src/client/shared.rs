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

    /// Returns a future that submits a request when it is first polled, and waits for its response.
    ///
    /// `submit` gets the task's waker to the pipeline with the request, so a call takes the lock once to ask,
    /// and most often not at all for the response. The future is kept small, for an agent can have thousands
    /// of them: with 1,024 callers, futures of 840 bytes instead of 200 took a tenth of the rate.
    #[inline]
    pub(super) fn call<F>(
        &self,
        kind: Kind,
        submit: F,
    ) -> impl Future<Output = Result<Answer, Error>>
    where
        F: FnOnce(&Self, &Context<'_>) -> Result<Submitted, Error>,
    {
        let mut submit = Some(submit);
        let mut call = Call::new(self, kind);
        poll_fn(move |cx| {
            let Some(submit) = submit.take() else {
                return call.poll(cx);
            };
            match submit(self, cx) {
                Ok(submitted) => call.begin(submitted),
                Err(error) => {
                    call.fail(error);
                    return call.poll(cx);
                }
            }
            Poll::Pending
        })
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
pub(super) fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    pin!(coop::consume_budget()).poll(cx)
}

/// The wait for one answer. Dropped before it is ready, it leaves the pipeline.
#[derive(Debug)]
pub(super) struct Call<S: Deref<Target = Shared>> {
    shared: S,
    kind: Kind,
    state: CallState,
}

#[derive(Debug)]
enum CallState {
    /// There was no request yet, or there was an outcome.
    Idle,
    Waiting(WaiterId),
    /// A response that is being sorted.
    Sorting(Box<Metrics>),
    /// An error that is returned once the task's budget allows it: the call may have failed without having
    /// waited for anything, and a task that then calls again at once would never let another one run.
    Failed(Box<Error>),
}

impl<S: Deref<Target = Shared>> Call<S> {
    #[inline]
    pub(super) fn new(shared: S, kind: Kind) -> Self {
        Self { shared, kind, state: CallState::Idle }
    }

    /// Waits for the outcome of the request that has been accepted.
    #[inline]
    pub(super) fn begin(&mut self, Submitted { waiter, driver }: Submitted) {
        self.state = CallState::Waiting(waiter);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// The request was not accepted.
    #[cold]
    pub(super) fn fail(&mut self, error: Error) {
        self.state = CallState::Failed(Box::new(error));
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        let CallState::Waiting(waiter) = self.state else {
            return self.poll_decided(cx);
        };
        if self.kind == Kind::Put && self.shared.settled.is_acked(waiter) {
            self.state = CallState::Idle;
            return Poll::Ready(Ok(Answer::Stored));
        }
        let (outcome, _unneeded) = self.shared.pipeline().poll(waiter, cx.waker());
        self.state = match ready!(outcome) {
            Ok(Answer::Stored) => {
                self.state = CallState::Idle;
                return Poll::Ready(Ok(Answer::Stored));
            }
            Ok(Answer::Found(metrics)) => CallState::Sorting(Box::new(metrics)),
            Err(error) => CallState::Failed(Box::new(error)),
        };
        self.poll_decided(cx)
    }

    /// Sorts what has been found, in the caller's task: the driver serves other callers too. Or fails.
    #[cold]
    fn poll_decided(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        match &mut self.state {
            CallState::Sorting(metrics) => {
                if !metrics.sort_some() {
                    // Polled once, it has told the runtime.
                    let _ = pin!(yield_now()).poll(cx);
                    return Poll::Pending;
                }
            }
            CallState::Failed(_) => ready!(poll_budget(cx)),
            CallState::Idle | CallState::Waiting(_) => {}
        }
        match std::mem::replace(&mut self.state, CallState::Idle) {
            CallState::Sorting(metrics) => Poll::Ready(Ok(Answer::Found(*metrics))),
            CallState::Failed(error) => Poll::Ready(Err(*error)),
            CallState::Idle | CallState::Waiting(_) => Poll::Pending,
        }
    }
}

impl<S: Deref<Target = Shared>> Drop for Call<S> {
    fn drop(&mut self) {
        if let CallState::Waiting(waiter) = self.state {
            self.shared.cancel(waiter);
        }
    }
}
