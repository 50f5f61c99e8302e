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

/// The outcomes of the samples of one `put_all`, in their order. They are known also if the future was dropped or
/// [cancelled](Self::cancel): a sample that had its response by then is not open.
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

/// The outcome of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "reporter"), expect(dead_code, reason = "a reporter alone asks"))]
pub(crate) enum SampleOutcome {
    /// It has no response.
    Open,
    Acknowledged,
    Rejected,
    /// The server closes the connection at it.
    ClosedOn,
}

/// The remains of a cancelled batch. Wakes tasks when it is dropped, so the caller must hold no lock.
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

    /// Cancels the samples that have not been sent, from any thread, whatever the batch's future is doing, and
    /// returns the outcomes. They are final: the future sends nothing more, is never ready and is not woken. Nothing is
    /// woken or dropped before the second value is dropped.
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

    /// Removes a part from its pipeline, and notes the outcomes of its samples. Does nothing if the
    /// batch has been cancelled. The tasks to wake are added to `wakers`.
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
        // Under the lock, so that no outcomes are seen of which only a part is noted.
        let slot = shared.remove(waiter, wakers);
        state.note(slot.as_ref(), part.indices.as_deref());
        slot
    }

    fn lock(&self) -> MutexGuard<'_, TrackedBatch> {
        // Locked before a pipeline. No foreign code runs under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrackedBatch {
    /// Notes the outcomes of the samples with these indices; without indices, of all samples.
    fn note(&mut self, slot: Option<&Slot>, indices: Option<&[usize]>) {
        let Some(progress) = slot.and_then(Slot::progress) else { return };
        let Progress { acknowledged, rejected, closed_on, interrupted, .. } = progress;
        let answered = acknowledged + rejected.len() + closed_on.len();
        // Responses come in order, so all samples before the first that failed for another reason have theirs.
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
