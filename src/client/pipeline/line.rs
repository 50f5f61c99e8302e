//! The line in front of the queue: requests for which it has no room, and those who want to keep a
//! place in it for a request to come.

use std::task::{Poll, Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    Pipeline, Submitted,
    calls::WhenFull,
    queue::{Entry, Kind},
};
use crate::{error::Error, protocol::MAX_REQUEST_LEN};

/// Who waits for room, in the order in which they came.
#[derive(Debug)]
pub(super) enum InLine {
    Request(Entry, Box<[u8]>),
    Place { seq: u64, waker: Waker },
}

/// A place in the queue for any one request, or a place in the line for one. It has to be
/// [filled](Pipeline::fill) or [given back](Pipeline::give_back).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) struct PlaceId(u64);

#[cfg(test)]
impl PlaceId {
    pub(super) fn seq(&self) -> u64 {
        self.0
    }
}

impl InLine {
    pub(super) fn seq(&self) -> u64 {
        match self {
            Self::Request(entry, _) => entry.seq,
            Self::Place { seq, .. } => *seq,
        }
    }

    pub(super) fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Request(entry, _) => Some(entry),
            Self::Place { .. } => None,
        }
    }
}

impl Pipeline {
    /// Gets a place, or gets in line for one and promises to wake the task; ready when the place is
    /// there. A waker that is no longer needed is handed back, to be dropped when the lock is
    /// released.
    pub(in crate::client) fn poll_place(
        &mut self,
        place: &mut Option<PlaceId>,
        waker: &Waker,
    ) -> (Poll<Result<(), Error>>, Option<Waker>) {
        if let Err(error) = self.check_open() {
            return (Poll::Ready(Err(error)), None);
        }
        let Some(PlaceId(seq)) = *place else {
            let seq = self.next_seq;
            let granted = self.overflow.is_empty() && self.has_room_for_place();
            if granted {
                self.kept += MAX_REQUEST_LEN;
            } else {
                self.overflow.push_back(InLine::Place { seq, waker: waker.clone() });
            }
            self.next_seq += 1;
            *place = Some(PlaceId(seq));
            return (if granted { Poll::Ready(Ok(())) } else { Poll::Pending }, None);
        };
        let in_line = self.in_line(seq).and_then(|at| self.overflow.get_mut(at));
        let Some(InLine::Place { waker: known, .. }) = in_line else {
            return (Poll::Ready(Ok(())), None);
        };
        let unneeded = (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()));
        (Poll::Pending, unneeded)
    }

    /// Accepts a request in its place, which is used up with it, or as any other if there is none. If
    /// it is refused, the place is kept. It goes to the queue, but behind the requests that are in line
    /// already, which get its room. Who gets the room that is left is to be woken.
    pub(in crate::client) fn fill(
        &mut self,
        place: &mut Option<PlaceId>,
        kind: Kind,
        (waker, now): (Waker, Instant),
        encode: impl FnOnce(&mut BytesMut),
        wakers: &mut Vec<Waker>,
    ) -> Result<Submitted, Error> {
        let when_full = if place.is_some() { WhenFull::NeverIs } else { self.when_full() };
        let submitted = self.submit(kind, when_full, waker, now, encode)?;
        if place.take().is_some() {
            self.kept -= MAX_REQUEST_LEN;
            self.admit(wakers);
        }
        Ok(submitted)
    }

    /// Gives up a place, or a place in line. A waker that is no longer needed is handed back, to be
    /// dropped when the lock is released.
    pub(in crate::client) fn give_back(
        &mut self,
        place: PlaceId,
        wakers: &mut Vec<Waker>,
    ) -> Option<Waker> {
        let unneeded = match self.in_line(place.0).and_then(|at| self.overflow.remove(at)) {
            Some(InLine::Place { waker, .. }) => Some(waker),
            _ => {
                self.kept -= MAX_REQUEST_LEN;
                None
            }
        };
        self.admit(wakers);
        unneeded
    }

    /// Tells those in line for a place that there will be none any more.
    pub(in crate::client) fn dismiss(&mut self, wakers: &mut Vec<Waker>) {
        let line = std::mem::take(&mut self.overflow);
        self.overflow = line
            .into_iter()
            .filter_map(|in_line| match in_line {
                InLine::Request(..) => Some(in_line),
                InLine::Place { waker, .. } => {
                    // Who is not in line holds a place, until it is given back.
                    self.kept += MAX_REQUEST_LEN;
                    wakers.push(waker);
                    None
                }
            })
            .collect();
    }

    /// Takes the requests whose deadline has passed out of the line.
    pub(super) fn leave_line(&mut self, now: Instant) -> Vec<Entry> {
        let is_over = |in_line: &InLine| in_line.entry().is_none_or(|entry| entry.deadline <= now);
        let over = self.overflow.iter().take_while(|in_line| is_over(in_line)).count();
        let (requests, places) =
            self.overflow.drain(..over).partition::<Vec<_>, _>(|in_line| in_line.entry().is_some());
        places.into_iter().rev().for_each(|place| self.overflow.push_front(place));
        requests.iter().filter_map(InLine::entry).copied().collect()
    }

    pub(super) fn in_line(&self, seq: u64) -> Option<usize> {
        self.overflow.binary_search_by_key(&seq, InLine::seq).ok()
    }
}
