//! The handles' side: requests come in, and their callers wait, or leave.

use std::{
    task::{Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Phase, Pipeline,
    send_queue::{Entry, Kind},
    waiters::{Answer, Cancelled, Progress, Slot, WaiterId},
};
use crate::{
    client::settings::WhenFull,
    error::{Delivery, Error},
    metric::Selector,
    protocol::{self, PutSuffix},
};

/// A request has been accepted.
pub(in crate::client) struct Submitted {
    pub(in crate::client) waiter: WaiterId,
    /// The driver, if it has to be woken.
    pub(in crate::client) driver: Option<Waker>,
}

/// What becomes of a request for which the queue has no room.
#[derive(Clone, Copy)]
pub(super) enum Admission {
    Is(WhenFull),
    /// It has: a place was kept.
    NeverIs,
}

impl Pipeline {
    /// Accepts a put. The key must have been checked, and the value be finite.
    #[inline]
    pub(in crate::client) fn put(
        &mut self,
        key: &str,
        numbers: &PutSuffix,
        waker: Waker,
        now: Instant,
    ) -> Result<Submitted, Error> {
        self.submit(Kind::Put, self.when_full(), waker, now, |bytes| numbers.append_put(bytes, key))
    }

    /// Accepts a get.
    pub(in crate::client) fn get(
        &mut self,
        selector: &Selector,
        waker: Waker,
        now: Instant,
    ) -> Result<Submitted, Error> {
        self.submit(Kind::Get, self.when_full(), waker, now, |bytes| {
            protocol::encode_get(bytes, selector);
        })
    }

    /// Makes a batch, which has no request yet.
    pub(in crate::client) fn begin_batch(&mut self) -> WaiterId {
        let batch = self.waiters.add_batch(self.next_seq);
        self.next_seq += 1;
        batch
    }

    /// Accepts `requests` puts of a batch, of which the first stands at `index`, as one entry.
    pub(in crate::client) fn extend_batch(
        &mut self,
        batch: WaiterId,
        index: usize,
        requests: usize,
        puts: &[u8],
        now: Instant,
    ) -> Result<Option<Waker>, Error> {
        self.check_open()?;
        if !self.waiters.contains(batch) {
            // Another thread has cancelled it while its task was about to add to it.
            return Ok(None);
        }
        let mut entry = self.entry(batch, Kind::Put, now);
        let seq = entry.seq;
        (entry.index, entry.requests) = (index, requests);
        // A batch holds back by itself, so it waits for room where others may not.
        self.accept(entry, Admission::Is(WhenFull::Wait), |bytes| bytes.extend_from_slice(puts))?;
        let Self { waiters, queue, overflow, .. } = self;
        waiters.grow(batch, seq, requests, |seq| queue.contains(seq) || overflow.contains(seq));
        Ok(self.driver_to_wake(requests))
    }

    /// How far the batch has come, once at most `unfinished` of its requests have no outcome; or a
    /// promise to wake the task.
    pub(in crate::client) fn poll_batch(
        &mut self,
        batch: WaiterId,
        unfinished: usize,
        waker: &Waker,
    ) -> (Poll<&Progress>, Option<Waker>) {
        self.waiters.poll_batch(batch, unfinished, waker)
    }

    /// The outcome of a single request, after which its waiter is gone; or a promise to wake the
    /// task. A waker that is no longer needed is handed back, to be dropped when the lock is
    /// released: that can run anything, as waking can.
    #[inline]
    pub(in crate::client) fn poll(
        &mut self,
        waiter: WaiterId,
        waker: &Waker,
    ) -> (Poll<Result<Answer, Error>>, Option<Waker>) {
        self.waiters.poll_one(waiter, waker)
    }

    /// The caller has left. What it has not sent will not be sent; what it has sent keeps its place
    /// until the answer comes, which is dropped. What the caller leaves behind is handed back, to be
    /// dropped when the lock is released.
    pub(in crate::client) fn cancel(
        &mut self,
        waiter: WaiterId,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Slot> {
        let mut left = Vec::new();
        let (removed, slot) = self.waiters.remove(waiter);
        match removed {
            Cancelled::Finished => return slot,
            Cancelled::One(seq) => left.extend(self.remove_entry(seq)),
            Cancelled::Batch(seqs) => {
                left.extend(seqs.into_iter().filter_map(|seq| self.remove_entry(seq)));
            }
        }
        for entry in left {
            self.counters.cancelled += (entry.requests - entry.answered) as u64;
        }
        self.admit(now, wakers);
        self.update_stall_clock(now);
        // There may be room for another request, or nothing left to drain.
        wakers.extend(self.driver.take());
        slot
    }

    /// Takes no more requests. What has been accepted is served.
    pub(in crate::client) fn close(&mut self) -> Option<Waker> {
        if let Phase::Open = self.phase {
            self.phase = Phase::Draining;
        }
        self.driver.take()
    }

    pub(in crate::client) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(in crate::client) fn window(&self) -> usize {
        self.window
    }

    pub(in crate::client) fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    /// The first error that a request met, other than a refusal, after the pipeline was closed.
    pub(in crate::client) fn close_failure(&self) -> Option<Error> {
        self.close_failure.clone()
    }

    #[inline]
    pub(super) fn submit(
        &mut self,
        kind: Kind,
        when_full: Admission,
        waker: Waker,
        now: Instant,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Submitted, Error> {
        self.check_open()?;
        let waiter = self.waiters.add_one(self.next_seq, waker);
        let entry = self.entry(waiter, kind, now);
        match self.accept(entry, when_full, encode) {
            Ok(()) => Ok(Submitted { waiter, driver: self.driver_to_wake(1) }),
            Err(error) => {
                self.waiters.remove(waiter);
                Err(error)
            }
        }
    }

    #[inline]
    fn accept(
        &mut self,
        entry: Entry,
        when_full: Admission,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<(), Error> {
        let waiting = self.queue.waiting_len();
        let len = self.queue.encode(encode);
        let limit = self.settings.max_buffered_bytes;
        // While nothing waits to be sent, no request is in line either.
        let has_room = waiting == 0
            || (self.line_is_empty() && waiting + self.reserved_bytes() + len <= limit);
        match when_full {
            Admission::Is(policy) if !has_room => {
                let bytes = self.queue.take_back_last(len);
                match policy {
                    WhenFull::Wait => self.overflow.push(entry.seq, (entry, bytes)),
                    _ => return Err(Error::QueueFull { limit }),
                }
            }
            // All is looked up, expires and is settled by the order in which it was accepted.
            Admission::NeverIs if !self.overflow.is_empty() => {
                let bytes = self.queue.take_back_last(len);
                self.overflow.push(entry.seq, (entry, bytes));
            }
            _ => self.queue.push(entry, len),
        }
        self.next_seq += 1;
        self.counters.accepted += entry.requests as u64;
        Ok(())
    }

    /// The driver, if it can send the `requests` that have just been accepted; if it cannot, the
    /// next answer will rouse it. But if nobody else waits, it may not know yet that there is a
    /// deadline, and the next answer may never come; and if it has not asked the server yet whether it
    /// can pipeline, this is the moment.
    #[inline]
    fn driver_to_wake(&mut self, requests: usize) -> Option<Waker> {
        let can_send = self.queue.in_flight() < self.window;
        let first = self.counters.outstanding() == requests as u64;
        if can_send || first || self.probe_on_queueing { self.driver.take() } else { None }
    }

    #[inline]
    fn entry(&self, waiter: WaiterId, kind: Kind, now: Instant) -> Entry {
        Entry::new(self.next_seq, waiter, kind, now + self.settings.request_timeout)
    }

    #[inline]
    pub(super) fn when_full(&self) -> Admission {
        Admission::Is(self.settings.when_full)
    }

    fn remove_entry(&mut self, seq: u64) -> Option<Entry> {
        self.queue.cancel(seq).or_else(|| self.overflow.remove(seq).map(|(entry, _)| entry))
    }

    #[inline]
    pub(in crate::client) fn check_open(&self) -> Result<(), Error> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Draining | Phase::Closed => Err(self.closed(Delivery::NotSent)),
        }
    }

    /// Why a request cannot be served any more.
    #[cold]
    pub(super) fn closed(&self, delivery: Delivery) -> Error {
        if self.is_orphaned {
            Error::RuntimeGone { delivery }
        } else {
            Error::Closed { delivery, cause: self.last_error.clone() }
        }
    }
}
