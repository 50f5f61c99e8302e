//! The pipeline's part in the search for a request that ends its connection.

use std::{collections::HashSet, task::Waker};

use super::{
    Pipeline,
    send_queue::{Completed, Entry, RequestKind},
};
use crate::error::Error;

/// Identifies a request by its position in the order of all requests ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::client) struct RequestId {
    seq: u64,
    index: usize,
}

/// How many of the queued requests are searched for a [`Pipeline::witness`]. More are needed only if hundreds of
/// requests in a row end their connections.
const MAX_WITNESSES: usize = 1024;

impl RequestId {
    #[cfg(test)]
    pub(in crate::client) fn new(seq: u64, index: usize) -> Self {
        Self { seq, index }
    }

    fn of(entry: &Entry, request: usize) -> Self {
        Self { seq: entry.seq, index: entry.index + request }
    }
}

impl Pipeline {
    /// Returns the first request that a caller waits for, and its kind.
    pub(in crate::client) fn oldest(&self) -> Option<(RequestId, RequestKind)> {
        let entry = self.entries().find(|entry| entry.waiter.is_some())?;
        Some((RequestId::of(entry, entry.answered), entry.kind))
    }

    /// Returns the request whose response is due next, if a caller waits for it.
    pub(in crate::client) fn due_next(&self) -> Option<RequestId> {
        let entry = self.queue.entries().find(|entry| entry.answered < entry.sent)?;
        entry.waiter.is_some().then(|| RequestId::of(entry, entry.answered))
    }

    /// Returns the request that was sent last, if it has no response.
    pub(in crate::client) fn sent_last(&self) -> Option<RequestId> {
        let entry = self.queue.entries().filter(|entry| entry.answered < entry.sent).last()?;
        Some(RequestId::of(entry, entry.sent - 1))
    }

    /// Returns how many requests have had an outcome so far.
    pub(in crate::client) fn finished(&self) -> u64 {
        self.counters.acknowledged + self.counters.rejected + self.counters.failed
    }

    /// Fails the request whose response is due next, and no other.
    pub(in crate::client) fn fail_due(&mut self, error: Error, wakers: &mut Vec<Waker>) {
        if self.queue.next_response_kind(0).is_none() {
            return;
        }
        if let Some(Completed { waiter: Some(waiter), index, requests }) =
            self.queue.complete_front(1)
        {
            self.finish(waiter, index, requests, Err(error), wakers);
        }
    }

    /// Has each batch queue at least this many puts, whatever its window is.
    pub(in crate::client) fn set_wanted_puts(&mut self, puts: usize, wakers: &mut Vec<Waker>) {
        if puts > std::mem::replace(&mut self.wanted_puts, puts) {
            self.waiters.wake_batches(wakers);
        }
    }

    pub(in crate::client) fn wanted_puts(&self) -> usize {
        self.wanted_puts
    }

    /// Returns a put, as it is sent, that is queued behind the oldest request and concerns a key that
    /// no request before it concerns. Passes over `skip` of those, or returns the last one.
    ///
    /// A put may be sent twice in any case, so this one can be sent first to see if the server
    /// stores puts. It counts as sent from then on.
    pub(in crate::client) fn witness(&mut self, skip: usize) -> Option<Box<[u8]>> {
        let (index, line) = self.find_witness(skip).map(|(index, line)| (index, line.into()))?;
        self.queue.note_attempted(index);
        Some(line)
    }

    pub(in crate::client) fn has_witness(&self) -> bool {
        self.find_witness(0).is_some()
    }

    fn find_witness(&self, skip: usize) -> Option<(usize, &[u8])> {
        let mut found = None;
        let mut keys = HashSet::new();
        let mut candidates = 0;
        for (index, text) in self.queue.texts() {
            for line in text.split_inclusive(|&byte| byte == b'\n') {
                if keys.len() > MAX_WITNESSES {
                    return found;
                }
                let mut fields = line.split(|byte| byte.is_ascii_whitespace());
                let is_put = fields.next() == Some(b"put");
                let is_first = keys.is_empty();
                if !keys.insert(fields.next().unwrap_or_default()) || is_first || !is_put {
                    continue;
                }
                found = Some((index, line));
                if candidates == skip {
                    return found;
                }
                candidates += 1;
            }
        }
        found
    }
}
