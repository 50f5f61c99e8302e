//! What happens when the queue is full: requests wait in line in front of it, with the tasks that want to
//! reserve room in it for a request to come.

use std::task::{Poll, Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Pipeline, Refused, Submitted,
    send_queue::{Entry, RequestKind},
};
use crate::{
    client::settings::{CallTimeout, WhenFull},
    error::Error,
    protocol::MAX_REQUEST_LEN,
};

/// How a request gets into the queue.
#[derive(Clone, Copy)]
pub(in crate::client) enum Admission {
    /// If there is room; otherwise it waits in line or is refused, as the settings say.
    ByPolicy,
    /// If there is room; otherwise it waits in line.
    Waiting,
    /// In room that was reserved for it.
    Reserved,
}

/// Room in the queue for any one request, or a position in the line for it. It has to be
/// [used](Pipeline::submit_reserved) or [released](Pipeline::release).
///
/// A reservation that has been held for the request timeout is taken back when others wait for
/// room: services that are ready and never called starve no other.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) struct ReservationId(u64);

#[cfg(test)]
impl ReservationId {
    pub(super) fn seq(&self) -> u64 {
        self.0
    }
}

impl Pipeline {
    /// Moves the request that was pushed last from the queue to the line in front of it, or refuses it.
    #[cold]
    pub(super) fn move_to_wait_queue(&mut self, admission: Admission) -> Result<(), Error> {
        let Some((mut entry, bytes)) = self.queue.pop_last() else {
            return Ok(());
        };
        match admission {
            Admission::ByPolicy if self.settings.when_full != WhenFull::Wait => {
                Err(Error::QueueFull { limit: self.settings.max_buffered_bytes })
            }
            Admission::ByPolicy | Admission::Waiting | Admission::Reserved => {
                self.put_deadline_in_order(&mut entry);
                self.wait_queue.push(entry.seq, (entry, bytes));
                Ok(())
            }
        }
    }

    /// Admits from the line what the queue has room for again, and takes back reservations that have been held
    /// too long. The tasks that get a reservation are to be woken; so is the driver, if the next reservation
    /// has to be taken back in time.
    pub(super) fn admit(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        let mut granted = false;
        loop {
            let request = self.wait_queue.front().map(|(seq, (_, bytes))| (seq, bytes.len()));
            let reservation = self.reservation_queue.front().map(|(seq, _)| seq);
            let reservation_is_first = match (reservation, request) {
                (Some(reservation), Some((request, _))) => reservation < request,
                (reservation, _) => reservation.is_some(),
            };
            // Reservations are held, perhaps for long, while nothing waits to be sent: a
            // request need not wait for that.
            let admits = request.is_some_and(|(_, len)| {
                if reservation_is_first {
                    self.queue.queued_bytes() == 0
                } else {
                    self.has_capacity(len)
                }
            });
            if reservation_is_first && self.can_reserve() {
                wakers.extend(self.reservation_queue.pop());
                self.reserved.push(reservation.unwrap_or_default(), now);
                granted = true;
            } else if admits && let Some((entry, bytes)) = self.wait_queue.pop() {
                self.queue.push(entry, |queue| queue.extend_from_slice(&bytes));
            } else if (reservation.is_none() && request.is_none()) || !self.take_back_idle(now) {
                break;
            }
        }
        if granted && !self.reservation_queue.is_empty() {
            // It may not know yet when this reservation has been held too long.
            wakers.extend(self.driver.take());
        }
    }

    /// Takes back the oldest reservation, if it has been held for the request timeout. Returns true if so.
    fn take_back_idle(&mut self, now: Instant) -> bool {
        let due = self.reserved_until();
        due.is_some_and(|due| due <= now) && self.reserved.pop().is_some()
    }

    /// Returns when the oldest reservation has been held for the request timeout.
    pub(super) fn reserved_until(&self) -> Option<Instant> {
        self.reserved.front().map(|(_, &since)| since + self.settings.request_timeout)
    }

    /// Returns true if the queue has room for a request of `len` bytes. One may always be queued, however long
    /// it is.
    #[inline]
    pub(super) fn has_capacity(&self, len: usize) -> bool {
        let queued = self.queue.queued_bytes();
        queued == 0 || queued + self.reserved_bytes() + len <= self.settings.max_buffered_bytes
    }

    pub(super) fn can_reserve(&self) -> bool {
        let taken = self.queue.queued_bytes() + self.reserved_bytes();
        taken == 0 || taken + MAX_REQUEST_LEN <= self.settings.max_buffered_bytes
    }

    #[inline]
    pub(super) fn line_is_empty(&self) -> bool {
        self.wait_queue.is_empty() && self.reservation_queue.is_empty()
    }

    /// Returns how many bytes of the queue are reserved for requests to come.
    #[inline]
    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved.len() * MAX_REQUEST_LEN
    }

    /// Wakes the tasks in line for a reservation: there will be none any more.
    pub(in crate::client) fn cancel_reservations(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reservation_queue.drain());
    }

    /// Removes the requests whose deadline has passed from the line.
    pub(super) fn expire_waiting(&mut self, now: Instant) -> Vec<Entry> {
        let mut late = Vec::new();
        while self.first_waiting().is_some_and(|entry| entry.deadline <= now) {
            late.extend(self.wait_queue.pop().map(|(entry, _)| entry));
        }
        late
    }
}

#[cfg_attr(not(feature = "tower"), expect(dead_code, reason = "a service alone reserves"))]
impl Pipeline {
    /// Makes a reservation, or waits in line for one and promises to wake the task; ready when the
    /// reservation is made. A waker that is no longer needed is handed back, to be dropped when the lock
    /// is released. The tasks to be woken are added to `wakers`.
    pub(in crate::client) fn poll_reserve(
        &mut self,
        reservation: &mut Option<ReservationId>,
        (waker, now): (&Waker, Instant),
        wakers: &mut Vec<Waker>,
    ) -> (Poll<Result<(), Error>>, Option<Waker>) {
        if let Err(error) = self.check_open() {
            return (Poll::Ready(Err(error)), None);
        }
        if let Some(ReservationId(seq)) = *reservation {
            if self.reserved.contains(seq) {
                return (Poll::Ready(Ok(())), None);
            }
            if let Some(known) = self.reservation_queue.get_mut(seq) {
                let unneeded =
                    (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()));
                return (Poll::Pending, unneeded);
            }
            // It was taken back.
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        *reservation = Some(ReservationId(seq));
        if self.line_is_empty() {
            while !self.can_reserve() && self.take_back_idle(now) {}
            if self.can_reserve() {
                self.reserved.push(seq, now);
                return (Poll::Ready(Ok(())), None);
            }
        }
        if self.reservation_queue.is_empty() {
            // From now on reservations that are held too long are taken back.
            wakers.extend(self.driver.take());
        }
        self.reservation_queue.push(seq, waker.clone());
        (Poll::Pending, None)
    }

    /// Accepts a request in its reservation, which is used up with it, or as any other if there never
    /// was one. If it is refused, the reservation is kept. The request is queued behind the
    /// requests that are in line already, which get its room. A request whose reservation was taken back is
    /// accepted all the same, and waits in line. The tasks that get the room that is left are to be woken.
    pub(in crate::client) fn submit_reserved(
        &mut self,
        reservation: &mut Option<ReservationId>,
        (kind, timeout): (RequestKind, Option<CallTimeout>),
        (waker, now): (Waker, Instant),
        encode: impl FnOnce(&mut BytesMut),
        wakers: &mut Vec<Waker>,
    ) -> Result<Submitted, Refused> {
        let admission = match reservation {
            Some(ReservationId(seq)) if self.reserved.contains(*seq) => Admission::Reserved,
            Some(_) => Admission::Waiting,
            None => Admission::ByPolicy,
        };
        let submitted = self.submit(admission, kind, timeout, waker, now, encode)?;
        if let Some(ReservationId(seq)) = reservation.take() {
            wakers.extend(self.reservation_queue.remove(seq));
            if self.reserved.remove(seq).is_some() {
                self.admit(now, wakers);
            }
        }
        Ok(submitted)
    }

    /// Releases a reservation, or a position in line. A waker that is no longer needed is handed back,
    /// to be dropped when the lock is released.
    pub(in crate::client) fn release(
        &mut self,
        ReservationId(seq): ReservationId,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Waker> {
        let unneeded = self.reservation_queue.remove(seq);
        if unneeded.is_none() {
            self.reserved.remove(seq);
        }
        self.admit(now, wakers);
        unneeded
    }
}
