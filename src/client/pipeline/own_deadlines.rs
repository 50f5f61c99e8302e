//! The deadlines of requests with a timeout of their own, which pass in another order than the requests came.

use std::{cmp::Reverse, collections::BinaryHeap};

use tokio::time::Instant;

use super::{Pipeline, send_queue::Entry, steps};
use crate::client::settings::CallTimeout;

/// Deadlines that are not in the order of the entries, the earliest first.
///
/// The other deadlines need no search: their order is that of the entries. A deadline stays here after its
/// request has an outcome, until it is the earliest, or until there would have to be room for more.
#[derive(Debug, Default)]
pub(super) struct OwnDeadlines {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Whether a request with such a deadline may be in line in front of the queue.
    any_waiting: bool,
}

impl OwnDeadlines {
    pub(super) fn capacity(&self) -> usize {
        self.heap.capacity()
    }

    /// Gives back the capacity for more than twice as many deadlines as given, if there is much more.
    pub(super) fn shrink_to(&mut self, deadlines: usize) {
        if self.heap.capacity() / 4 > deadlines {
            self.heap.shrink_to(2 * deadlines);
        }
    }
}

impl Pipeline {
    /// Notes the deadline of the entry `seq`, which has a timeout of its own.
    pub(super) fn note_own_deadline(&mut self, seq: u64, deadline: Instant) {
        let Self { own_deadlines: OwnDeadlines { heap, .. }, queue, wait_queue, .. } = self;
        if heap.len() == heap.capacity() {
            steps::count(heap.len());
            heap.retain(|&Reverse((_, seq))| queue.is_wanted(seq) || wait_queue.contains(seq));
            // Amortised: as many deadlines come before this happens again as have been looked at.
            heap.reserve(heap.len() + 1);
        }
        heap.push(Reverse((deadline, seq)));
    }

    /// Keeps the line in front of the queue in order: first the requests whose deadlines are in the order of the line,
    /// then those with a deadline of their own. A request behind one of those is made one of them.
    pub(super) fn put_deadline_in_order(&mut self, entry: &mut Entry) {
        self.own_deadlines.any_waiting &= !self.wait_queue.is_empty();
        if entry.own_timeout.is_some() {
            self.own_deadlines.any_waiting = true;
        } else if self.own_deadlines.any_waiting {
            entry.own_timeout = Some(CallTimeout::new(self.settings.request_timeout));
            self.note_own_deadline(entry.seq, entry.deadline);
        }
    }

    /// Returns the first request in line, if it has no deadline of its own. If it has, so have all others.
    pub(super) fn first_waiting(&self) -> Option<&Entry> {
        let first = self.wait_queue.front().map(|(_, (entry, _))| entry);
        first.filter(|entry| entry.own_timeout.is_none())
    }

    /// Returns the earliest of the deadlines that are out of order.
    pub(super) fn first_own_deadline(&mut self) -> Option<Instant> {
        let Self { own_deadlines: OwnDeadlines { heap, .. }, queue, wait_queue, .. } = self;
        while let Some(&Reverse((deadline, seq))) = heap.peek() {
            if queue.is_wanted(seq) || wait_queue.contains(seq) {
                return Some(deadline);
            }
            heap.pop();
        }
        None
    }

    /// Removes the requests with a deadline of their own that has passed, and adds them to `late`.
    pub(super) fn expire_own_deadlines(&mut self, now: Instant, late: &mut Vec<Entry>) {
        while self.first_own_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(Reverse((_, seq))) = self.own_deadlines.heap.pop()
        {
            late.extend(self.remove_entry(seq));
        }
    }
}
