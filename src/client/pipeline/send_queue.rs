//! The requests in order: first those in flight, then those that wait to be sent.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::{steps, trim::KEPT_CALLS, waiters::WaiterId};
use crate::{client::settings::CallTimeout, metric::Metrics};

/// Requests and their bytes, in the order in which they were accepted.
///
/// One buffer holds the bytes of all of them. Requests in flight stay in it until their responses come, so
/// that they can be sent again on another connection:
///
/// ```text
///   bytes:    [ in flight . . . . . . | waiting to be sent . . . . ]
///             ^ front completed next  ^ sent_bytes                 ^ pushed at the end
/// ```
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    bytes: BytesMut,
    entries: VecDeque<Entry>,
    /// How many bytes at the front have been taken or passed over.
    sent_bytes: usize,
    /// How many entries at the front have been taken or passed over as a whole.
    passed_entries: usize,
    /// How many bytes, of those not yet passed, belong to entries that were cancelled.
    dead_bytes: usize,
    /// How many requests have been taken and have no response.
    in_flight: usize,
    /// How many entries at the front are known to have no caller that waits for them, or a timeout of their own.
    unexpiring: usize,
    /// The largest capacity that the buffer has had since it was created, in bytes.
    buffer_len: usize,
}

/// One request, or a run of consecutive puts of one batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its position in the order of all entries ever.
    pub(super) seq: u64,
    /// The call that waits for it; `None` once that has left or has its outcome.
    pub(super) waiter: Option<WaiterId>,
    pub(super) kind: RequestKind,
    pub(super) deadline: Instant,
    /// Set if its deadline is not in order with those of the other entries.
    pub(super) own_timeout: Option<CallTimeout>,
    /// The index of its first request in the batch.
    pub(super) index: usize,
    pub(super) requests: usize,
    pub(super) sent: usize,
    pub(super) answered: usize,
    /// Whether any of it was sent over an earlier connection.
    pub(super) retried: bool,
    len: usize,
    sent_len: usize,
    /// Whether it was cancelled before any of it was sent.
    is_dead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum RequestKind {
    Put,
    Get,
}

/// Requests that have a response.
pub(super) struct Completed {
    /// The call that waits for them, if it has not left.
    pub(super) waiter: Option<WaiterId>,
    /// The index of the first of them in its batch.
    pub(super) index: usize,
    pub(super) requests: usize,
}

impl Entry {
    #[inline]
    pub(super) fn new(
        seq: u64,
        waiter: WaiterId,
        kind: RequestKind,
        deadline: Instant,
        own_timeout: Option<CallTimeout>,
    ) -> Self {
        Self {
            seq,
            waiter: Some(waiter),
            kind,
            deadline,
            own_timeout,
            index: 0,
            requests: 1,
            sent: 0,
            answered: 0,
            retried: false,
            len: 0,
            sent_len: 0,
            is_dead: false,
        }
    }

    /// Returns true if any of it may have reached a server.
    pub(super) fn is_attempted(&self) -> bool {
        self.retried || self.sent > 0
    }
}

impl SendQueue {
    /// Appends an entry, whose requests `encode` appends to the buffer. Returns their length in bytes.
    #[inline]
    pub(super) fn push(&mut self, mut entry: Entry, encode: impl FnOnce(&mut BytesMut)) -> usize {
        let before = self.bytes.len();
        encode(&mut self.bytes);
        self.buffer_len = self.buffer_len.max(self.bytes.capacity());
        entry.len = self.bytes.len() - before;
        let len = entry.len;
        self.entries.push_back(entry);
        len
    }

    /// Removes the entry that was pushed last, of which nothing has been taken, with its bytes.
    pub(super) fn pop_last(&mut self) -> Option<(Entry, Box<[u8]>)> {
        let entry = self.entries.pop_back()?;
        let bytes = self.bytes.split_off(self.bytes.len() - entry.len)[..].into();
        Some((entry, bytes))
    }

    /// Returns how many bytes wait to be sent.
    #[inline]
    pub(super) fn queued_bytes(&self) -> usize {
        self.bytes.len() - self.sent_bytes - self.dead_bytes
    }

    /// Returns how many bytes are held, for any reason.
    #[cfg(test)]
    pub(super) fn held_len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn has_queued(&self) -> bool {
        self.queued_bytes() > 0
    }

    /// Returns how many entries wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.entries.len() - self.passed_entries
    }

    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Returns the index and the bytes of each entry that a caller waits for and of which nothing has been
    /// sent over this connection.
    pub(super) fn texts(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let ends = self.entries.iter().scan(0, |at, entry| {
            *at += entry.len;
            Some(*at)
        });
        let all = self.entries.iter().zip(ends).enumerate();
        all.filter(|(_, (entry, _))| entry.waiter.is_some() && entry.sent == 0)
            .map(|(index, (entry, end))| (index, &self.bytes[end - entry.len..end]))
    }

    /// Notes that a part of the entry with this index has been sent, for any purpose.
    pub(super) fn note_attempted(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.retried = true;
        }
    }

    /// Appends requests to `dst` until `window` of them are in flight. Returns how many it appended.
    pub(super) fn take(&mut self, window: usize, dst: &mut BytesMut) -> usize {
        let before = self.in_flight;
        let mut run = self.sent_bytes;
        while self.in_flight < window
            && let Some(entry) = self.entries.get_mut(self.passed_entries)
        {
            if entry.is_dead {
                dst.extend_from_slice(&self.bytes[run..self.sent_bytes]);
                self.sent_bytes += entry.len;
                self.dead_bytes -= entry.len;
                self.passed_entries += 1;
                run = self.sent_bytes;
                continue;
            }
            let rest = &self.bytes[self.sent_bytes..][..entry.len - entry.sent_len];
            let requests = (entry.requests - entry.sent).min(window - self.in_flight);
            let whole = entry.sent + requests == entry.requests;
            let len = if whole { rest.len() } else { lines_len(rest, requests) };
            entry.sent += requests;
            entry.sent_len += len;
            self.sent_bytes += len;
            self.in_flight += requests;
            self.passed_entries += usize::from(whole);
        }
        dst.extend_from_slice(&self.bytes[run..self.sent_bytes]);
        self.in_flight - before
    }

    /// Returns the kind of the request whose response is due next. None is due to the last `unsent_requests` of those
    /// taken.
    #[inline]
    pub(super) fn next_response_kind(&mut self, unsent_requests: usize) -> Option<RequestKind> {
        self.drop_finished_front();
        let due = self.entries.front().filter(|entry| entry.answered < entry.sent);
        due.filter(|_| self.in_flight > unsent_requests).map(|entry| entry.kind)
    }

    /// Returns true if the request whose response is due next, a get, asks for every key in the response.
    pub(super) fn asked_for_all(&self, metrics: &Metrics) -> bool {
        let Some(entry) = self.entries.front() else { return false };
        let asked = self.bytes[..entry.len].strip_prefix(b"get ");
        match asked.and_then(|asked| asked.strip_suffix(b"\n")) {
            Some(b"*") => true,
            Some(asked) => metrics.keys().all(|key| key.as_str().as_bytes() == asked),
            None => false,
        }
    }

    /// Completes at most `most` of the requests whose responses are due next, and returns which. All belong to
    /// one entry, so they may be fewer.
    #[inline]
    pub(super) fn complete_front(&mut self, most: usize) -> Option<Completed> {
        let entry = self.entries.front_mut()?;
        let requests = most.min(entry.sent - entry.answered);
        let completed =
            Completed { waiter: entry.waiter, index: entry.index + entry.answered, requests };
        entry.answered += requests;
        self.in_flight -= requests;
        if entry.answered == entry.requests {
            self.pop_front();
        }
        Some(completed)
    }

    /// Returns true if the entry has a request without an outcome.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// Returns true if a caller waits for the entry.
    pub(super) fn is_wanted(&self, seq: u64) -> bool {
        self.find(seq).is_some_and(|index| self.entries[index].waiter.is_some())
    }

    /// Returns the entry whose deadline passes first, of those that a caller waits for and that have no timeout of
    /// their own.
    pub(super) fn first_expiring(&mut self) -> Option<&Entry> {
        let is_passed = |entry: &Entry| entry.waiter.is_none() || entry.own_timeout.is_some();
        while self.entries.get(self.unexpiring).is_some_and(is_passed) {
            steps::count(1);
            self.unexpiring += 1;
        }
        self.entries.get(self.unexpiring)
    }

    /// Cancels an entry: what of it has not been sent is not sent. Returns it as it was, if a caller waited
    /// for it.
    pub(super) fn cancel(&mut self, seq: u64) -> Option<Entry> {
        let index = self.find(seq)?;
        let entry = self.entries.get_mut(index)?;
        let before = *entry;
        entry.waiter.take()?;
        let unsent = entry.len - entry.sent_len;
        if entry.sent == 0 {
            entry.is_dead = true;
            self.dead_bytes += entry.len;
        } else if unsent > 0 {
            // Partly sent: the rest is passed over, the responses to the first part are still due.
            entry.requests = entry.sent;
            entry.sent_len = entry.len;
            self.sent_bytes += unsent;
            self.passed_entries += 1;
        }
        self.drop_finished_front();
        // Amortised: no byte is moved more often than a byte dies.
        if self.dead_bytes > self.bytes.len() / 2 {
            self.compact();
        }
        Some(before)
    }

    /// Cancels and returns the entries without a timeout of their own whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Entry> {
        let mut cancelled = Vec::new();
        while let Some(&Entry { seq, .. }) =
            self.first_expiring().filter(|entry| entry.deadline <= now)
        {
            cancelled.extend(self.cancel(seq));
        }
        cancelled
    }

    /// Cancels and returns all entries that a caller waits for.
    pub(super) fn cancel_all(&mut self) -> Vec<Entry> {
        let wanted = self.entries.iter().filter(|entry| entry.waiter.is_some());
        let wanted = wanted.map(|entry| entry.seq).collect::<Vec<_>>();
        wanted.into_iter().filter_map(|seq| self.cancel(seq)).collect()
    }

    /// Rewinds the queue for another connection: nothing is in flight any more, and the entries that `keep`
    /// accepts are sent from their beginning. It may raise [`Entry::answered`] to leave an entry's first requests
    /// out.
    pub(super) fn rewind(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        let old = std::mem::take(self);
        let mut at = 0;
        for mut entry in old.entries {
            let text = &old.bytes[at..at + entry.len];
            at += entry.len;
            if entry.is_dead || !keep(&mut entry) || entry.answered == entry.requests {
                continue;
            }
            let done = lines_len(text, entry.answered);
            self.bytes.extend_from_slice(&text[done..]);
            self.entries.push_back(Entry {
                index: entry.index + entry.answered,
                requests: entry.requests - entry.answered,
                retried: entry.is_attempted(),
                sent: 0,
                answered: 0,
                len: entry.len - done,
                sent_len: 0,
                ..entry
            });
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    #[cfg(test)]
    pub(super) fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    pub(super) fn holds_many_bytes(&self) -> bool {
        self.buffer_len / 4 > KEPT_BYTES
    }

    /// Gives back the capacity for more than twice as many entries as given, if there is much more, and
    /// likewise for bytes.
    pub(super) fn shrink_to(&mut self, entries: usize) {
        if self.entries.capacity() / 4 > entries {
            self.entries.shrink_to(2 * entries);
        }
        let bytes = entries.saturating_mul(KEPT_BYTES / KEPT_CALLS).max(self.bytes.len());
        if self.buffer_len / 4 > bytes {
            let held = std::mem::replace(&mut self.bytes, BytesMut::with_capacity(2 * bytes));
            self.bytes.extend_from_slice(&held);
            self.buffer_len = self.bytes.capacity();
        }
    }

    /// Removes the entries that were cancelled before they were sent.
    fn compact(&mut self) {
        let waiting = self.bytes.split_off(self.sent_bytes);
        let mut at = 0;
        self.unexpiring = self.unexpiring.min(self.passed_entries);
        steps::count(self.entries.len() - self.passed_entries);
        for entry in self.entries.split_off(self.passed_entries) {
            let len = entry.len - entry.sent_len;
            if !entry.is_dead {
                self.bytes.extend_from_slice(&waiting[at..at + len]);
                self.entries.push_back(entry);
            }
            at += len;
        }
        self.dead_bytes = 0;
    }

    fn find(&self, seq: u64) -> Option<usize> {
        let seq_of = |entry: &Entry| {
            steps::count(1);
            entry.seq
        };
        self.entries.binary_search_by_key(&seq, seq_of).ok()
    }

    #[inline]
    fn drop_finished_front(&mut self) {
        while self.entries.front().is_some_and(|e| e.is_dead || e.answered == e.requests) {
            self.pop_front();
        }
    }

    #[inline]
    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes.advance(entry.len);
            self.unexpiring = self.unexpiring.saturating_sub(1);
            if self.passed_entries > 0 {
                self.passed_entries -= 1;
                self.sent_bytes -= entry.len;
            } else {
                self.dead_bytes -= entry.len;
            }
        }
    }
}

/// The capacity that is always kept, in bytes: 256 for each call, more than most requests have.
const KEPT_BYTES: usize = 256 * KEPT_CALLS;

/// Returns the length of the first `lines` lines of `text`, in bytes.
fn lines_len(text: &[u8], lines: usize) -> usize {
    match lines.checked_sub(1) {
        None => 0,
        Some(last) => memchr::memchr_iter(b'\n', text).nth(last).map_or(text.len(), |end| end + 1),
    }
}
