//! The calls that wait for an outcome: one slot for each.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
};

use slab::Slab;

use crate::{
    client::sync::{AtomicU64, AtomicUsize, Ordering},
    error::{Delivery, Error},
    metric::Metrics,
};

/// Identifies a call, by its slot and its sequence number.
///
/// The sequence number is an ABA guard: the slot of a put is free as soon as the put is stored, and can have
/// another call by the time that the caller looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct WaiterId {
    slot: usize,
    seq: u64,
}

/// The outcome of a request that succeeded.
#[derive(Debug)]
pub(in crate::client) enum Reply {
    Stored,
    Found(Metrics),
}

/// The progress of a batch of puts.
#[derive(Clone, Debug, Default)]
pub(in crate::client) struct Progress {
    /// How many of its requests have been accepted and have no outcome yet.
    pub(in crate::client) outstanding: usize,
    pub(in crate::client) acknowledged: usize,
    /// The index of the first request that failed, and why.
    pub(in crate::client) failure: Option<(usize, Error)>,
    /// The index of the first request that failed for another reason than a rejection, and whether the
    /// failure is retryable: the rest of the batch would fail for the same reason.
    pub(in crate::client) interrupted: Option<(usize, bool)>,
    /// What holds for all requests that failed, if any did.
    pub(in crate::client) delivery: Option<Delivery>,
    /// The indices of the requests that the server rejected.
    pub(in crate::client) rejected: Vec<usize>,
    /// The indices of the requests at which the server closes the connection.
    pub(in crate::client) closed_on: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// One slab takes new calls. The other one is empty, or has calls from before the end of a burst: one of
    /// them in the last slot would keep the memory of all.
    slabs: [Slab<Slot>; 2],
    current: usize,
    watermark: Arc<AckWatermark>,
}

/// How far requests are acknowledged, to be read without the pipeline's lock.
///
/// Responses come in the order of the requests, so one number tells every put that waits if its
/// response has come, and nearly all responses acknowledge. On a cache line of its own: the driver
/// writes it once for all the responses that it has read, and every caller reads it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::client) struct AckWatermark {
    /// Every request before this one has its outcome.
    next_unacked: AtomicU64,
    /// How many errors have not been picked up by their callers.
    unclaimed_errors: AtomicUsize,
}

impl AckWatermark {
    /// Returns true if this put is known to be stored. If not, the pipeline knows its outcome.
    #[inline]
    pub(in crate::client) fn is_acked(&self, put: WaiterId) -> bool {
        // An error is counted before the watermark passes its request, both under the lock: a caller that sees
        // the watermark sees the error too.
        put.seq < self.next_unacked.load(Ordering::Acquire)
            && self.unclaimed_errors.load(Ordering::Relaxed) == 0
    }
}

/// What the pipeline stores for a call.
#[derive(Debug)]
pub(in crate::client) struct Slot {
    /// The task to wake.
    waker: Option<Waker>,
    /// Its entry, if it has one.
    seq: u64,
    call: SlotState,
}

impl Slot {
    /// Returns the waker of its task.
    pub(super) fn into_waker(self) -> Option<Waker> {
        self.waker
    }

    /// Returns the progress of its batch, if it was one.
    pub(in crate::client) fn progress(&self) -> Option<&Progress> {
        match &self.call {
            SlotState::Batch(batch) => Some(&batch.progress),
            SlotState::One(_) => None,
        }
    }
}

/// Kept small, for there is one for each put in flight; most puts never need what is in the boxes.
#[derive(Debug)]
pub(super) enum SlotState {
    One(Option<Box<Result<Reply, Error>>>),
    Batch(Box<BatchState>),
}

#[derive(Debug, Default)]
pub(super) struct BatchState {
    progress: Progress,
    /// The task is woken when no more than this many requests are outstanding.
    wake_at: usize,
    /// Its entries, in order, from the first that has an open request.
    entries: VecDeque<u64>,
}

impl Waiters {
    /// Adds a call: one request, which is the entry `seq`, or a batch that has no request yet.
    #[inline]
    pub(super) fn add(&mut self, seq: u64, waker: Option<Waker>, call: SlotState) -> WaiterId {
        let slot = self.slabs[self.current].insert(Slot { waker, seq, call });
        WaiterId { slot: slot * 2 + self.current, seq }
    }

    /// Returns true until the call has left.
    pub(super) fn contains(&mut self, id: WaiterId) -> bool {
        self.get_mut(id).is_some()
    }

    pub(super) fn capacity(&self) -> usize {
        self.slabs.iter().map(Slab::capacity).sum()
    }

    /// Gives back the slots that no call has, except for `calls` of them, where there are many more. Those that
    /// a call keeps from being given back are given back the next time, if it has ended by then.
    pub(super) fn shrink_to(&mut self, calls: usize) {
        if self.capacity() / 4 <= calls {
            return;
        }
        self.slabs.iter_mut().for_each(Slab::shrink_to_fit);
        if self.slabs[self.current].capacity() / 4 > calls {
            self.current = 1 - self.current;
        }
        let slab = &mut self.slabs[self.current];
        slab.reserve(calls.saturating_sub(slab.len()));
    }

    pub(super) fn watermark(&self) -> &Arc<AckWatermark> {
        &self.watermark
    }

    /// Advances the watermark: every request before `seq` has its outcome.
    #[inline]
    pub(super) fn advance_to(&self, seq: u64) {
        self.watermark.next_unacked.store(seq, Ordering::Release);
    }

    /// Adds requests to the batch, which have been accepted as the entry `seq`.
    pub(super) fn add_outstanding(
        &mut self,
        id: WaiterId,
        seq: u64,
        requests: usize,
        is_open: impl Fn(u64) -> bool,
    ) {
        if let Some(Slot { call: SlotState::Batch(batch), .. }) = self.get_mut(id) {
            let BatchState { progress, entries, .. } = &mut **batch;
            progress.outstanding += requests;
            while entries.front().is_some_and(|&first| !is_open(first)) {
                entries.pop_front();
            }
            entries.push_back(seq);
        }
    }

    /// Returns the outcome of a single call, which frees its slot; or promises to wake the task.
    #[inline]
    pub(super) fn poll_one(
        &mut self,
        id: WaiterId,
        waker: &Waker,
    ) -> (Poll<Result<Reply, Error>>, Option<Waker>) {
        let Some(slot) = self.get_mut(id) else {
            // Only a put that is stored has no slot any more.
            return (Poll::Ready(Ok(Reply::Stored)), None);
        };
        if let SlotState::One(outcome) = &mut slot.call
            && let Some(outcome) = outcome.take()
        {
            let waker = slot.waker.take();
            self.take(id);
            self.claim_error(&outcome);
            return (Poll::Ready(*outcome), waker);
        }
        (Poll::Pending, register_waker(&mut slot.waker, waker))
    }

    /// Returns the progress of the batch, once at most `at` of its requests are outstanding or it is
    /// interrupted; or promises to wake the task.
    pub(super) fn poll_batch(
        &mut self,
        id: WaiterId,
        at: usize,
        waker: &Waker,
    ) -> (Poll<&mut Progress>, Option<Waker>) {
        match self.get_mut(id) {
            Some(Slot { waker: slot, call: SlotState::Batch(batch), .. }) => {
                let BatchState { progress, wake_at, .. } = &mut **batch;
                if progress.outstanding <= at || (progress.interrupted.is_some() && at > 0) {
                    return (Poll::Ready(progress), None);
                }
                *wake_at = at;
                (Poll::Pending, register_waker(slot, waker))
            }
            _ => (Poll::Pending, None),
        }
    }

    /// Returns the progress of a batch that has no request outstanding, and resets it.
    pub(super) fn take_progress(&mut self, id: WaiterId) -> Progress {
        match self.get_mut(id) {
            Some(Slot { call: SlotState::Batch(batch), .. }) => std::mem::take(&mut batch.progress),
            _ => Progress::default(),
        }
    }

    /// Has every batch check again how many requests it may add.
    pub(super) fn wake_batches(&mut self, wakers: &mut Vec<Waker>) {
        for (_, slot) in self.slabs.iter_mut().flatten() {
            if let SlotState::Batch(_) = slot.call {
                wakers.extend(slot.waker.take());
            }
        }
    }

    /// Frees the slot of a call that has left, and returns which of its requests are still open.
    pub(super) fn remove(&mut self, id: WaiterId) -> (Cancelled, Option<Slot>) {
        let mut slot = self.get_mut(id).is_some().then(|| self.take(id));
        if let Some(Slot { call: SlotState::One(Some(outcome)), .. }) = &slot {
            self.claim_error(outcome);
        }
        let removed = match &mut slot {
            Some(Slot { call: SlotState::One(None), seq, .. }) => Cancelled::One(*seq),
            Some(Slot { call: SlotState::Batch(batch), .. }) if batch.progress.outstanding > 0 => {
                Cancelled::Batch(std::mem::take(&mut batch.entries))
            }
            _ => Cancelled::Finished,
        };
        (removed, slot)
    }

    /// Gives `requests` of the call their outcome; the first of them has this index in the batch. The task to
    /// wake is added to `wakers`.
    #[inline]
    pub(super) fn finish(
        &mut self,
        id: WaiterId,
        index: usize,
        requests: usize,
        outcome: Result<Reply, Error>,
        wakers: &mut Vec<Waker>,
    ) {
        let slot = self.slabs[id.slot % 2].get_mut(id.slot / 2);
        let Some(slot) = slot.filter(|slot| slot.seq == id.seq) else {
            return;
        };
        let wake = match &mut slot.call {
            SlotState::One(unclaimed) => {
                if let Ok(Reply::Stored) = outcome {
                    wakers.extend(self.take(id).waker);
                    return;
                }
                if outcome.is_err() {
                    self.watermark.unclaimed_errors.fetch_add(1, Ordering::Relaxed);
                }
                *unclaimed = Some(Box::new(outcome));
                true
            }
            SlotState::Batch(batch) => {
                let BatchState { progress, wake_at, .. } = &mut **batch;
                progress.outstanding -= requests;
                match outcome {
                    Ok(_) => progress.acknowledged += requests,
                    Err(error) => progress.fail(index, error),
                }
                progress.outstanding <= *wake_at || (progress.interrupted.is_some() && *wake_at > 0)
            }
        };
        if wake {
            wakers.extend(slot.waker.take());
        }
    }

    #[inline]
    fn take(&mut self, id: WaiterId) -> Slot {
        self.slabs[id.slot % 2].remove(id.slot / 2)
    }

    /// Returns the slot of a call, if it is still this call's.
    #[inline]
    fn get_mut(&mut self, id: WaiterId) -> Option<&mut Slot> {
        self.slabs[id.slot % 2].get_mut(id.slot / 2).filter(|slot| slot.seq == id.seq)
    }

    /// Stops counting an error that has been picked up, or never will be.
    fn claim_error(&self, outcome: &Result<Reply, Error>) {
        if outcome.is_err() {
            self.watermark.unclaimed_errors.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The open requests of a call that has left.
pub(super) enum Cancelled {
    /// The entry with this sequence number is open.
    One(u64),
    /// Some of these entries may be open.
    Batch(VecDeque<u64>),
    /// None.
    Finished,
}

impl Progress {
    fn fail(&mut self, index: usize, error: Error) {
        self.delivery = Delivery::of_all(self.delivery.into_iter().chain([error.delivery()]));
        if let Error::Rejected { .. } = error {
            // Rejections come one by one.
            self.rejected.push(index);
        } else if error.is_closed_on_request() {
            // Only this request fails, as with a rejection.
            self.closed_on.push(index);
        } else if self.interrupted.is_none_or(|(first, _)| index < first) {
            self.interrupted = Some((index, error.is_retryable()));
        }
        if self.failure.as_ref().is_none_or(|&(first, _)| index < first) {
            self.failure = Some((index, error));
        }
    }
}

/// Stores the waker in the slot, and returns the one that it replaces.
fn register_waker(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    if slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
        return None;
    }
    slot.replace(waker.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_small() {
        let len = size_of::<Slot>();
        assert!(
            len <= 48,
            "a slot of {len} bytes: with 1,024 puts in flight it is copied from the second cache"
        );
    }
}
