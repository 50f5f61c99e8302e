//! The line in front of the queue: requests for which it has no room, and those who want to keep a
//! place in it for a request to come.

use std::task::{Poll, Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Pipeline, Submitted,
    handle_side::Admission,
    send_queue::{Entry, Kind},
};
use crate::{client::settings::WhenFull, error::Error};

/// A reservation in the queue for any one request, or a position in the line for one. It has to be
/// [filled](Pipeline::fill) or [given back](Pipeline::release).
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
    /// Makes a reservation, or gets in line for one and promises to wake the task; ready when the
    /// reservation is made. A waker that is no longer needed is handed back, to be dropped when the lock
    /// is released. Who is to be woken goes to `wakers`.
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
            if let Some(known) = self.wait_position.get_mut(seq) {
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
        if self.wait_position.is_empty() {
            // From now on reservations that are held too long are taken back.
            wakers.extend(self.driver.take());
        }
        self.wait_position.push(seq, waker.clone());
        (Poll::Pending, None)
    }

    /// Accepts a request in its reservation, which is used up with it, or as any other if there never
    /// was one. If it is refused, the reservation is kept. It goes to the queue, but behind the
    /// requests that are in line already, which get its room. A request whose reservation was taken back is
    /// accepted all the same, and gets in line. Who gets the room that is left is to be woken.
    pub(in crate::client) fn fill(
        &mut self,
        reservation: &mut Option<ReservationId>,
        kind: Kind,
        (waker, now): (Waker, Instant),
        encode: impl FnOnce(&mut BytesMut),
        wakers: &mut Vec<Waker>,
    ) -> Result<Submitted, Error> {
        let when_full = match reservation {
            Some(ReservationId(seq)) if self.reserved.contains(*seq) => Admission::NeverIs,
            Some(_) => Admission::Is(WhenFull::Wait),
            None => self.when_full(),
        };
        let submitted = self.submit(kind, when_full, waker, now, encode)?;
        if let Some(ReservationId(seq)) = reservation.take() {
            wakers.extend(self.wait_position.remove(seq));
            if self.reserved.remove(seq).is_some() {
                self.admit(now, wakers);
            }
        }
        Ok(submitted)
    }

    /// Gives up a reservation, or a position in line. A waker that is no longer needed is handed back,
    /// to be dropped when the lock is released.
    pub(in crate::client) fn release(
        &mut self,
        ReservationId(seq): ReservationId,
        now: Instant,
        wakers: &mut Vec<Waker>,
    ) -> Option<Waker> {
        let unneeded = self.wait_position.remove(seq);
        if unneeded.is_none() {
            self.reserved.remove(seq);
        }
        self.admit(now, wakers);
        unneeded
    }

    /// Tells those in line for a reservation that there will be none any more.
    pub(in crate::client) fn cancel_reservations(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.wait_position.drain());
    }

    /// Takes the requests whose deadline has passed out of the line.
    pub(super) fn expire_waiting(&mut self, now: Instant) -> Vec<Entry> {
        let mut late = Vec::new();
        while self.overflow.front().is_some_and(|(_, (entry, _))| entry.deadline <= now) {
            late.extend(self.overflow.pop().map(|(entry, _)| entry));
        }
        late
    }
}
