//! The outcome of each sample of a batch, and the batch's cancellation from any thread.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use super::{
    pipeline::{Progress, Slot, WaiterId},
    shared::Shared,
};
#[cfg(feature = "reporter")]
use crate::wake::wake_all;

/// Tracks the samples of one `put_all`, in the order of the samples. Their outcomes are known also where
/// the future was dropped or [cancelled](Self::cancel): what was answered by then is not open.
#[derive(Debug)]
pub(crate) struct Outcomes(Mutex<TrackedBatch>);

#[derive(Debug)]
struct TrackedBatch {
    outcomes: Box<[SampleOutcome]>,
    /// The parts of the batch that are in a pipeline, one for each connection.
    parts: Vec<Part>,
    is_cancelled: bool,
}

#[derive(Debug)]
struct Part {
    shared: Arc<Shared>,
    waiter: WaiterId,
    /// The indices of its samples in the whole, if it is not the whole.
    indices: Option<Vec<usize>>,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "reporter"), expect(dead_code, reason = "a reporter alone asks"))]
pub(crate) enum SampleOutcome {
    /// It was not answered.
    Open,
    Acknowledged,
    Rejected,
    /// The server closes the connection at it.
    ClosedOn,
}

/// What a cancelled batch has left behind. Wakes tasks when it is dropped, so the caller holds no lock.
#[cfg(feature = "reporter")]
#[derive(Debug, Default)]
#[must_use = "tasks are woken when it is dropped"]
pub(crate) struct CancelledBatch {
    wakers: Vec<Waker>,
    parts: Vec<(Part, Option<Slot>)>,
}

impl Outcomes {
    /// Creates the outcomes of `samples` samples, all of them open.
    #[cfg(feature = "reporter")]
    pub(crate) fn new(samples: usize) -> Self {
        let outcomes = vec![SampleOutcome::Open; samples].into();
        Self(Mutex::new(TrackedBatch { outcomes, parts: Vec::new(), is_cancelled: false }))
    }

    /// Returns the outcomes that are known by now.
    #[cfg(feature = "reporter")]
    pub(crate) fn get(&self) -> Box<[SampleOutcome]> {
        self.lock().outcomes.clone()
    }

    /// Withdraws the samples that have not been sent, from any thread, whatever the batch's future does
    /// at the moment, and returns the outcomes. They are final: from now on the future sends nothing, is
    /// never ready and is not woken. Nothing is woken or dropped before the second value is dropped.
    #[cfg(feature = "reporter")]
    pub(crate) fn cancel(&self) -> (Box<[SampleOutcome]>, CancelledBatch) {
        let mut left = CancelledBatch::default();
        let mut state = self.lock();
        state.is_cancelled = true;
        for part in std::mem::take(&mut state.parts) {
            let slot = part.shared.remove(part.waiter, &mut left.wakers);
            state.note(slot.as_ref(), part.indices.as_deref());
            left.parts.push((part, slot));
        }
        (state.outcomes.clone(), left)
    }

    /// Adds a part that has begun in a pipeline. Returns false if the batch has been cancelled.
    pub(super) fn add_part(
        &self,
        shared: &Arc<Shared>,
        waiter: WaiterId,
        indices: Option<Vec<usize>>,
    ) -> bool {
        let mut state = self.lock();
        if !state.is_cancelled {
            state.parts.push(Part { shared: Arc::clone(shared), waiter, indices });
        }
        !state.is_cancelled
    }

    /// Removes a part from its pipeline, and notes how far its samples have come. Does nothing if the
    /// batch has been cancelled. Whom to wake is added to `wakers`.
    pub(super) fn end_part(
        &self,
        shared: &Shared,
        waiter: WaiterId,
        wakers: &mut Vec<Waker>,
    ) -> Option<Slot> {
        let mut state = self.lock();
        let is_it = |part: &Part| std::ptr::eq(&*part.shared, shared) && part.waiter == waiter;
        let index = state.parts.iter().position(is_it)?;
        let part = state.parts.swap_remove(index);
        // Under the lock, so that the outcomes of a batch that is not cancelled are never half noted.
        let slot = shared.remove(waiter, wakers);
        state.note(slot.as_ref(), part.indices.as_deref());
        slot
    }

    fn lock(&self) -> MutexGuard<'_, TrackedBatch> {
        // Locked before a pipeline. Nothing foreign runs under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrackedBatch {
    /// Notes how far the samples of these indices have come; without indices, all samples.
    fn note(&mut self, slot: Option<&Slot>, indices: Option<&[usize]>) {
        let Some(progress) = slot.and_then(Slot::progress) else { return };
        let Progress { acknowledged, rejected, closed_on, interrupted, .. } = progress;
        let answered = acknowledged + rejected.len() + closed_on.len();
        // Answers come in order, so all before the first that failed for another reason have theirs.
        let settled = interrupted.map_or(answered, |(index, _)| index);
        let mut set = |index: usize, outcome| {
            let index = indices.map_or(Some(index), |indices| indices.get(index).copied());
            if let Some(known) = index.and_then(|index| self.outcomes.get_mut(index)) {
                *known = outcome;
            }
        };
        (0..settled).for_each(|index| set(index, SampleOutcome::Acknowledged));
        let failed = [(rejected, SampleOutcome::Rejected), (closed_on, SampleOutcome::ClosedOn)];
        for (failed, outcome) in failed {
            let failed = failed.iter().filter(|&&index| index < settled);
            failed.for_each(|&index| set(index, outcome));
        }
    }
}

#[cfg(feature = "reporter")]
impl Drop for CancelledBatch {
    fn drop(&mut self) {
        wake_all(&mut self.wakers);
    }
}
