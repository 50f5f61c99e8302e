//! What is in flight, what waits to be sent, and who waits for which answer.
//!
//! Pure state: nothing here reads a clock, touches a socket or wakes a task. The driver and the
//! handles share it under one lock, tell it the time, and wake whom it names once the lock is
//! released.

use std::{sync::Arc, task::Waker};

use tokio::time::Instant;

use self::{
    send_queue::{Entry, SendQueue},
    trim::Trim,
    wait_queue::WaitQueue,
    waiters::Waiters,
};
use super::{
    settings::Settings,
    stats::{ClientStats, Counters},
};
use crate::{
    error::{ConnectionError, Error},
    metric::Metrics,
    protocol::MAX_REQUEST_LEN,
};

mod driver_side;
mod handle_side;
#[cfg_attr(not(feature = "tower"), expect(dead_code, reason = "a service alone keeps places"))]
mod reservations;
mod send_queue;
mod steps;
mod suspect;
mod trim;
mod wait_queue;
mod waiters;

#[cfg(test)]
mod tests;

pub(super) use driver_side::Responses;
pub(super) use handle_side::Submitted;
#[cfg(feature = "tower")]
pub(super) use reservations::ReservationId;
pub(super) use send_queue::Kind;
pub(super) use suspect::RequestId;
pub(super) use waiters::{AckWatermark, Answer, Progress, Slot, WaiterId};

#[derive(Debug)]
pub(super) struct Pipeline {
    settings: Settings,
    queue: SendQueue,
    /// The requests for which the queue had no room.
    overflow: WaitQueue<(Entry, Box<[u8]>)>,
    /// The tasks that wait for a reservation, in one line with [`Self::overflow`]: the sequence
    /// numbers say who comes first.
    wait_position: WaitQueue<Waker>,
    /// The reservations, each of the longest request, and since when each has been held.
    reserved: WaitQueue<Instant>,
    waiters: Waiters,
    next_seq: u64,
    /// How many requests may be in flight at once.
    window: usize,
    /// How many puts a batch should have in the queue at least.
    wanted_puts: usize,
    /// Since when the answer that is due next has been due.
    response_due_since: Option<Instant>,
    phase: Phase,
    /// Whether the runtime on which the driver lived has ended.
    is_orphaned: bool,
    /// Why there is no connection, if there is none.
    last_error: Option<Arc<ConnectionError>>,
    /// The driver's task, while it has nothing to do until a handle has something for it.
    driver: Option<Waker>,
    /// Whether the driver wants to know when a request has to wait for the answer to another.
    probe_on_queueing: bool,
    close_failure: Option<Error>,
    /// What was found for callers who have left. Dropping it can take long, and is not done under the
    /// lock.
    unclaimed: Vec<Metrics>,
    counters: Counters,
    /// When to look again whether memory can be given back, if much is held.
    trim: Option<Trim>,
}

#[derive(Debug)]
enum Phase {
    Open,
    /// Takes nothing more, and serves what it has.
    Draining,
    /// Serves nobody any more.
    Closed,
}

impl Pipeline {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: SendQueue::default(),
            overflow: WaitQueue::new(),
            wait_position: WaitQueue::new(),
            reserved: WaitQueue::new(),
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

    pub(super) fn stats(&self) -> ClientStats {
        let in_flight = self
            .queue
            .entries()
            .filter(|entry| entry.waiter.is_some())
            .map(|entry| entry.sent - entry.answered)
            .sum::<usize>();
        self.counters.stats(in_flight as u64)
    }

    /// How many requests have no outcome yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.counters.outstanding()
    }

    /// What callers can see without the lock.
    pub(super) fn settled(&self) -> &Arc<AckWatermark> {
        self.waiters.settled()
    }

    pub(super) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Gives those in line the room that the queue has again, and that reservations have which were
    /// held too long. Who gets a reservation is to be woken; so is the driver, for the next one's
    /// sake.
    fn admit(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        let mut granted = false;
        loop {
            let request = self.overflow.front().map(|(seq, (_, bytes))| (seq, bytes.len()));
            let reservation = self.wait_position.front().map(|(seq, _)| seq);
            let place_is_first = match (reservation, request) {
                (Some(reservation), Some((request, _))) => reservation < request,
                (reservation, _) => reservation.is_some(),
            };
            // Reservations are held, perhaps for long, while nothing waits to be sent: a
            // request need not wait for that.
            let admits = request.is_some_and(|(_, len)| {
                if place_is_first { self.queue.waiting_len() == 0 } else { self.has_room(len) }
            });
            if place_is_first && self.can_reserve() {
                wakers.extend(self.wait_position.pop());
                self.reserved.push(reservation.unwrap_or_default(), now);
                granted = true;
            } else if admits && let Some((entry, bytes)) = self.overflow.pop() {
                let len = self.queue.encode(|queue| queue.extend_from_slice(&bytes));
                self.queue.push(entry, len);
            } else if (reservation.is_none() && request.is_none()) || !self.take_back_idle(now) {
                break;
            }
        }
        if granted && !self.wait_position.is_empty() {
            // It may not know yet when this reservation has been held too long.
            wakers.extend(self.driver.take());
        }
    }

    /// Takes back the oldest reservation, if it has been held for the request timeout. Says whether.
    fn take_back_idle(&mut self, now: Instant) -> bool {
        let due = self.reserved_until();
        due.is_some_and(|due| due <= now) && self.reserved.pop().is_some()
    }

    /// When the oldest reservation has been held for the request timeout.
    fn reserved_until(&self) -> Option<Instant> {
        self.reserved.front().map(|(_, &since)| since + self.settings.request_timeout)
    }

    /// Whether the queue has room for a request of so many bytes. One may always wait, however long it
    /// is.
    #[inline]
    fn has_room(&self, len: usize) -> bool {
        let waiting = self.queue.waiting_len();
        waiting == 0 || waiting + self.reserved_bytes() + len <= self.settings.max_buffered_bytes
    }

    fn can_reserve(&self) -> bool {
        let taken = self.queue.waiting_len() + self.reserved_bytes();
        taken == 0 || taken + MAX_REQUEST_LEN <= self.settings.max_buffered_bytes
    }

    #[inline]
    fn line_is_empty(&self) -> bool {
        self.overflow.is_empty() && self.wait_position.is_empty()
    }

    /// How many bytes of the queue are kept for requests to come.
    #[inline]
    fn reserved_bytes(&self) -> usize {
        self.reserved.len() * MAX_REQUEST_LEN
    }

    /// Every request that is not settled, in order.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.queue.entries().chain(self.overflow.values().map(|(entry, _)| entry))
    }

    /// Keeps [`Self::response_due_since`] true after what is in flight has changed, and has memory given back in
    /// time.
    #[inline]
    fn update_stall_clock(&mut self, now: Instant) {
        if self.queue.in_flight() == 0 {
            self.response_due_since = None;
        } else if self.response_due_since.is_none() {
            self.response_due_since = Some(now);
        }
        self.note_memory(now);
    }

    #[inline]
    fn finish(
        &mut self,
        waiter: WaiterId,
        index: usize,
        requests: usize,
        outcome: Result<Answer, Error>,
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
}
