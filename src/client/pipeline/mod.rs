//! What is in flight, what waits to be sent, and who waits for which answer.
//!
//! Pure state: nothing here reads a clock, touches a socket or wakes a task. The driver and the
//! handles share it under one lock, tell it the time, and wake whom it names once the lock is
//! released.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use self::{
    queue::{Answered, Entry, Kind, Queue},
    waiters::{Removed, Waiters},
};
use super::{
    config::Overflow,
    stats::{Counters, Stats},
};
use crate::{
    error::{ConnectionFault, Delivery, Error},
    metric::{Metrics, Point, Selector},
    protocol::{self, Response},
};

mod queue;
mod waiters;

#[cfg(test)]
mod tests;

pub(super) use waiters::{Answer, Progress, WaiterId};

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
    /// Requests for which the queue had no room, in their order.
    overflow: VecDeque<(Entry, Box<[u8]>)>,
    waiters: Waiters,
    next_seq: u64,
    /// How many requests may be in flight at once.
    width: usize,
    /// Since when the answer that is due next has been due.
    due_since: Option<Instant>,
    phase: Phase,
    /// Why there is no connection, if there is none.
    trouble: Option<Arc<ConnectionFault>>,
    /// The driver's task, while it has nothing to do until a handle has something for it.
    driver: Option<Waker>,
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

/// What a connection brings: answers, in their order.
#[derive(Debug)]
pub(super) enum Answers {
    One(Response),
    /// So many times `ok` without data.
    Acknowledgements(usize),
}

impl From<Response> for Answers {
    fn from(response: Response) -> Self {
        Self::One(response)
    }
}

/// A request has been accepted.
pub(super) struct Submitted {
    pub(super) waiter: WaiterId,
    /// The driver, if it has to be woken.
    pub(super) driver: Option<Waker>,
}

impl Pipeline {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: Queue::default(),
            overflow: VecDeque::new(),
            waiters: Waiters::default(),
            next_seq: 0,
            width: 1,
            due_since: None,
            phase: Phase::Open,
            trouble: None,
            driver: None,
            close_failure: None,
            counters: Counters::default(),
        }
    }

    // The handles' side.

    /// Accepts a put. The key must have been checked, and the value be finite.
    #[inline]
    pub(super) fn put(
        &mut self,
        key: &str,
        point: Point,
        now: Instant,
    ) -> Result<Submitted, Error> {
        self.submit(Kind::Put, now, |bytes| protocol::encode_put(bytes, key, point))
    }

    /// Accepts a get.
    pub(super) fn get(&mut self, selector: &Selector, now: Instant) -> Result<Submitted, Error> {
        self.submit(Kind::Get, now, |bytes| protocol::encode_get(bytes, selector))
    }

    /// Makes a batch, which has no request yet.
    pub(super) fn begin_batch(&mut self) -> WaiterId {
        self.waiters.add_batch()
    }

    /// Accepts `requests` puts of a batch, of which the first stands at `index`, as one entry.
    pub(super) fn extend_batch(
        &mut self,
        batch: WaiterId,
        index: usize,
        requests: usize,
        puts: &[u8],
        now: Instant,
    ) -> Result<Option<Waker>, Error> {
        self.check_open()?;
        let mut entry = self.entry(batch, Kind::Put, now);
        (entry.index, entry.requests) = (index, requests);
        self.accept(entry, |bytes| bytes.extend_from_slice(puts))?;
        self.waiters.grow(batch, requests);
        Ok(self.driver_to_wake(requests))
    }

    /// How far the batch has come, once at most `unfinished` of its requests have no outcome; or a
    /// promise to wake the task.
    pub(super) fn poll_batch(
        &mut self,
        batch: WaiterId,
        unfinished: usize,
        waker: &Waker,
    ) -> Poll<&Progress> {
        self.waiters.poll_batch(batch, unfinished, waker)
    }

    /// The outcome of a single request, after which its waiter is gone; or a promise to wake the
    /// task.
    #[inline]
    pub(super) fn poll(&mut self, waiter: WaiterId, waker: &Waker) -> Poll<Result<Answer, Error>> {
        self.waiters.poll_one(waiter, waker)
    }

    /// The caller has left. What it has not sent will not be sent; what it has sent keeps its place
    /// until the answer comes, which is dropped.
    pub(super) fn abandon(&mut self, waiter: WaiterId, now: Instant, wakers: &mut Vec<Waker>) {
        let mut left = Vec::new();
        match self.waiters.remove(waiter) {
            Removed::Finished => return,
            Removed::One(seq) => left.extend(self.remove_entry(seq)),
            Removed::Batch => {
                let seqs = self
                    .queue
                    .entries()
                    .chain(self.overflow.iter().map(|(entry, _)| entry))
                    .filter(|entry| entry.waiter == Some(waiter))
                    .map(|entry| entry.seq)
                    .collect::<Vec<_>>();
                left.extend(seqs.into_iter().filter_map(|seq| self.remove_entry(seq)));
            }
        }
        for entry in left {
            self.counters.cancelled += (entry.requests - entry.answered) as u64;
        }
        self.admit();
        self.note_due(now);
        // There may be room for another request, or nothing left to drain.
        wakers.extend(self.driver.take());
    }

    /// Takes no more requests. What has been accepted is served.
    pub(super) fn close(&mut self) -> Option<Waker> {
        if let Phase::Open = self.phase {
            self.phase = Phase::Draining;
        }
        self.driver.take()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    /// The first error that a request met, other than a refusal, after the pipeline was closed.
    pub(super) fn close_failure(&self) -> Option<Error> {
        self.close_failure.clone()
    }

    // The driver's side.

    /// Appends to `dst` what may be sent now.
    pub(super) fn take(&mut self, dst: &mut BytesMut, now: Instant) {
        if self.queue.take(self.width, dst) > 0 {
            self.admit();
            self.note_due(now);
        }
    }

    /// Whether there are requests that could be sent if more might be in flight.
    pub(super) fn is_held_back(&self) -> bool {
        self.queue.has_waiting()
    }

    /// Whether a request could be sent now.
    pub(super) fn can_send(&self) -> bool {
        self.queue.has_waiting() && self.queue.in_flight() < self.width
    }

    /// When [`expire`](Self::expire) has to be called next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let stalled = self.due_since.map(|since| since + self.settings.stall_timeout);
        let deadline = self
            .queue
            .entries()
            .chain(self.overflow.iter().map(|(entry, _)| entry))
            .find(|entry| entry.waiter.is_some())
            .map(|entry| entry.deadline);
        [stalled, deadline].into_iter().flatten().min()
    }

    /// Remembers the driver, to be woken by the next request.
    pub(super) fn park(&mut self, driver: &Waker) {
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    /// Hands out answers in their order. Whether the server has begun another answer after them is
    /// `amid`: if nothing is asked, that is one that nobody asked for.
    pub(super) fn complete(
        &mut self,
        answers: impl IntoIterator<Item = impl Into<Answers>>,
        amid: bool,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        for answers in answers {
            self.due_since = None;
            match answers.into() {
                Answers::One(response) => self.answer(response, wakers)?,
                Answers::Acknowledgements(count) => self.acknowledge(count, wakers)?,
            }
        }
        if amid && self.queue.in_flight() == 0 {
            return Err(ConnectionFault::Unsolicited);
        }
        self.note_due(now);
        Ok(())
    }

    /// Whether the oldest answer is later than it may be.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.due_since.is_some_and(|since| now >= since + self.settings.stall_timeout)
    }

    /// Tells those whose deadline has passed, and says when the pipeline wants to be told the time
    /// again.
    pub(super) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> Option<Instant> {
        let mut late = self.queue.expire(now);
        let waiting_late =
            self.overflow.iter().take_while(|(entry, _)| entry.deadline <= now).count();
        late.extend(self.overflow.drain(..waiting_late).map(|(entry, _)| entry));
        for entry in late {
            let error = Error::Timeout {
                after: self.settings.request_timeout,
                delivery: delivery(&entry),
                cause: self.trouble.clone(),
            };
            self.fail(&entry, &error, wakers);
        }
        self.admit();
        self.note_due(now);
        self.next_expiry()
    }

    /// There is a connection, on which this many requests may be in flight at once.
    pub(super) fn connected(&mut self, width: usize) {
        self.trouble = None;
        self.width = width;
        self.counters.connects += 1;
    }

    /// More, or fewer, requests may be in flight at once.
    pub(super) fn set_width(&mut self, width: usize) {
        self.width = width;
    }

    /// There is still no connection.
    pub(super) fn not_connected(&mut self, fault: Arc<ConnectionFault>) {
        self.trouble = Some(fault);
    }

    /// The connection is gone. What was in flight goes again before anything newer, unless the
    /// server broke the protocol: then it fails, all with one cause. Says how many requests go
    /// again.
    pub(super) fn disconnected(
        &mut self,
        fault: &Arc<ConnectionFault>,
        wakers: &mut Vec<Waker>,
    ) -> usize {
        let mut queue = std::mem::take(&mut self.queue);
        let mut again = 0;
        queue.restart(|entry| {
            let lost = entry.sent - entry.answered;
            if entry.waiter.is_none() {
                return false;
            }
            let retry = match entry.kind {
                Kind::Put => self.settings.retry,
                Kind::Get => true,
            };
            if fault.is_protocol_violation() || !retry {
                let error =
                    Error::Connection { fault: Arc::clone(fault), delivery: Delivery::Unknown };
                let mut sent = *entry;
                sent.requests = entry.sent;
                self.fail(&sent, &error, wakers);
                entry.answered = entry.sent;
            } else {
                again += lost;
            }
            true
        });
        self.queue = queue;
        self.trouble = Some(Arc::clone(fault));
        self.due_since = None;
        self.width = 1;
        self.counters.retried += again as u64;
        again
    }

    /// Whether nobody waits for anything.
    pub(super) fn is_drained(&self) -> bool {
        self.counters.open() == 0
    }

    /// Ends everything: whoever waits is told, whoever comes is refused.
    pub(super) fn end(&mut self, fault: Option<&Arc<ConnectionFault>>, wakers: &mut Vec<Waker>) {
        self.phase = Phase::Closed;
        let mut queue = std::mem::take(&mut self.queue);
        let mut left = Vec::new();
        queue.restart(|entry| {
            left.push(*entry);
            false
        });
        left.extend(self.overflow.drain(..).map(|(entry, _)| entry));
        for entry in left {
            let delivery = delivery(&entry);
            let error = match fault {
                Some(fault) => Error::Connection { fault: Arc::clone(fault), delivery },
                None => Error::Closed { delivery },
            };
            self.fail(&entry, &error, wakers);
        }
        self.due_since = None;
    }

    // What both share.

    pub(super) fn stats(&self) -> Stats {
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

    #[inline]
    fn submit(
        &mut self,
        kind: Kind,
        now: Instant,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Submitted, Error> {
        self.check_open()?;
        let waiter = self.waiters.add_one(self.next_seq);
        match self.accept(self.entry(waiter, kind, now), encode) {
            Ok(()) => Ok(Submitted { waiter, driver: self.driver_to_wake(1) }),
            Err(error) => {
                self.waiters.remove(waiter);
                Err(error)
            }
        }
    }

    #[inline]
    fn accept(&mut self, entry: Entry, encode: impl FnOnce(&mut BytesMut)) -> Result<(), Error> {
        let waiting = self.queue.waiting_len();
        let len = self.queue.encode(encode);
        let limit = self.settings.max_buffered_bytes;
        if self.overflow.is_empty() && (waiting == 0 || waiting + len <= limit) {
            self.queue.push(entry, len);
        } else {
            let bytes = self.queue.pull_back(len);
            match self.settings.overflow {
                Overflow::Wait => self.overflow.push_back((entry, bytes)),
                Overflow::Fail => return Err(Error::QueueFull { limit }),
            }
        }
        self.next_seq += 1;
        self.counters.accepted += entry.requests as u64;
        Ok(())
    }

    /// The driver, if it can send the `requests` that have just been accepted; if it cannot, the
    /// next answer will rouse it. But if nobody else waits, it may not know yet that there is a
    /// deadline, and the next answer may never come.
    #[inline]
    fn driver_to_wake(&mut self, requests: usize) -> Option<Waker> {
        let can_send = self.queue.in_flight() < self.width;
        let first = self.counters.open() == requests as u64;
        if can_send || first { self.driver.take() } else { None }
    }

    fn answer(
        &mut self,
        response: Response,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        let kind = self.queue.due().ok_or(ConnectionFault::Unsolicited)?;
        let outcome = match (kind, response) {
            (_, Response::Error(message)) => Err(Error::Rejected { message: message.into() }),
            (Kind::Get, Response::Ok(metrics)) => Ok(Answer::Found(metrics)),
            (Kind::Get, Response::Malformed(record)) => Err(record.into()),
            (Kind::Put, Response::Ok(metrics)) if metrics.is_empty() => Ok(Answer::Stored),
            (Kind::Put, _) => return Err(ConnectionFault::DataForPut),
        };
        if let Some(Answered { waiter: Some(waiter), index, requests }) = self.queue.answer(1) {
            self.finish(waiter, index, requests, outcome, wakers);
        }
        Ok(())
    }

    /// `count` times `ok` without data: a put is stored, a get has found nothing.
    fn acknowledge(
        &mut self,
        mut count: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        while count > 0 {
            let outcome = match self.queue.due() {
                Some(Kind::Put) => Answer::Stored,
                Some(Kind::Get) => Answer::Found(Metrics::default()),
                None => return Err(ConnectionFault::Unsolicited),
            };
            let Some(Answered { waiter, index, requests }) = self.queue.answer(count) else {
                break;
            };
            count -= requests;
            if let Some(waiter) = waiter {
                self.finish(waiter, index, requests, Ok(outcome), wakers);
            }
        }
        Ok(())
    }

    /// Moves requests into the room that the queue has again.
    fn admit(&mut self) {
        while let Some((_, bytes)) = self.overflow.front() {
            let waiting = self.queue.waiting_len();
            if waiting > 0 && waiting + bytes.len() > self.settings.max_buffered_bytes {
                break;
            }
            if let Some((entry, bytes)) = self.overflow.pop_front() {
                let len = self.queue.encode(|queue| queue.extend_from_slice(&bytes));
                self.queue.push(entry, len);
            }
        }
    }

    #[inline]
    fn entry(&self, waiter: WaiterId, kind: Kind, now: Instant) -> Entry {
        Entry::new(self.next_seq, waiter, kind, now + self.settings.request_timeout)
    }

    fn remove_entry(&mut self, seq: u64) -> Option<Entry> {
        if let Some(entry) = self.queue.abandon(seq) {
            return Some(entry);
        }
        let place = self.overflow.binary_search_by_key(&seq, |(entry, _)| entry.seq).ok()?;
        self.overflow.remove(place).map(|(entry, _)| entry)
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

    /// All requests of the entry that have no answer fail.
    fn fail(&mut self, entry: &Entry, error: &Error, wakers: &mut Vec<Waker>) {
        let open = entry.requests - entry.answered;
        if let Some(waiter) = entry.waiter
            && open > 0
        {
            let index = entry.index + entry.answered;
            self.finish(waiter, index, open, Err(error.clone()), wakers);
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
        if let (Phase::Draining | Phase::Closed, Err(error)) = (&self.phase, &outcome)
            && self.close_failure.is_none()
            && !matches!(error, Error::Rejected { .. })
        {
            self.close_failure = Some(error.clone());
        }
        self.waiters.finish(waiter, index, requests, outcome, wakers);
    }

    #[inline]
    fn check_open(&self) -> Result<(), Error> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Draining | Phase::Closed => Err(Error::Closed { delivery: Delivery::NotSent }),
        }
    }
}

fn delivery(entry: &Entry) -> Delivery {
    if entry.is_attempted() { Delivery::Unknown } else { Delivery::NotSent }
}
