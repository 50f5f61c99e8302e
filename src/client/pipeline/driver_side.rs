//! The driver's side: requests go out, answers come in, connections come and go, time passes.

use std::{sync::Arc, task::Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Phase, Pipeline,
    send_queue::{Completed, Entry, Kind},
    waiters::Answer,
};
use crate::{
    error::{ConnectionError, Delivery, Error},
    metric::Metrics,
    protocol::Response,
};

/// What a connection brings: answers, in their order.
#[derive(Debug)]
pub(in crate::client) enum Responses {
    One(Response),
    /// So many times `ok` without data.
    Acknowledgements(usize),
}

impl From<Response> for Responses {
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
        if self.queue.take(self.window, dst) > 0 {
            self.admit(now, wakers);
            self.update_stall_clock(now);
        }
    }

    /// Whether there are requests that could be sent if more might be in flight.
    pub(in crate::client) fn has_queued(&self) -> bool {
        self.queue.has_waiting()
    }

    pub(in crate::client) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Whether a request could be sent now.
    pub(in crate::client) fn can_send(&self) -> bool {
        self.queue.has_waiting() && self.queue.in_flight() < self.window
    }

    /// When [`expire`](Self::expire) has to be called next.
    pub(in crate::client) fn next_expiry(&mut self) -> Option<Instant> {
        let stalled = self.response_due_since.map(|since| since + self.settings.stall_timeout());
        let waiting = self.overflow.front().map(|(_, (entry, _))| entry.deadline);
        let deadline = self.queue.first_wanted().map(|entry| entry.deadline).or(waiting);
        let idle = if self.wait_position.is_empty() { None } else { self.reserved_until() };
        [stalled, deadline, idle, self.trim_due()].into_iter().flatten().min()
    }

    /// Remembers the driver, to be woken by the next request that it can send; or, if it wants to ask
    /// whether the server can pipeline, by the next at all.
    pub(in crate::client) fn park(&mut self, driver: &Waker, probe_on_queueing: bool) {
        self.probe_on_queueing = probe_on_queueing;
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    /// Hands out answers in their order. Whether the server has begun another answer after them is
    /// `mid_response`: if nothing is asked, that is one that nobody asked for. Nor has anybody asked as long as
    /// the request is not written to its end, as the last `unsent_requests` of those taken are not: a server that
    /// answers the beginning of one will answer the end of it too, when the next is in flight.
    pub(in crate::client) fn complete(
        &mut self,
        answers: impl IntoIterator<Item = impl Into<Responses>>,
        mid_response: bool,
        unsent_requests: usize,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        for answers in answers {
            self.response_due_since = None;
            match answers.into() {
                Responses::One(response) => self.answer(response, unsent_requests, wakers)?,
                Responses::Acknowledgements(count) => {
                    self.acknowledge(count, unsent_requests, wakers)?;
                }
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

    /// What has been found for callers who have left, to be dropped when the lock is released.
    pub(in crate::client) fn take_unclaimed(&mut self) -> Vec<Metrics> {
        std::mem::take(&mut self.unclaimed)
    }

    /// Whether the oldest answer is later than it may be.
    pub(in crate::client) fn is_stalled(&self, now: Instant) -> bool {
        self.response_due_since.is_some_and(|since| now >= since + self.settings.stall_timeout())
    }

    /// Tells those whose deadline has passed, and says when the pipeline wants to be told the time
    /// again.
    pub(in crate::client) fn expire(
        &mut self,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut late = self.queue.expire(now);
        late.extend(self.expire_waiting(now));
        for entry in late {
            let error = Error::Timeout {
                after: self.settings.request_timeout,
                delivery: delivery(&entry),
                cause: self.last_error.clone(),
            };
            self.fail(&entry, &error, wakers);
        }
        self.admit(now, wakers);
        self.update_stall_clock(now);
        self.next_expiry()
    }

    /// There is a connection, on which this many requests may be in flight at once.
    pub(in crate::client) fn connected(&mut self, window: usize) {
        self.last_error = None;
        self.window = window;
        self.counters.connects += 1;
    }

    /// More, or fewer, requests may be in flight at once.
    pub(in crate::client) fn set_window(&mut self, window: usize) {
        self.window = window;
    }

    /// There is still no connection.
    pub(in crate::client) fn on_connect_failed(&mut self, fault: Arc<ConnectionError>) {
        self.last_error = Some(fault);
    }

    /// The connection is gone. What was in flight goes again before anything newer, unless the
    /// server broke the protocol: then it fails, all with one cause. Says how many requests go
    /// again.
    pub(in crate::client) fn disconnected(
        &mut self,
        fault: &Arc<ConnectionError>,
        wakers: &mut Vec<Waker>,
    ) -> usize {
        let mut queue = std::mem::take(&mut self.queue);
        let mut again = 0;
        queue.rewind(|entry| {
            let lost = entry.sent - entry.answered;
            if entry.waiter.is_none() {
                return false;
            }
            let retry = match entry.kind {
                Kind::Put => self.settings.resend_unacknowledged,
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
        self.last_error = Some(Arc::clone(fault));
        self.response_due_since = None;
        self.window = 1;
        self.counters.retried += again as u64;
        again
    }

    /// How many requests have been sent and not been answered.
    pub(in crate::client) fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// Whether nobody waits for anything.
    pub(in crate::client) fn is_drained(&self) -> bool {
        self.outstanding() == 0
    }

    /// The driver's runtime is gone: the errors say so when everything [ends](Self::end).
    pub(in crate::client) fn orphan(&mut self) {
        self.is_orphaned = true;
    }

    /// Ends everything: whoever waits is told, whoever comes is refused.
    pub(in crate::client) fn end(
        &mut self,
        fault: Option<&Arc<ConnectionError>>,
        wakers: &mut Vec<Waker>,
    ) {
        if let Some(fault) = fault {
            self.last_error = Some(Arc::clone(fault));
        }
        let mut queue = std::mem::take(&mut self.queue);
        let mut left = Vec::new();
        queue.rewind(|entry| {
            left.push(*entry);
            false
        });
        self.cancel_reservations(wakers);
        left.extend(self.overflow.drain().map(|(entry, _)| entry));
        for entry in left {
            let delivery = delivery(&entry);
            let error = match fault {
                Some(fault) => Error::Connection { fault: Arc::clone(fault), delivery },
                None => self.closed(delivery),
            };
            self.fail(&entry, &error, wakers);
        }
        self.response_due_since = None;
        self.phase = Phase::Closed;
        wakers.extend(self.driver.take());
    }

    fn answer(
        &mut self,
        response: Response,
        unsent_requests: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        let kind = self.due(unsent_requests)?;
        let outcome = match (kind, response) {
            (_, Response::Error(message)) => Err(Error::Rejected { message: message.into() }),
            (Kind::Get, Response::Ok(metrics)) if !self.queue.asked_for_all(&metrics) => {
                return Err(ConnectionError::DataForAnotherKey);
            }
            (Kind::Get, Response::Ok(metrics)) => Ok(Answer::Found(metrics)),
            (Kind::Get, Response::Malformed(record)) => Err(record.into()),
            (Kind::Get, Response::TooLarge { limit }) => Err(Error::ResponseTooLarge { limit }),
            (Kind::Put, Response::Ok(metrics)) if metrics.is_empty() => Ok(Answer::Stored),
            (Kind::Put, _) => return Err(ConnectionError::DataForPut),
        };
        match (self.queue.answer(1), outcome) {
            (Some(Completed { waiter: Some(waiter), index, requests }), outcome) => {
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
        unsent_requests: usize,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        while count > 0 {
            let outcome = match self.due(unsent_requests)? {
                Kind::Put => Answer::Stored,
                Kind::Get => Answer::Found(Metrics::default()),
            };
            let most = count.min(self.queue.in_flight() - unsent_requests);
            let Some(Completed { waiter, index, requests }) = self.queue.answer(most) else {
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
    fn due(&mut self, unsent_requests: usize) -> Result<Kind, ConnectionError> {
        let due = self.queue.due().filter(|_| self.queue.in_flight() > unsent_requests);
        due.ok_or(ConnectionError::Unsolicited)
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
