//! What is in flight, what waits to be sent, and who waits for which answer.
//!
//! Pure state: nothing here reads a clock, touches a socket or wakes a task. The driver and the
//! handles share it under one lock, tell it the time, and wake whom it names once the lock is
//! released.

use std::{collections::VecDeque, sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use self::{
    line::InLine,
    queue::{Entry, Queue},
    waiters::Waiters,
};
use super::{
    config::Overflow,
    stats::{Counters, Stats},
};
use crate::{
    error::{ConnectionFault, Error},
    protocol::MAX_REQUEST_LEN,
};

mod calls;
mod driving;
#[cfg_attr(not(feature = "tower"), expect(dead_code, reason = "a service alone keeps places"))]
mod line;
mod queue;
mod suspect;
mod waiters;

#[cfg(test)]
mod tests;

pub(super) use calls::Submitted;
pub(super) use driving::Answers;
#[cfg(feature = "tower")]
pub(super) use line::PlaceId;
pub(super) use queue::Kind;
pub(super) use suspect::RequestId;
pub(super) use waiters::{Answer, Progress, Settled, Slot, WaiterId};

/// What the pipeline is told once, when it is made.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) request_timeout: Duration,
    /// A connection whose oldest answer is later than this is dead.
    pub(super) stall_timeout: Duration,
    pub(super) max_buffered_bytes: usize,
    pub(super) overflow: Overflow,
    /// Whether puts that were sent and not acknowledged go again on the next connection.
    pub(super) retry: bool,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    settings: Settings,
    queue: Queue,
    /// Those for whom the queue had no room, in their order.
    overflow: VecDeque<InLine>,
    /// How many bytes of the queue are kept for requests to come.
    kept: usize,
    waiters: Waiters,
    next_seq: u64,
    /// How many requests may be in flight at once.
    width: usize,
    /// How many puts a batch should have in the queue at least.
    wanted_puts: usize,
    /// Since when the answer that is due next has been due.
    due_since: Option<Instant>,
    phase: Phase,
    /// Why there is no connection, if there is none.
    trouble: Option<Arc<ConnectionFault>>,
    /// The driver's task, while it has nothing to do until a handle has something for it.
    driver: Option<Waker>,
    /// Whether the driver wants to know when a request has to wait for the answer to another.
    wants_probe: bool,
    close_failure: Option<Error>,
    counters: Counters,
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
            queue: Queue::default(),
            overflow: VecDeque::new(),
            kept: 0,
            waiters: Waiters::default(),
            next_seq: 0,
            width: 1,
            wanted_puts: 0,
            due_since: None,
            phase: Phase::Open,
            trouble: None,
            driver: None,
            wants_probe: false,
            close_failure: None,
            counters: Counters::default(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let in_flight = self
            .queue
            .entries()
            .filter(|entry| entry.waiter.is_some())
            .map(|entry| entry.sent - entry.answered)
            .sum::<usize>();
        self.counters.stats(in_flight as u64)
    }

    /// How many requests have no outcome yet.
    pub(super) fn open(&self) -> u64 {
        self.counters.open()
    }

    /// What callers can see without the lock.
    pub(super) fn settled(&self) -> &Arc<Settled> {
        self.waiters.settled()
    }

    pub(super) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Gives those in line the room that the queue has again. Who gets a place is to be woken.
    fn admit(&mut self, wakers: &mut Vec<Waker>) {
        while let Some(first) = self.overflow.front() {
            let next = match first {
                InLine::Request(_, bytes) if self.has_room(bytes.len()) => Some(0),
                InLine::Place { .. } if self.has_room_for_place() => Some(0),
                // Places are kept, perhaps for long, while nothing waits to be sent: who has a request
                // need not wait for that.
                InLine::Place { .. } if self.queue.waiting_len() == 0 => {
                    self.overflow.iter().position(|in_line| in_line.entry().is_some())
                }
                _ => None,
            };
            match next.and_then(|next| self.overflow.remove(next)) {
                Some(InLine::Request(entry, bytes)) => {
                    let len = self.queue.encode(|queue| queue.extend_from_slice(&bytes));
                    self.queue.push(entry, len);
                }
                Some(InLine::Place { waker, .. }) => {
                    self.kept += MAX_REQUEST_LEN;
                    wakers.push(waker);
                }
                None => break,
            }
        }
    }

    /// Whether the queue has room for a request of so many bytes. One may always wait, however long it
    /// is.
    #[inline]
    fn has_room(&self, len: usize) -> bool {
        let waiting = self.queue.waiting_len();
        waiting == 0 || waiting + self.kept + len <= self.settings.max_buffered_bytes
    }

    fn has_room_for_place(&self) -> bool {
        let taken = self.queue.waiting_len() + self.kept;
        taken == 0 || taken + MAX_REQUEST_LEN <= self.settings.max_buffered_bytes
    }

    /// Every request that is not settled, in order.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.queue.entries().chain(self.overflow.iter().filter_map(InLine::entry))
    }

    /// Keeps [`Self::due_since`] true after what is in flight has changed.
    #[inline]
    fn note_due(&mut self, now: Instant) {
        if self.queue.in_flight() == 0 {
            self.due_since = None;
        } else if self.due_since.is_none() {
            self.due_since = Some(now);
        }
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
