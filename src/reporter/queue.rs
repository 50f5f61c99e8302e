//! The samples that wait, within a bound: pure state.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::metric::{Key, Sample};

#[cfg(test)]
mod tests;

/// What becomes of samples when as many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// The oldest that waits makes room for the new one. What is being sent stays.
    #[default]
    DropOldest,
    /// The new one is dropped.
    DropNewest,
    /// A sample takes the place of one of the same key and second that waits, also before the queue is
    /// full: a server keeps only the last. When it is full all the same, the oldest makes room.
    Coalesce,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) samples: usize,
    pub(super) bytes: usize,
    pub(super) when_full: WhenFull,
}

/// Samples in the order in which they came, and one batch of them that is being sent.
///
/// Each has a position: those of later ones are higher. A position can become higher while a sample
/// waits, when others are taken from behind it or are not needed any more.
///
/// ```text
///   [ being sent: out ] [ first . . . . . . | pushed at the end
/// ```
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    samples: VecDeque<Sample>,
    /// The position of the sample at the front.
    first: u64,
    /// By how much positions have become higher so far, at most.
    moved: u64,
    /// Where the sample of a key and second is, if samples are coalesced.
    places: Option<HashMap<(Key, i64), u64>>,
    /// What the samples count as, those that are out included.
    bytes: usize,
    out: Out,
}

/// The batch that is being sent.
#[derive(Clone, Copy, Debug, Default)]
struct Out {
    samples: usize,
    bytes: usize,
    /// The position that its first sample had.
    from: u64,
}

/// What a new sample has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, and so many older ones had to go.
    Added { dropped: u64 },
    /// It has taken the place of another.
    Coalesced,
    /// It is dropped, and so are so many older ones.
    Refused { dropped: u64 },
}

/// What a key's text costs besides its bytes: the two counts of an `Arc`, and what the allocator keeps.
const SHARED_TEXT: usize = 32;
/// An entry of `places`, in a table that is half full.
const PLACE: usize = 2 * size_of::<((Key, i64), u64)>();
/// For so many samples there is room from the beginning; the system gives memory as it is used.
const ROOM: usize = 4 * 1024 * 1024;
/// At so many samples is looked to find some that are wanted: nobody can record meanwhile. As many as
/// leave at once.
#[cfg(feature = "spool")]
const LOOKED_AT: usize = 4096;

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        let room = limits.samples.min(limits.bytes / size_of::<Sample>()).min(ROOM);
        let coalesces = limits.when_full == WhenFull::Coalesce;
        Self {
            limits,
            samples: VecDeque::with_capacity(room),
            first: 0,
            moved: 0,
            places: coalesces.then(|| HashMap::with_capacity(room)),
            bytes: 0,
            out: Out::default(),
        }
    }

    /// Whether at most half of what may wait does.
    pub(super) fn is_half_empty(&self) -> bool {
        self.waiting() <= self.limits.samples / 2 && self.bytes <= self.limits.bytes / 2
    }

    pub(super) fn push(&mut self, sample: Sample) -> Pushed {
        if let Some(places) = &mut self.places
            && let Some(&at) = places.get(&(sample.key.clone(), sample.point.timestamp))
        {
            self.samples[(at - self.first) as usize].point.value = sample.point.value;
            return Pushed::Coalesced;
        }
        let cost = self.cost(&sample);
        let mut dropped = 0;
        while !self.has_room_for(cost) {
            let is_refused = self.limits.when_full == WhenFull::DropNewest
                || cost > self.limits.bytes
                || self.samples.is_empty();
            if is_refused {
                return Pushed::Refused { dropped };
            }
            self.drop_oldest();
            dropped += 1;
        }
        let end = self.end();
        if let Some(places) = &mut self.places {
            places.insert((sample.key.clone(), sample.point.timestamp), end);
        }
        self.bytes += cost;
        self.samples.push_back(sample);
        Pushed::Added { dropped }
    }

    /// Moves the oldest samples to `batch`, at most so many, behind those of it that are out already.
    /// No more are ever out than half of what may wait: what is being sent cannot make room. They
    /// count as waiting until they are [settled](Self::settle).
    pub(super) fn take(&mut self, most: usize, batch: &mut Vec<Sample>) {
        debug_assert_eq!(self.out.samples, batch.len(), "one batch is out at a time");
        if batch.is_empty() {
            self.out.from = self.first;
        }
        let most = self.most_out().min(self.out.samples + most);
        batch.reserve(most.min(self.waiting()).saturating_sub(batch.len()));
        while self.out.samples < most
            && self.out.bytes <= self.limits.bytes / 2
            && let Some(sample) = self.pop()
        {
            self.out.samples += 1;
            self.out.bytes += self.cost(&sample);
            batch.push(sample);
        }
    }

    /// As [`take`](Self::take), but only samples that are wanted, wherever they are among the oldest
    /// that are looked at.
    #[cfg(feature = "spool")]
    pub(super) fn take_where(
        &mut self,
        most: usize,
        is_wanted: impl Fn(&Sample) -> bool,
        batch: &mut Vec<Sample>,
    ) {
        debug_assert_eq!(self.out.samples, batch.len(), "one batch is out at a time");
        if batch.is_empty() {
            self.out.from = self.first;
        }
        let mut kept = Vec::new();
        let most = self.most_out().min(self.out.samples + most);
        for _ in 0..LOOKED_AT.min(self.samples.len()) {
            if self.out.samples >= most || self.out.bytes > self.limits.bytes / 2 {
                break;
            }
            let Some(sample) = self.pop() else { break };
            if is_wanted(&sample) {
                self.moved += u64::from(!kept.is_empty());
                self.out.samples += 1;
                self.out.bytes += self.cost(&sample);
                batch.push(sample);
            } else {
                kept.push(sample);
            }
        }
        for sample in kept.into_iter().rev() {
            self.first -= 1;
            if let Some(places) = &mut self.places {
                places.insert((sample.key.clone(), sample.point.timestamp), self.first);
            }
            self.samples.push_front(sample);
        }
    }

    /// Whether any of the oldest samples is such a one.
    #[cfg(feature = "spool")]
    pub(super) fn any(&self, most: usize, is_such: impl Fn(&Sample) -> bool) -> bool {
        self.samples.iter().take(most).any(is_such)
    }

    /// The batch that is out is not any more. Those of its samples that have no outcome come again,
    /// before all others; how many of them are not needed any more is returned.
    pub(super) fn settle(&mut self, open: impl DoubleEndedIterator<Item = Sample>) -> u64 {
        self.bytes -= self.out.bytes;
        self.out = Out::default();
        let mut coalesced = 0;
        for sample in open.rev() {
            if let Some(places) = &mut self.places {
                match places.entry((sample.key.clone(), sample.point.timestamp)) {
                    Entry::Occupied(_) => {
                        coalesced += 1;
                        continue;
                    }
                    Entry::Vacant(place) => {
                        place.insert(self.first - 1);
                    }
                }
            }
            self.first -= 1;
            self.bytes += self.cost(&sample);
            self.samples.push_front(sample);
        }
        self.moved += coalesced;
        coalesced
    }

    /// Drops all that wait, but for those that are out.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.samples.len() as u64;
        while !self.samples.is_empty() {
            self.drop_oldest();
        }
        dropped
    }

    /// How many samples wait to be sent.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// How many samples wait, those that are out included.
    pub(super) fn waiting(&self) -> usize {
        self.samples.len() + self.out.samples
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// The position that the next sample will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.samples.len() as u64
    }

    /// By how much positions have become higher so far: what was before a position then is before it
    /// and what this has grown by since.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// How many samples before this position wait, those that are out included.
    pub(super) fn waiting_before(&self, position: u64) -> u64 {
        let queued = position.saturating_sub(self.first).min(self.samples.len() as u64);
        let out = position.saturating_sub(self.out.from).min(self.out.samples as u64);
        queued + out
    }

    /// How many samples may be out.
    fn most_out(&self) -> usize {
        self.limits.samples.div_ceil(2)
    }

    fn has_room_for(&self, cost: usize) -> bool {
        self.waiting() < self.limits.samples && self.bytes + cost <= self.limits.bytes
    }

    fn drop_oldest(&mut self) {
        if let Some(sample) = self.pop() {
            self.bytes -= self.cost(&sample);
        }
    }

    fn pop(&mut self) -> Option<Sample> {
        let sample = self.samples.pop_front()?;
        if let Some(places) = &mut self.places {
            places.remove(&(sample.key.clone(), sample.point.timestamp));
        }
        self.first += 1;
        Some(sample)
    }

    /// What a sample counts as. Keys are counted as if each sample had its own, which is how it is at
    /// worst.
    fn cost(&self, sample: &Sample) -> usize {
        let place = if self.places.is_some() { PLACE } else { 0 };
        size_of::<Sample>() + SHARED_TEXT + sample.key.len() + place
    }
}
