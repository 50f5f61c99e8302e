//! Who waits for what: one slot for each call that is under way.

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

/// A call: its slot, and when it came.
///
/// The slot of a put is free as soon as the put is stored, and may have another call by the time that
/// its own looks; who came when never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct WaiterId {
    slot: usize,
    seq: u64,
}

/// What an answer brings to its caller.
#[derive(Debug)]
pub(in crate::client) enum Answer {
    Stored,
    Found(Metrics),
}

/// How far a batch of puts has come.
#[derive(Clone, Debug, Default)]
pub(in crate::client) struct Progress {
    /// How many of its requests have been accepted and have no outcome yet.
    pub(in crate::client) unfinished: usize,
    pub(in crate::client) acknowledged: usize,
    /// The first request that failed, by its place in the batch, and why.
    pub(in crate::client) failure: Option<(usize, Error)>,
    /// The first request that something else than the server's refusal has made fail, and whether it
    /// may work if it is tried again: the rest of the batch would meet the same.
    pub(in crate::client) broken: Option<(usize, bool)>,
    /// What is true of all requests that failed, if any did.
    pub(in crate::client) delivery: Option<Delivery>,
    /// The requests that the server has refused, by their places.
    pub(in crate::client) refused: Vec<usize>,
    /// The requests at which the server closes the connection, by their places.
    pub(in crate::client) closed_on: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Of two slabs, one takes the calls that come, and the other one is empty or has calls from before
    /// a burst was over: one of these at its end would keep all of it.
    slabs: [Slab<Slot>; 2],
    current: usize,
    settled: Arc<AckWatermark>,
}

/// What a put can see of its outcome without the pipeline's lock.
///
/// Answers come in the order of the requests, so one number tells every put that waits whether its
/// answer has come, and it is all but always the same answer. On a cache line of its own: the driver
/// writes it once for all the answers that it has read, and every caller reads it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::client) struct AckWatermark {
    /// Every request that came before this one has its outcome.
    before: AtomicU64,
    /// How many outcomes that are errors have not been taken.
    errors: AtomicUsize,
}

impl AckWatermark {
    /// Whether this put is known to be stored. If not, the pipeline knows what it has come to.
    #[inline]
    pub(in crate::client) fn is_acked(&self, put: WaiterId) -> bool {
        // An error is counted before any later request is settled, both under the lock; so who sees
        // the one sees the other.
        put.seq < self.before.load(Ordering::Acquire) && self.errors.load(Ordering::Relaxed) == 0
    }
}

/// What the pipeline keeps of a call.
#[derive(Debug)]
pub(in crate::client) struct Slot {
    /// The call's task, once it has found that there is nothing for it yet.
    waker: Option<Waker>,
    /// Its entry, if it has one.
    seq: u64,
    call: Call,
}

impl Slot {
    /// Returns how far its batch had come, if it was one.
    pub(in crate::client) fn progress(&self) -> Option<&Progress> {
        match &self.call {
            Call::Batch(batch) => Some(&batch.progress),
            Call::One(_) => None,
        }
    }
}

/// Small, for there is one for each put in flight, and most of them never have what is in the boxes.
#[derive(Debug)]
enum Call {
    One(Option<Box<Result<Answer, Error>>>),
    Batch(Box<Batch>),
}

#[derive(Debug, Default)]
struct Batch {
    progress: Progress,
    /// The task is woken when no more than this many requests are unfinished.
    wake_at: usize,
    /// Its entries, in their order; of those that are settled, only what came after one that is not.
    entries: VecDeque<u64>,
}

impl Waiters {
    /// A slot for a call whose one request is the entry `seq`.
    #[inline]
    pub(super) fn add_one(&mut self, seq: u64, waker: Waker) -> WaiterId {
        let slot = Slot { waker: Some(waker), seq, call: Call::One(None) };
        self.add(slot)
    }

    /// Returns true until the call has left.
    pub(super) fn contains(&mut self, id: WaiterId) -> bool {
        self.get_mut(id).is_some()
    }

    /// A slot for a batch that has no request yet.
    pub(super) fn add_batch(&mut self, seq: u64) -> WaiterId {
        self.add(Slot { waker: None, seq, call: Call::Batch(Box::default()) })
    }

    pub(super) fn capacity(&self) -> usize {
        self.slabs.iter().map(Slab::capacity).sum()
    }

    /// Gives back the slots that no call has, but keeps so many, where there are many more. Those that a
    /// call keeps from being given back are, the next time, if it has ended by then.
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

    pub(super) fn settled(&self) -> &Arc<AckWatermark> {
        &self.settled
    }

    /// Every request that came before `seq` has its outcome.
    #[inline]
    pub(super) fn advance_to(&self, seq: u64) {
        self.settled.before.store(seq, Ordering::Release);
    }

    /// More requests of the batch have been accepted, as the entry `seq`.
    pub(super) fn grow(
        &mut self,
        id: WaiterId,
        seq: u64,
        requests: usize,
        is_open: impl Fn(u64) -> bool,
    ) {
        if let Some(Slot { call: Call::Batch(batch), .. }) = self.get_mut(id) {
            let Batch { progress, entries, .. } = &mut **batch;
            progress.unfinished += requests;
            while entries.front().is_some_and(|&first| !is_open(first)) {
                entries.pop_front();
            }
            entries.push_back(seq);
        }
    }

    /// The outcome of a single call, which frees its slot; or a promise to wake the task.
    #[inline]
    pub(super) fn poll_one(
        &mut self,
        id: WaiterId,
        waker: &Waker,
    ) -> (Poll<Result<Answer, Error>>, Option<Waker>) {
        let Some(slot) = self.get_mut(id) else {
            // Only what is stored has no slot any more.
            return (Poll::Ready(Ok(Answer::Stored)), None);
        };
        if let Call::One(outcome) = &mut slot.call
            && let Some(outcome) = outcome.take()
        {
            let waker = slot.waker.take();
            self.take(id);
            self.forget(&outcome);
            return (Poll::Ready(*outcome), waker);
        }
        (Poll::Pending, remember(&mut slot.waker, waker))
    }

    /// How far the batch has come, once no more than `at` of its requests are unfinished or it is
    /// broken; or a promise to wake the task.
    pub(super) fn poll_batch(
        &mut self,
        id: WaiterId,
        at: usize,
        waker: &Waker,
    ) -> (Poll<&Progress>, Option<Waker>) {
        match self.get_mut(id) {
            Some(Slot { waker: slot, call: Call::Batch(batch), .. }) => {
                let Batch { progress, wake_at, .. } = &mut **batch;
                if progress.unfinished <= at || (progress.broken.is_some() && at > 0) {
                    return (Poll::Ready(progress), None);
                }
                *wake_at = at;
                (Poll::Pending, remember(slot, waker))
            }
            _ => (Poll::Pending, None),
        }
    }

    /// Every batch is to look again how many requests it may add.
    pub(super) fn rouse_batches(&mut self, wakers: &mut Vec<Waker>) {
        for (_, slot) in self.slabs.iter_mut().flatten() {
            if let Call::Batch(_) = slot.call {
                wakers.extend(slot.waker.take());
            }
        }
    }

    /// The call has left: frees its slot, and says what of it is still open.
    pub(super) fn remove(&mut self, id: WaiterId) -> (Cancelled, Option<Slot>) {
        let mut slot = self.get_mut(id).is_some().then(|| self.take(id));
        if let Some(Slot { call: Call::One(Some(outcome)), .. }) = &slot {
            self.forget(outcome);
        }
        let removed = match &mut slot {
            Some(Slot { call: Call::One(None), seq, .. }) => Cancelled::One(*seq),
            Some(Slot { call: Call::Batch(batch), .. }) if batch.progress.unfinished > 0 => {
                Cancelled::Batch(std::mem::take(&mut batch.entries))
            }
            _ => Cancelled::Finished,
        };
        (removed, slot)
    }

    /// `requests` of the call's requests have this outcome; the first of them stands at `index` in
    /// the batch. Whom to wake goes to `wakers`.
    #[inline]
    pub(super) fn finish(
        &mut self,
        id: WaiterId,
        index: usize,
        requests: usize,
        outcome: Result<Answer, Error>,
        wakers: &mut Vec<Waker>,
    ) {
        let slot = self.slabs[id.slot % 2].get_mut(id.slot / 2);
        let Some(slot) = slot.filter(|slot| slot.seq == id.seq) else {
            return;
        };
        let wake = match &mut slot.call {
            Call::One(reservation) => {
                if let Ok(Answer::Stored) = outcome {
                    wakers.extend(self.take(id).waker);
                    return;
                }
                if outcome.is_err() {
                    self.settled.errors.fetch_add(1, Ordering::Relaxed);
                }
                *reservation = Some(Box::new(outcome));
                true
            }
            Call::Batch(batch) => {
                let Batch { progress, wake_at, .. } = &mut **batch;
                progress.unfinished -= requests;
                match outcome {
                    Ok(_) => progress.acknowledged += requests,
                    Err(error) => progress.fail(index, error),
                }
                progress.unfinished <= *wake_at || (progress.broken.is_some() && *wake_at > 0)
            }
        };
        if wake {
            wakers.extend(slot.waker.take());
        }
    }

    #[inline]
    fn add(&mut self, slot: Slot) -> WaiterId {
        let seq = slot.seq;
        WaiterId { slot: self.slabs[self.current].insert(slot) * 2 + self.current, seq }
    }

    #[inline]
    fn take(&mut self, id: WaiterId) -> Slot {
        self.slabs[id.slot % 2].remove(id.slot / 2)
    }

    /// The slot of a call, if it is still this call's.
    #[inline]
    fn get_mut(&mut self, id: WaiterId) -> Option<&mut Slot> {
        self.slabs[id.slot % 2].get_mut(id.slot / 2).filter(|slot| slot.seq == id.seq)
    }

    /// An outcome has been taken, or will never be.
    fn forget(&self, outcome: &Result<Answer, Error>) {
        if outcome.is_err() {
            self.settled.errors.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a call that leaves has left behind.
pub(super) enum Cancelled {
    /// The outcome of the entry of this number is still open.
    One(u64),
    /// Some of these entries may be open.
    Batch(VecDeque<u64>),
    /// Nothing.
    Finished,
}

impl Progress {
    fn fail(&mut self, index: usize, error: Error) {
        self.delivery = Delivery::of_all(self.delivery.into_iter().chain([error.delivery()]));
        if let Error::Rejected { .. } = error {
            // Refusals come one by one.
            self.refused.push(index);
        } else if error.is_closed_on_request() {
            // Only this request fails, as with a refusal.
            self.closed_on.push(index);
        } else if self.broken.is_none_or(|(first, _)| index < first) {
            self.broken = Some((index, error.is_retryable()));
        }
        if self.failure.as_ref().is_none_or(|&(first, _)| index < first) {
            self.failure = Some((index, error));
        }
    }
}

/// Puts the waker in its place, and hands back another one that was there.
fn remember(reservation: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    if reservation.as_ref().is_some_and(|known| known.will_wake(waker)) {
        return None;
    }
    reservation.replace(waker.clone())
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
