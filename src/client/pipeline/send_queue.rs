//! The requests in their order: first those in flight, then those that wait to be sent.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::{steps, trim::KEPT_CALLS, waiters::WaiterId};
use crate::metric::Metrics;

/// Requests and their bytes, in the order in which they were accepted.
///
/// One buffer holds the bytes of all of them. Those in flight stay in it until they are answered, so
/// that they can be sent again on another connection:
///
/// ```text
///   bytes:    [ in flight . . . . . | waiting to be sent . . . . ]
///             ^ front answered next ^ sent                       ^ pushed at the end
/// ```
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    bytes: BytesMut,
    entries: VecDeque<Entry>,
    /// How many bytes at the front have been taken or passed over.
    sent: usize,
    /// How many entries at the front have been taken or passed over as a whole.
    passed_entries: usize,
    /// How many bytes, of those not yet passed, belong to entries that nobody wants any more.
    dead_bytes: usize,
    /// How many requests have been taken and not been answered.
    in_flight: usize,
    /// How many entries at the front are known to have no caller that waits for them.
    unwanted: usize,
    /// How many bytes the buffer has taken at most since it was made.
    buffer_len: usize,
}

/// One request, or a run of puts of one batch that lie one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its place in the order of all entries ever.
    pub(super) seq: u64,
    /// Who waits for it; nobody once the caller has left or been told.
    pub(super) waiter: Option<WaiterId>,
    pub(super) kind: Kind,
    pub(super) deadline: Instant,
    /// The place of its first request in the batch.
    pub(super) index: usize,
    pub(super) requests: usize,
    pub(super) sent: usize,
    pub(super) answered: usize,
    /// Whether any of it went out on an earlier connection.
    pub(super) retried: bool,
    len: usize,
    sent_len: usize,
    dead_bytes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum Kind {
    Put,
    Get,
}

/// Requests that have been answered.
pub(super) struct Completed {
    /// Who waits for them, if anybody does.
    pub(super) waiter: Option<WaiterId>,
    /// The place of the first of them in its batch.
    pub(super) index: usize,
    pub(super) requests: usize,
}

impl Entry {
    pub(super) fn new(seq: u64, waiter: WaiterId, kind: Kind, deadline: Instant) -> Self {
        Self {
            seq,
            waiter: Some(waiter),
            kind,
            deadline,
            index: 0,
            requests: 1,
            sent: 0,
            answered: 0,
            retried: false,
            len: 0,
            sent_len: 0,
            dead_bytes: false,
        }
    }

    /// Whether any of it may have reached a server.
    pub(super) fn is_attempted(&self) -> bool {
        self.retried || self.sent > 0
    }
}

impl SendQueue {
    /// Encodes an entry's requests at the end of the buffer, and says how many bytes they are. They
    /// belong to nobody until [`push`](Self::push) or [`take_back_last`](Self::take_back_last).
    #[inline]
    pub(super) fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) -> usize {
        let before = self.bytes.len();
        encode(&mut self.bytes);
        self.buffer_len = self.buffer_len.max(self.bytes.capacity());
        self.bytes.len() - before
    }

    /// Adds the entry whose `len` bytes were encoded last.
    #[inline]
    pub(super) fn push(&mut self, mut entry: Entry, len: usize) {
        entry.len = len;
        self.entries.push_back(entry);
    }

    /// Takes back the `len` bytes that were encoded last.
    pub(super) fn take_back_last(&mut self, len: usize) -> Box<[u8]> {
        self.bytes.split_off(self.bytes.len() - len)[..].into()
    }

    /// How many bytes wait to be sent.
    #[inline]
    pub(super) fn waiting_len(&self) -> usize {
        self.bytes.len() - self.sent - self.dead_bytes
    }

    /// How many bytes are held for whatever reason.
    #[cfg(test)]
    pub(super) fn held_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether any request waits to be sent.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting_len() > 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.entries.len() - self.passed_entries
    }

    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The place and the bytes of each entry that a caller waits for and of which nothing has been
    /// sent over this connection.
    pub(super) fn texts(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let ends = self.entries.iter().scan(0, |at, entry| {
            *at += entry.len;
            Some(*at)
        });
        let all = self.entries.iter().zip(ends).enumerate();
        all.filter(|(_, (entry, _))| entry.waiter.is_some() && entry.sent == 0)
            .map(|(reservation, (entry, end))| (reservation, &self.bytes[end - entry.len..end]))
    }

    /// The entry at this place has been sent in part, to whatever end.
    pub(super) fn note_attempted(&mut self, reservation: usize) {
        if let Some(entry) = self.entries.get_mut(reservation) {
            entry.retried = true;
        }
    }

    /// Appends to `dst` as many requests as may be in flight at once, and says how many those were.
    pub(super) fn take(&mut self, window: usize, dst: &mut BytesMut) -> usize {
        let before = self.in_flight;
        let mut run = self.sent;
        while self.in_flight < window
            && let Some(entry) = self.entries.get_mut(self.passed_entries)
        {
            if entry.dead_bytes {
                dst.extend_from_slice(&self.bytes[run..self.sent]);
                self.sent += entry.len;
                self.dead_bytes -= entry.len;
                self.passed_entries += 1;
                run = self.sent;
                continue;
            }
            let rest = &self.bytes[self.sent..][..entry.len - entry.sent_len];
            let requests = (entry.requests - entry.sent).min(window - self.in_flight);
            let whole = entry.sent + requests == entry.requests;
            let len = if whole { rest.len() } else { lines_len(rest, requests) };
            entry.sent += requests;
            entry.sent_len += len;
            self.sent += len;
            self.in_flight += requests;
            self.passed_entries += usize::from(whole);
        }
        dst.extend_from_slice(&self.bytes[run..self.sent]);
        self.in_flight - before
    }

    /// The kind of the request whose answer is due next.
    #[inline]
    pub(super) fn due(&mut self) -> Option<Kind> {
        self.drop_finished_front();
        self.entries.front().filter(|entry| entry.answered < entry.sent).map(|entry| entry.kind)
    }

    /// Whether the request whose answer is due next, a get, asks for every key in the answer.
    pub(super) fn asked_for_all(&self, metrics: &Metrics) -> bool {
        let Some(entry) = self.entries.front() else { return false };
        let asked = self.bytes[..entry.len].strip_prefix(b"get ");
        match asked.and_then(|asked| asked.strip_suffix(b"\n")) {
            Some(b"*") => true,
            Some(asked) => metrics.keys().all(|key| key.as_str().as_bytes() == asked),
            None => false,
        }
    }

    /// At most so many answers that are due have come: says whose they are. All belong to one entry,
    /// so they may be fewer.
    #[inline]
    pub(super) fn answer(&mut self, most: usize) -> Option<Completed> {
        let entry = self.entries.front_mut()?;
        let requests = most.min(entry.sent - entry.answered);
        let answered =
            Completed { waiter: entry.waiter, index: entry.index + entry.answered, requests };
        entry.answered += requests;
        self.in_flight -= requests;
        if entry.answered == entry.requests {
            self.pop_front();
        }
        Some(answered)
    }

    /// Whether the entry is not settled.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// The first entry that a caller waits for.
    pub(super) fn first_wanted(&mut self) -> Option<&Entry> {
        while self.entries.get(self.unwanted).is_some_and(|entry| entry.waiter.is_none()) {
            steps::count(1);
            self.unwanted += 1;
        }
        self.entries.get(self.unwanted)
    }

    /// Nobody waits for this entry any more: what of it has not been sent will not be. Returns it as
    /// it was, if a caller waited for it.
    pub(super) fn cancel(&mut self, seq: u64) -> Option<Entry> {
        let reservation = self.find(seq)?;
        let entry = self.entries.get_mut(reservation)?;
        let before = *entry;
        entry.waiter.take()?;
        let unsent = entry.len - entry.sent_len;
        if entry.sent == 0 {
            entry.dead_bytes = true;
            self.dead_bytes += entry.len;
        } else if unsent > 0 {
            // Partly sent: the rest is passed over, the answers to the first part are still due.
            entry.requests = entry.sent;
            entry.sent_len = entry.len;
            self.sent += unsent;
            self.passed_entries += 1;
        }
        self.drop_finished_front();
        // Amortised: no byte is moved more often than a byte dies.
        if self.dead_bytes > self.bytes.len() / 2 {
            self.compact();
        }
        Some(before)
    }

    /// The entries whose deadline has passed, which nobody waits for from then on.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Entry> {
        let mut late = Vec::new();
        while let Some(entry) = self.first_wanted()
            && entry.deadline <= now
        {
            let seq = entry.seq;
            late.extend(self.cancel(seq));
        }
        late
    }

    /// Readies the queue for another connection: nothing is in flight, and only what `keep` wants
    /// stays. It may raise [`Entry::answered`] so that the entry's first requests do not stay.
    pub(super) fn rewind(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        let old = std::mem::take(self);
        let mut at = 0;
        for mut entry in old.entries {
            let text = &old.bytes[at..at + entry.len];
            at += entry.len;
            if entry.dead_bytes || !keep(&mut entry) || entry.answered == entry.requests {
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

    /// Gives back the room for more than twice as many entries as given, if there is much more, and
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

    /// Gives back the room of the entries that died before they were sent.
    fn compact(&mut self) {
        let waiting = self.bytes.split_off(self.sent);
        let mut at = 0;
        self.unwanted = self.unwanted.min(self.passed_entries);
        steps::count(self.entries.len() - self.passed_entries);
        for entry in self.entries.split_off(self.passed_entries) {
            let len = entry.len - entry.sent_len;
            if !entry.dead_bytes {
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
        while self.entries.front().is_some_and(|e| e.dead_bytes || e.answered == e.requests) {
            self.pop_front();
        }
    }

    #[inline]
    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes.advance(entry.len);
            self.unwanted = self.unwanted.saturating_sub(1);
            if self.passed_entries > 0 {
                self.passed_entries -= 1;
                self.sent -= entry.len;
            } else {
                self.dead_bytes -= entry.len;
            }
        }
    }
}

/// So many bytes are always kept: 256 for each call, more than most requests have.
const KEPT_BYTES: usize = 256 * KEPT_CALLS;

/// How long the first `lines` lines of `text` are, in bytes.
fn lines_len(text: &[u8], lines: usize) -> usize {
    match lines.checked_sub(1) {
        None => 0,
        Some(last) => memchr::memchr_iter(b'\n', text).nth(last).map_or(text.len(), |end| end + 1),
    }
}
