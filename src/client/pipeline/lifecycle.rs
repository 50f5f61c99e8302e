//! What happens to requests besides being sent and completed: deadlines pass, connections come and go, the
//! client is closed.

use std::{sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    Phase, Pipeline,
    send_queue::{Entry, RequestKind},
};
use crate::{
    client::settings::CallTimeout,
    error::{ConnectionError, Delivery, Error},
    metric::Metrics,
};

impl Pipeline {
    /// Remembers the driver, to be woken by the next request that it can send; or, if it is to probe the server
    /// for pipelining, by the next one at all.
    pub(in crate::client) fn park(&mut self, driver: &Waker, probe_on_queueing: bool) {
        self.probe_on_queueing = probe_on_queueing;
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    /// Returns when [`expire`](Self::expire) has to be called next.
    pub(in crate::client) fn next_expiry(&mut self) -> Option<Instant> {
        let stalled = self.response_due_since.map(|since| since + self.settings.stall_timeout());
        let waiting = self.first_waiting().map(|entry| entry.deadline);
        let deadline = self.queue.first_expiring().map(|entry| entry.deadline).or(waiting);
        let own = self.first_own_deadline();
        let idle = if self.reservation_queue.is_empty() { None } else { self.reserved_until() };
        [stalled, deadline, own, idle, self.trim_due()].into_iter().flatten().min()
    }

    /// Fails the requests whose deadline has passed, and returns when this has to be called again.
    pub(in crate::client) fn expire(
        &mut self,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Instant> {
        let mut late = self.queue.expire(now);
        late.extend(self.expire_waiting(now));
        self.expire_own_deadlines(now, &mut late);
        for entry in late {
            let timeout = entry.own_timeout.map_or(self.settings.request_timeout, CallTimeout::get);
            let error = Error::Timeout {
                timeout,
                delivery: delivery(&entry),
                source: self.last_error.clone(),
            };
            self.fail(&entry, &error, wakers);
        }
        self.admit(now, wakers);
        self.update_stall_clock(now);
        self.next_expiry()
    }

    /// Returns true if the next response is later than the stall timeout.
    pub(in crate::client) fn is_stalled(&self, now: Instant) -> bool {
        self.response_due_since.is_some_and(|since| now >= since + self.settings.stall_timeout())
    }

    /// Starts to use a new connection, on which this many requests may be in flight at once.
    pub(in crate::client) fn on_connected(&mut self, window: usize) {
        self.last_error = None;
        self.window = window;
        self.counters.connects += 1;
    }

    pub(in crate::client) fn window(&self) -> usize {
        self.window
    }

    /// Sets how many requests may be in flight at once.
    pub(in crate::client) fn set_window(&mut self, window: usize) {
        self.window = window;
    }

    /// Remembers why there is still no connection.
    pub(in crate::client) fn on_connect_failed(&mut self, error: Arc<ConnectionError>) {
        self.last_error = Some(error);
    }

    /// Readies the requests for another connection. Those in flight are sent again before anything newer;
    /// if the server broke the protocol, they fail instead, all with one cause. Returns how many will be sent
    /// again.
    pub(in crate::client) fn on_disconnected(
        &mut self,
        error: &Arc<ConnectionError>,
        wakers: &mut Vec<Waker>,
    ) -> usize {
        let mut queue = std::mem::take(&mut self.queue);
        let mut retried = 0;
        queue.rewind(|entry| {
            let lost = entry.sent - entry.answered;
            if entry.waiter.is_none() {
                return false;
            }
            let may_resend = match entry.kind {
                RequestKind::Put => self.settings.resend_unacknowledged,
                RequestKind::Get => true,
            };
            if error.is_protocol_violation() || !may_resend {
                let error = connection_lost(error, Delivery::Unknown);
                let mut sent = *entry;
                sent.requests = entry.sent;
                self.fail(&sent, &error, wakers);
                entry.answered = entry.sent;
            } else {
                retried += lost;
            }
            true
        });
        self.queue = queue;
        self.last_error = Some(Arc::clone(error));
        self.response_due_since = None;
        self.window = 1;
        self.counters.retried += retried as u64;
        retried
    }

    /// Returns true if no request is outstanding.
    pub(in crate::client) fn is_drained(&self) -> bool {
        self.outstanding() == 0
    }

    /// Returns what was found for callers that have left, to be dropped when the lock is released.
    pub(in crate::client) fn take_unclaimed(&mut self) -> Vec<Metrics> {
        std::mem::take(&mut self.unclaimed)
    }

    /// Stops accepting requests. What has been accepted is served.
    pub(in crate::client) fn close(&mut self) -> Option<Waker> {
        if let Phase::Open = self.phase {
            self.phase = Phase::Draining;
        }
        self.driver.take()
    }

    /// Fails every outstanding request. A response that is due for one is dropped when it comes.
    pub(in crate::client) fn abort(&mut self, wakers: &mut Vec<Waker>) {
        let mut left = self.queue.cancel_all();
        left.extend(self.wait_queue.drain().map(|(entry, _)| entry));
        for entry in left {
            let error = self.closed(delivery(&entry));
            self.fail(&entry, &error, wakers);
        }
        wakers.extend(self.driver.take());
    }

    pub(in crate::client) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Notes that the driver's runtime is gone, for the errors of [`close_now`](Self::close_now).
    pub(in crate::client) fn orphan(&mut self) {
        self.is_orphaned = true;
    }

    /// Fails every request, and accepts none any more.
    pub(in crate::client) fn close_now(
        &mut self,
        error: Option<&Arc<ConnectionError>>,
        wakers: &mut Vec<Waker>,
    ) {
        if let Some(error) = error {
            self.last_error = Some(Arc::clone(error));
        }
        let mut queue = std::mem::take(&mut self.queue);
        let mut left = Vec::new();
        queue.rewind(|entry| {
            left.push(*entry);
            false
        });
        self.cancel_reservations(wakers);
        left.extend(self.wait_queue.drain().map(|(entry, _)| entry));
        for entry in left {
            let delivery = delivery(&entry);
            let error = match error {
                Some(error) => connection_lost(error, delivery),
                None => self.closed(delivery),
            };
            self.fail(&entry, &error, wakers);
        }
        self.response_due_since = None;
        self.phase = Phase::Closed;
        wakers.extend(self.driver.take());
    }

    /// Returns the first error, other than a rejection, of a request that was outstanding when the client was
    /// closed.
    pub(in crate::client) fn close_failure(&self) -> Option<Error> {
        self.close_failure.clone()
    }

    pub(in crate::client) fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    #[inline]
    pub(in crate::client) fn check_open(&self) -> Result<(), Error> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Draining | Phase::Closed => Err(self.closed(Delivery::NotSent)),
        }
    }

    /// Returns why a request cannot be served any more.
    #[cold]
    pub(super) fn closed(&self, delivery: Delivery) -> Error {
        if self.is_orphaned {
            Error::RuntimeGone { delivery }
        } else {
            Error::Closed { delivery, source: self.last_error.clone() }
        }
    }

    /// Fails all requests of the entry that have no response.
    fn fail(&mut self, entry: &Entry, error: &Error, wakers: &mut Vec<Waker>) {
        let outstanding = entry.requests - entry.answered;
        if let Some(waiter) = entry.waiter
            && outstanding > 0
        {
            let index = entry.index + entry.answered;
            self.finish(waiter, index, outstanding, Err(error.clone()), wakers);
        }
    }
}

fn delivery(entry: &Entry) -> Delivery {
    if entry.is_attempted() { Delivery::Unknown } else { Delivery::NotSent }
}

fn connection_lost(error: &Arc<ConnectionError>, delivery: Delivery) -> Error {
    Error::Connection { source: Arc::clone(error), delivery }
}
