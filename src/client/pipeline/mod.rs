//! The requests of one connection: queued, in flight, and the callers that wait for them.
//!
//! Pure state: nothing here reads a clock, touches a socket or wakes a task. The driver and the
//! handles share it under one lock, tell it the time, and wake the tasks that it names once the lock is
//! released.
//!
//! This file follows a request: it is [submitted](Pipeline::submit) by a handle,
//! [taken](Pipeline::take_sendable) by the driver, [completed](Pipeline::complete) by a response, and its
//! outcome is [picked up](Pipeline::poll) by the caller. [`admission`] is what happens where the queue is full,
//! [`lifecycle`] what connections, deadlines and the end of the client do to requests.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use bytes::BytesMut;
use tokio::time::Instant;

use self::{
    own_deadlines::OwnDeadlines,
    send_queue::{Completed, Entry, SendQueue},
    trim::Trim,
    wait_queue::WaitQueue,
    waiters::{Cancelled, SlotState, Waiters},
};
use super::{
    settings::{CallTimeout, Settings},
    stats::{ClientStats, Counters},
};
use crate::{
    error::{ConnectionError, Delivery, Error},
    metric::Metrics,
    protocol::{InvalidResponse, ReceivedResponse, Response},
};

mod admission;
mod lifecycle;
mod own_deadlines;
mod send_queue;
mod steps;
mod suspect;
mod trim;
mod wait_queue;
mod waiters;

#[cfg(test)]
mod tests;

pub(super) use admission::Admission;
#[cfg(feature = "tower")]
pub(super) use admission::ReservationId;
pub(super) use send_queue::RequestKind;
pub(super) use suspect::RequestId;
pub(super) use waiters::{AckWatermark, Progress, Reply, Slot, WaiterId};

#[derive(Debug)]
pub(super) struct Pipeline {
    settings: Settings,
    queue: SendQueue,
    /// The requests for which the queue has no room.
    wait_queue: WaitQueue<(Entry, Box<[u8]>)>,
    /// The tasks that wait for a reservation, in one line with [`Self::wait_queue`]: the sequence
    /// numbers decide who is first.
    reservation_queue: WaitQueue<Waker>,
    /// The reservations, each of the longest request, and since when each has been held.
    reserved: WaitQueue<Instant>,
    own_deadlines: OwnDeadlines,
    waiters: Waiters,
    next_seq: u64,
    /// How many requests may be in flight at once.
    window: usize,
    /// How many puts a batch should have in the queue at least.
    wanted_puts: usize,
    /// Since when the next response has been due.
    response_due_since: Option<Instant>,
    phase: Phase,
    /// Whether the runtime of the driver has ended.
    is_orphaned: bool,
    /// The error because of which there is no connection.
    last_error: Option<Arc<ConnectionError>>,
    /// The driver's task, while it has nothing to do until a handle has something for it.
    driver: Option<Waker>,
    /// Whether the driver is to be woken when a request has to wait for the response to another.
    probe_on_queueing: bool,
    close_failure: Option<Error>,
    /// Responses to callers that have left. Dropping one can take long, and is not done under the lock.
    unclaimed: Vec<Metrics>,
    counters: Counters,
    /// When to check next if memory can be given back, if much is held.
    trim: Option<Trim>,
}

#[derive(Debug)]
enum Phase {
    Open,
    /// Accepts nothing more, and serves what it has.
    Draining,
    /// Serves no request any more.
    Closed,
}

/// A request that was accepted.
pub(super) struct Submitted {
    pub(super) waiter: WaiterId,
    /// The driver, if it has to be woken.
    pub(super) driver: Option<Waker>,
}

/// A request that was not accepted. It is taken apart once the lock is released, for dropping a waker can run
/// anything.
pub(super) struct Refused {
    pub(super) error: Error,
    pub(super) unneeded: Option<Waker>,
}

/// Responses of a connection, in their order.
#[derive(Debug)]
pub(super) enum Responses {
    One(ReceivedResponse),
    /// This many times `ok` without data.
    Acknowledgements(usize),
}

impl Pipeline {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: SendQueue::default(),
            wait_queue: WaitQueue::new(),
            reservation_queue: WaitQueue::new(),
            reserved: WaitQueue::new(),
            own_deadlines: OwnDeadlines::default(),
            waiters: Waiters::default(),
            next_seq: 0,
            window: 1,
            wanted_puts: 0,
            response_due_since: None,
            phase: Phase::Open,
            is_orphaned: false,
            last_error: None,
            driver: None,
            probe_on_queueing: false,
            close_failure: None,
            unclaimed: Vec::new(),
            counters: Counters::default(),
            trim: None,
        }
    }

    /// Accepts a request, which `encode` appends to the queue's buffer. Without a `timeout` of its own it has that of
    /// the settings.
    #[inline]
    pub(super) fn submit(
        &mut self,
        admission: Admission,
        kind: RequestKind,
        timeout: Option<CallTimeout>,
        waker: Waker,
        now: Instant,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Submitted, Refused> {
        let Phase::Open = self.phase else {
            return Err(Refused { error: self.closed(Delivery::NotSent), unneeded: Some(waker) });
        };
        let waiter = self.waiters.add(self.next_seq, Some(waker), SlotState::One(None));
        let limit = timeout.map_or(self.settings.request_timeout, CallTimeout::get);
        let entry = Entry::new(self.next_seq, waiter, kind, now + limit, timeout);
        match self.push(entry, admission, encode) {
            Ok(()) => Ok(Submitted { waiter, driver: self.driver_to_wake(1, timeout) }),
            Err(error) => {
                let (_, slot) = self.waiters.remove(waiter);
                Err(Refused { error, unneeded: slot.and_then(Slot::into_waker) })
            }
        }
    }

    /// Creates a batch, which has no request yet.
    pub(super) fn open_batch(&mut self) -> WaiterId {
        let batch = self.waiters.add(self.next_seq, None, SlotState::Batch(Box::default()));
        self.next_seq += 1;
        batch
    }

    /// Accepts `requests` puts of a batch as one entry, the first of which has this index in the batch.
    /// Returns the driver, if it has to be woken.
    pub(super) fn extend_batch(
        &mut self,
        batch: WaiterId,
        index: usize,
        requests: usize,
        puts: &[u8],
        timeout: Option<CallTimeout>,
        now: Instant,
    ) -> Result<Option<Waker>, Error> {
        self.check_open()?;
        if !self.waiters.contains(batch) {
            // Another thread has cancelled it while its task was about to add to it.
            return Ok(None);
        }
        let seq = self.next_seq;
        let limit = timeout.map_or(self.settings.request_timeout, CallTimeout::get);
        let mut entry = Entry::new(seq, batch, RequestKind::Put, now + limit, timeout);
        (entry.index, entry.requests) = (index, requests);
        // A batch limits by itself what it queues, so it waits for room also where other calls fail.
        self.push(entry, Admission::Waiting, |bytes| bytes.extend_from_slice(puts))?;
        let Self { waiters, queue, wait_queue, .. } = self;
        waiters.add_outstanding(batch, seq, requests, |seq| {
            queue.contains(seq) || wait_queue.contains(seq)
        });
        Ok(self.driver_to_wake(requests, timeout))
    }

    /// Appends the entry to the queue, or to the line in front of it if there is no room.
    #[inline]
    fn push(
        &mut self,
        entry: Entry,
        admission: Admission,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<(), Error> {
        let requests = entry.requests as u64;
        let own_deadline = entry.own_timeout.map(|_| entry.deadline);
        let queued = self.queue.queued_bytes();
        let len = self.queue.push(entry, encode);
        let has_room = match admission {
            // While nothing is queued, no request is in line either.
            Admission::ByPolicy | Admission::Waiting => {
                queued == 0
                    || (self.line_is_empty()
                        && queued + self.reserved_bytes() + len <= self.settings.max_buffered_bytes)
            }
            // Entries are searched, expire and are completed in the order in which they were accepted.
            Admission::Reserved => self.wait_queue.is_empty(),
        };
        if !has_room {
            self.move_to_wait_queue(admission)?;
        }
        if let Some(deadline) = own_deadline {
            self.note_own_deadline(self.next_seq, deadline);
        }
        self.next_seq += 1;
        self.counters.accepted += requests;
        Ok(())
    }

    /// Returns the driver if it can send the `requests` that have just been accepted. If it cannot, the
    /// next response will wake it; but if no other request is outstanding, it may not know yet that there is a
    /// deadline, and the response may never come. Nor may it know of a deadline that is earlier than those before it,
    /// because of a `timeout` of its own. If it is to probe the server for pipelining, this is the moment as well.
    #[inline]
    fn driver_to_wake(&mut self, requests: usize, timeout: Option<CallTimeout>) -> Option<Waker> {
        let can_send = self.queue.in_flight() < self.window;
        let is_first = self.counters.outstanding() == requests as u64;
        if can_send || is_first || self.probe_on_queueing || timeout.is_some() {
            self.driver.take()
        } else {
            None
        }
    }

    /// Appends to `dst` the requests that may be sent now.
    pub(super) fn take_sendable(
        &mut self,
        dst: &mut BytesMut,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) {
        if self.queue.take(self.window, dst) > 0 {
            self.admit(now, wakers);
            self.update_stall_clock(now);
        }
    }

    /// Completes the requests in flight with `responses`, in order.
    ///
    /// `mid_response` is true if the decoder has consumed a part of a further response: if no request is in
    /// flight, that one is unsolicited. The last `unsent_requests` of those taken have not been written to their
    /// end, and no response is matched with them: a server that answers the beginning of a request would
    /// answer the rest too, and every later response would be off by one.
    pub(super) fn complete(
        &mut self,
        responses: impl IntoIterator<Item = impl Into<Responses>>,
        mid_response: bool,
        unsent_requests: usize,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        for responses in responses {
            self.response_due_since = None;
            match responses.into() {
                Responses::Acknowledgements(count) => {
                    self.complete_acknowledged(count, unsent_requests, wakers)?;
                }
                Responses::One(response) => self.complete_one(response, unsent_requests, wakers)?,
            }
        }
        if mid_response && self.queue.in_flight() <= unsent_requests {
            return Err(ConnectionError::Unsolicited);
        }
        self.update_stall_clock(now);
        let first = self.entries().next().map_or(self.next_seq, |entry| entry.seq);
        self.waiters.advance_to(first);
        Ok(())
    }

    /// Completes requests with `count` times `ok` without data: a put is stored, a get has found nothing.
    fn complete_acknowledged(
        &mut self,
        mut count: usize,
        unsent_requests: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        while count > 0 {
            let reply = match self
                .queue
                .next_response_kind(unsent_requests)
                .ok_or(ConnectionError::Unsolicited)?
            {
                RequestKind::Put => Reply::Stored,
                RequestKind::Get => Reply::Found(Metrics::default()),
            };
            let most = count.min(self.queue.in_flight() - unsent_requests);
            let Some(Completed { waiter, index, requests }) = self.queue.complete_front(most)
            else {
                break;
            };
            count -= requests;
            if let Some(waiter) = waiter {
                self.finish(waiter, index, requests, Ok(reply), wakers);
            }
        }
        Ok(())
    }

    fn complete_one(
        &mut self,
        response: ReceivedResponse,
        unsent_requests: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        let kind =
            self.queue.next_response_kind(unsent_requests).ok_or(ConnectionError::Unsolicited)?;
        let outcome = match (kind, response) {
            (_, Ok(Response::Error(message))) => Err(Error::Rejected { message: message.into() }),
            (RequestKind::Get, Ok(Response::Ok(metrics)))
                if !self.queue.asked_for_all(&metrics) =>
            {
                return Err(ConnectionError::DataForAnotherKey);
            }
            (RequestKind::Get, Ok(Response::Ok(metrics))) => Ok(Reply::Found(metrics)),
            (RequestKind::Get, Err(InvalidResponse::Record(record))) => Err(record.into()),
            (RequestKind::Get, Err(InvalidResponse::TooLarge { limit })) => {
                Err(Error::ResponseTooLarge { limit })
            }
            (RequestKind::Put, Ok(Response::Ok(metrics))) if metrics.is_empty() => {
                Ok(Reply::Stored)
            }
            (RequestKind::Put, _) => return Err(ConnectionError::UnexpectedData),
        };
        match (self.queue.complete_front(1), outcome) {
            (Some(Completed { waiter: Some(waiter), index, requests }), outcome) => {
                self.finish(waiter, index, requests, outcome, wakers);
            }
            (_, Ok(Reply::Found(metrics))) => self.unclaimed.push(metrics),
            _ => {}
        }
        Ok(())
    }

    /// Gives `requests` of a call their outcome; the first of them has this index in the call's batch.
    #[inline]
    fn finish(
        &mut self,
        waiter: WaiterId,
        index: usize,
        requests: usize,
        outcome: Result<Reply, Error>,
        wakers: &mut Vec<Waker>,
    ) {
        let counter = match &outcome {
            Ok(_) => &mut self.counters.acknowledged,
            Err(Error::Rejected { .. }) => &mut self.counters.rejected,
            Err(_) => &mut self.counters.failed,
        };
        *counter += requests as u64;
        if let (Phase::Draining, Err(error)) = (&self.phase, &outcome)
            && self.close_failure.is_none()
            && !matches!(error, Error::Rejected { .. })
        {
            self.close_failure = Some(error.clone());
        }
        self.waiters.finish(waiter, index, requests, outcome, wakers);
    }

    /// Returns the outcome of a single request, after which its waiter is gone; or promises to wake the
    /// task. A waker that is no longer needed is handed back, to be dropped when the lock is
    /// released: that can run anything, as waking can.
    #[inline]
    pub(super) fn poll(
        &mut self,
        waiter: WaiterId,
        waker: &Waker,
    ) -> (Poll<Result<Reply, Error>>, Option<Waker>) {
        self.waiters.poll_one(waiter, waker)
    }

    /// Returns the progress of a batch, once at most `outstanding` of its requests have no outcome; or
    /// promises to wake the task.
    pub(super) fn poll_batch(
        &mut self,
        batch: WaiterId,
        outstanding: usize,
        waker: &Waker,
    ) -> (Poll<&mut Progress>, Option<Waker>) {
        self.waiters.poll_batch(batch, outstanding, waker)
    }

    /// Returns the progress of a batch that has no request outstanding, and resets it.
    pub(super) fn take_progress(&mut self, batch: WaiterId) -> Progress {
        self.waiters.take_progress(batch)
    }

    /// Cancels a call whose caller has left. Its unsent requests are not sent; a request in flight stays
    /// until its response comes, which is dropped. What the caller leaves behind is returned, to be
    /// dropped when the lock is released.
    pub(super) fn cancel(
        &mut self,
        waiter: WaiterId,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Slot> {
        let mut left = Vec::new();
        let (cancelled, slot) = self.waiters.remove(waiter);
        match cancelled {
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

    fn remove_entry(&mut self, seq: u64) -> Option<Entry> {
        self.queue.cancel(seq).or_else(|| self.wait_queue.remove(seq).map(|(entry, _)| entry))
    }

    /// Returns every request that has no outcome, in order.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.queue.entries().chain(self.wait_queue.values().map(|(entry, _)| entry))
    }

    /// Updates [`Self::response_due_since`] after the requests in flight have changed, and has memory given
    /// back in time.
    #[inline]
    fn update_stall_clock(&mut self, now: Instant) {
        if self.queue.in_flight() == 0 {
            self.response_due_since = None;
        } else if self.response_due_since.is_none() {
            self.response_due_since = Some(now);
        }
        self.note_memory(now);
    }

    pub(super) fn stats(&self) -> ClientStats {
        let in_flight = self
            .queue
            .entries()
            .filter(|entry| entry.waiter.is_some())
            .map(|entry| entry.sent - entry.answered)
            .sum::<usize>();
        self.counters.stats(in_flight as u64)
    }

    pub(super) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Returns how many requests have no outcome yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.counters.outstanding()
    }

    /// Returns how many requests have been sent and have no response.
    pub(super) fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// Returns how many entries wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.queue.queued()
    }

    /// Returns true if a request waits to be sent, whether it may be sent now or not.
    pub(super) fn has_queued(&self) -> bool {
        self.queue.has_queued()
    }

    /// Returns true if a request can be sent now.
    pub(super) fn can_send(&self) -> bool {
        self.queue.has_queued() && self.queue.in_flight() < self.window
    }

    /// Returns what callers read of the outcomes without the lock.
    pub(super) fn watermark(&self) -> &Arc<AckWatermark> {
        self.waiters.watermark()
    }
}

impl From<ReceivedResponse> for Responses {
    fn from(response: ReceivedResponse) -> Self {
        Self::One(response)
    }
}

impl From<Response> for Responses {
    fn from(response: Response) -> Self {
        Self::One(Ok(response))
    }
}
