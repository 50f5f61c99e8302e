//! The driver's side: requests go out, answers come in, connections come and go, time passes.

use std::{sync::Arc, task::Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Phase, Pipeline,
    queue::{Answered, Entry, Kind},
    waiters::Answer,
};
use crate::{
    error::{ConnectionFault, Delivery, Error},
    metric::Metrics,
    protocol::Response,
};

/// What a connection brings: answers, in their order.
#[derive(Debug)]
pub(in crate::client) enum Answers {
    One(Response),
    /// So many times `ok` without data.
    Acknowledgements(usize),
}

impl From<Response> for Answers {
    fn from(response: Response) -> Self {
        Self::One(response)
    }
}

impl Pipeline {
    /// Appends to `dst` what may be sent now.
    pub(in crate::client) fn take(
        &mut self,
        dst: &mut BytesMut,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) {
        if self.queue.take(self.width, dst) > 0 {
            self.admit(now, wakers);
            self.note_due(now);
        }
    }

    /// Whether there are requests that could be sent if more might be in flight.
    pub(in crate::client) fn is_held_back(&self) -> bool {
        self.queue.has_waiting()
    }

    pub(in crate::client) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Whether a request could be sent now.
    pub(in crate::client) fn can_send(&self) -> bool {
        self.queue.has_waiting() && self.queue.in_flight() < self.width
    }

    /// When [`expire`](Self::expire) has to be called next.
    pub(in crate::client) fn next_expiry(&mut self) -> Option<Instant> {
        let stalled = self.due_since.map(|since| since + self.settings.stall_timeout);
        let waiting = self.overflow.front().map(|(_, (entry, _))| entry.deadline);
        let deadline = self.queue.first_wanted().map(|entry| entry.deadline).or(waiting);
        let idle = if self.in_line.is_empty() { None } else { self.reserved_until() };
        [stalled, deadline, idle, self.trim_due()].into_iter().flatten().min()
    }

    /// Remembers the driver, to be woken by the next request that it can send; or, if it wants to ask
    /// whether the server can pipeline, by the next at all.
    pub(in crate::client) fn park(&mut self, driver: &Waker, wants_probe: bool) {
        self.wants_probe = wants_probe;
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    /// Hands out answers in their order. Whether the server has begun another answer after them is
    /// `amid`: if nothing is asked, that is one that nobody asked for. Nor has anybody asked as long as
    /// the request is not written to its end, as the last `unwritten` of those taken are not: a server that
    /// answers the beginning of one will answer the end of it too, when the next is in flight.
    pub(in crate::client) fn complete(
        &mut self,
        answers: impl IntoIterator<Item = impl Into<Answers>>,
        amid: bool,
        unwritten: usize,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        for answers in answers {
            self.due_since = None;
            match answers.into() {
                Answers::One(response) => self.answer(response, unwritten, wakers)?,
                Answers::Acknowledgements(count) => self.acknowledge(count, unwritten, wakers)?,
            }
        }
        if amid && self.queue.in_flight() <= unwritten {
            return Err(ConnectionFault::Unsolicited);
        }
        self.note_due(now);
        let first = self.entries().next().map_or(self.next_seq, |entry| entry.seq);
        self.waiters.settle_before(first);
        Ok(())
    }

    /// What has been found for callers who have left, to be dropped when the lock is released.
    pub(in crate::client) fn take_unclaimed(&mut self) -> Vec<Metrics> {
        std::mem::take(&mut self.unclaimed)
    }

    /// Whether the oldest answer is later than it may be.
    pub(in crate::client) fn is_stalled(&self, now: Instant) -> bool {
        self.due_since.is_some_and(|since| now >= since + self.settings.stall_timeout)
    }

    /// Tells those whose deadline has passed, and says when the pipeline wants to be told the time
    /// again.
    pub(in crate::client) fn expire(
        &mut self,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut late = self.queue.expire(now);
        late.extend(self.leave_line(now));
        for entry in late {
            let error = Error::Timeout {
                after: self.settings.request_timeout,
                delivery: delivery(&entry),
                cause: self.trouble.clone(),
            };
            self.fail(&entry, &error, wakers);
        }
        self.admit(now, wakers);
        self.note_due(now);
        self.next_expiry()
    }

    /// There is a connection, on which this many requests may be in flight at once.
    pub(in crate::client) fn connected(&mut self, width: usize) {
        self.trouble = None;
        self.width = width;
        self.counters.connects += 1;
    }

    /// More, or fewer, requests may be in flight at once.
    pub(in crate::client) fn set_width(&mut self, width: usize) {
        self.width = width;
    }

    /// There is still no connection.
    pub(in crate::client) fn not_connected(&mut self, fault: Arc<ConnectionFault>) {
        self.trouble = Some(fault);
    }

    /// The connection is gone. What was in flight goes again before anything newer, unless the
    /// server broke the protocol: then it fails, all with one cause. Says how many requests go
    /// again.
    pub(in crate::client) fn disconnected(
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

    /// How many requests have been sent and not been answered.
    pub(in crate::client) fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// Whether nobody waits for anything.
    pub(in crate::client) fn is_drained(&self) -> bool {
        self.open() == 0
    }

    /// The driver's runtime is gone: the errors say so when everything [ends](Self::end).
    pub(in crate::client) fn orphan(&mut self) {
        self.is_orphaned = true;
    }

    /// Ends everything: whoever waits is told, whoever comes is refused.
    pub(in crate::client) fn end(
        &mut self,
        fault: Option<&Arc<ConnectionFault>>,
        wakers: &mut Vec<Waker>,
    ) {
        if let Some(fault) = fault {
            self.trouble = Some(Arc::clone(fault));
        }
        let mut queue = std::mem::take(&mut self.queue);
        let mut left = Vec::new();
        queue.restart(|entry| {
            left.push(*entry);
            false
        });
        self.dismiss(wakers);
        left.extend(self.overflow.drain().map(|(entry, _)| entry));
        for entry in left {
            let delivery = delivery(&entry);
            let error = match fault {
                Some(fault) => Error::Connection { fault: Arc::clone(fault), delivery },
                None => self.closed(delivery),
            };
            self.fail(&entry, &error, wakers);
        }
        self.due_since = None;
        self.phase = Phase::Closed;
        wakers.extend(self.driver.take());
    }

    fn answer(
        &mut self,
        response: Response,
        unwritten: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        let kind = self.due(unwritten)?;
        let outcome = match (kind, response) {
            (_, Response::Error(message)) => Err(Error::Rejected { message: message.into() }),
            (Kind::Get, Response::Ok(metrics)) if !self.queue.asked_for_all(&metrics) => {
                return Err(ConnectionFault::DataForAnotherKey);
            }
            (Kind::Get, Response::Ok(metrics)) => Ok(Answer::Found(metrics)),
            (Kind::Get, Response::Malformed(record)) => Err(record.into()),
            (Kind::Get, Response::TooLarge { limit }) => Err(Error::ResponseTooLarge { limit }),
            (Kind::Put, Response::Ok(metrics)) if metrics.is_empty() => Ok(Answer::Stored),
            (Kind::Put, _) => return Err(ConnectionFault::DataForPut),
        };
        match (self.queue.answer(1), outcome) {
            (Some(Answered { waiter: Some(waiter), index, requests }), outcome) => {
                self.finish(waiter, index, requests, outcome, wakers);
            }
            (_, Ok(Answer::Found(metrics))) => self.unclaimed.push(metrics),
            _ => {}
        }
        Ok(())
    }

    /// `count` times `ok` without data: a put is stored, a get has found nothing.
    fn acknowledge(
        &mut self,
        mut count: usize,
        unwritten: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionFault> {
        while count > 0 {
            let outcome = match self.due(unwritten)? {
                Kind::Put => Answer::Stored,
                Kind::Get => Answer::Found(Metrics::default()),
            };
            let most = count.min(self.queue.in_flight() - unwritten);
            let Some(Answered { waiter, index, requests }) = self.queue.answer(most) else {
                break;
            };
            count -= requests;
            if let Some(waiter) = waiter {
                self.finish(waiter, index, requests, Ok(outcome), wakers);
            }
        }
        Ok(())
    }

    /// The kind of the request whose answer is due next.
    #[inline]
    fn due(&mut self, unwritten: usize) -> Result<Kind, ConnectionFault> {
        let due = self.queue.due().filter(|_| self.queue.in_flight() > unwritten);
        due.ok_or(ConnectionFault::Unsolicited)
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
}

fn delivery(entry: &Entry) -> Delivery {
    if entry.is_attempted() { Delivery::Unknown } else { Delivery::NotSent }
}
