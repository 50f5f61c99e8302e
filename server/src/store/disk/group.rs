//! A group of batches that become one record of the log, and its callers.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use metrics_client::internal::wake::wake_each;

use crate::store::{PutBatch, StoreError};

/// Batches that are written as one record. If it is dropped before it is completed, the store is closed.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) puts: PutBatch,
    completion: Arc<GroupCompletion>,
}

impl Group {
    /// Creates a group without batches, in the memory of `puts`.
    pub(super) fn new(puts: PutBatch) -> Self {
        Self { puts, completion: Arc::default() }
    }

    /// Adds a batch.
    pub(super) fn add(&mut self, puts: &PutBatch) -> Committed {
        self.puts.append(puts);
        self.completion.state().waiting += 1;
        Committed { completion: Arc::clone(&self.completion), waker: None }
    }

    /// Returns true if all callers were dropped.
    pub(super) fn is_abandoned(&self) -> bool {
        self.completion.state().waiting == 0
    }

    /// Wakes all callers with the outcome. Returns the puts.
    pub(super) fn complete(mut self, outcome: Result<(), StoreError>) -> PutBatch {
        self.completion.complete(outcome);
        std::mem::take(&mut self.puts)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.completion.complete(Err(closed()));
    }
}

#[derive(Debug, Default)]
struct GroupCompletion(Mutex<GroupCompletionState>);

#[derive(Debug, Default)]
struct GroupCompletionState {
    outcome: Option<Result<(), StoreError>>,
    wakers: Vec<Option<Waker>>,
    /// How many callers wait.
    waiting: usize,
}

impl GroupCompletion {
    fn state(&self) -> MutexGuard<'_, GroupCompletionState> {
        // No panic can leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the outcome, unless there is one.
    fn complete(&self, outcome: Result<(), StoreError>) {
        let mut state = self.state();
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wake_each(wakers.into_iter().flatten());
    }
}

/// Waits until a batch is committed.
#[derive(Debug)]
pub(super) struct Committed {
    completion: Arc<GroupCompletion>,
    /// The index of its waker.
    waker: Option<usize>,
}

impl Future for Committed {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { completion, waker } = &mut *self;
        let mut state = completion.state();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        let index = *waker.get_or_insert_with(|| {
            state.wakers.push(None);
            state.wakers.len() - 1
        });
        let before = match &mut state.wakers[index] {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            waker => waker.replace(cx.waker().clone()),
        };
        drop(state);
        // Not under the lock.
        drop(before);
        Poll::Pending
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        let mut state = self.completion.state();
        state.waiting -= 1;
        let waker = self.waker.and_then(|index| state.wakers.get_mut(index)?.take());
        drop(state);
        drop(waker);
    }
}

/// Returns what batches fail with when the store is closed.
pub(super) fn closed() -> StoreError {
    StoreError::transient("store closed")
}
