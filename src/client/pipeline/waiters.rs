//! Who waits for what: one slot for each call that is under way.

use std::task::{Poll, Waker};

use slab::Slab;

use crate::{error::Error, metric::Metrics};

/// The slot of a call, until the call takes its outcome or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct WaiterId(usize);

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
    /// Whether something else than the server's refusal has made a request fail: the rest of the
    /// batch would meet the same.
    pub(in crate::client) broken: bool,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    slots: Slab<Slot>,
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

#[derive(Debug)]
enum Call {
    One(Option<Result<Answer, Error>>),
    Batch {
        progress: Progress,
        /// The task is woken when no more than this many requests are unfinished.
        wake_at: usize,
    },
}

impl Waiters {
    /// A slot for a call whose one request is the entry `seq`.
    #[inline]
    pub(super) fn add_one(&mut self, seq: u64, waker: Waker) -> WaiterId {
        WaiterId(self.slots.insert(Slot { waker: Some(waker), seq, call: Call::One(None) }))
    }

    /// A slot for a batch that has no request yet.
    pub(super) fn add_batch(&mut self) -> WaiterId {
        let call = Call::Batch { progress: Progress::default(), wake_at: 0 };
        WaiterId(self.slots.insert(Slot { waker: None, seq: 0, call }))
    }

    /// More requests of the batch have been accepted.
    pub(super) fn grow(&mut self, id: WaiterId, requests: usize) {
        if let Some(Slot { call: Call::Batch { progress, .. }, .. }) = self.slots.get_mut(id.0) {
            progress.unfinished += requests;
        }
    }

    /// The outcome of a single call, which frees its slot; or a promise to wake the task.
    #[inline]
    pub(super) fn poll_one(
        &mut self,
        id: WaiterId,
        waker: &Waker,
    ) -> (Poll<Result<Answer, Error>>, Option<Waker>) {
        let Some(slot) = self.slots.get_mut(id.0) else {
            return (Poll::Pending, None);
        };
        if let Call::One(outcome) = &mut slot.call
            && let Some(outcome) = outcome.take()
        {
            let slot = self.slots.remove(id.0);
            return (Poll::Ready(outcome), slot.waker);
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
        match self.slots.get_mut(id.0) {
            Some(Slot { waker: slot, call: Call::Batch { progress, wake_at }, .. }) => {
                if progress.unfinished <= at || (progress.broken && at > 0) {
                    return (Poll::Ready(progress), None);
                }
                *wake_at = at;
                (Poll::Pending, remember(slot, waker))
            }
            _ => (Poll::Pending, None),
        }
    }

    /// The call has left: frees its slot, and says what of it is still open.
    pub(super) fn remove(&mut self, id: WaiterId) -> (Removed, Option<Slot>) {
        let slot = self.slots.try_remove(id.0);
        let removed = match &slot {
            Some(Slot { call: Call::One(None), seq, .. }) => Removed::One(*seq),
            Some(Slot { call: Call::Batch { progress, .. }, .. }) if progress.unfinished > 0 => {
                Removed::Batch
            }
            _ => Removed::Finished,
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
        let Some(slot) = self.slots.get_mut(id.0) else {
            return;
        };
        let wake = match &mut slot.call {
            Call::One(place) => {
                *place = Some(outcome);
                true
            }
            Call::Batch { progress, wake_at } => {
                progress.unfinished -= requests;
                match outcome {
                    Ok(_) => progress.acknowledged += requests,
                    Err(error) => progress.fail(index, error),
                }
                progress.unfinished <= *wake_at || (progress.broken && *wake_at > 0)
            }
        };
        if wake {
            wakers.extend(slot.waker.take());
        }
    }
}

/// What a call that leaves has left behind.
pub(super) enum Removed {
    /// The outcome of the entry of this number is still open.
    One(u64),
    /// Any number of its entries may be open.
    Batch,
    /// Nothing.
    Finished,
}

impl Progress {
    fn fail(&mut self, index: usize, error: Error) {
        self.broken |= !matches!(error, Error::Rejected { .. });
        if self.failure.as_ref().is_none_or(|&(first, _)| index < first) {
            self.failure = Some((index, error));
        }
    }
}

/// Puts the waker in its place, and hands back another one that was there.
fn remember(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    if place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        return None;
    }
    place.replace(waker.clone())
}
