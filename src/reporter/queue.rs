//! The samples that wait, within a bound: pure state.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{
    client::WhenFull,
    metric::{Key, Sample},
};

#[cfg(test)]
mod tests;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) samples: usize,
    pub(super) bytes: usize,
    pub(super) when_full: WhenFull,
}

/// Samples in the order in which they came, and the batches of them that are out: one that is being
/// sent, and one that is being written to the spool.
///
/// Each has a position: those of later ones are higher. A position can become higher while a sample
/// waits, when others are taken from behind it, or are not needed any more, or come back from another
/// batch.
///
/// ```text
///   [ out ] [ first . . . . . . | pushed at the end
/// ```
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    samples: VecDeque<Sample>,
    /// The position of the sample at the front.
    first: u64,
    /// By how much positions have become higher so far, at most.
    shifted: u64,
    /// Where the sample of a key and second is, if samples are coalesced.
    coalesce_index: Option<HashMap<(Key, i64), u64>>,
    /// What the samples count as, those that are out included.
    bytes: usize,
    out: [Taken; Lane::COUNT],
}

/// Where a batch is taken to. Each lane has one batch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Send,
    Spool,
}

impl Lane {
    const COUNT: usize = 2;
}

/// A batch that is out.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    samples: usize,
    bytes: usize,
    /// The position that its first sample had.
    from: u64,
}

/// What a new sample has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// It waits, and so many older ones had to go.
    Added { dropped: u64 },
    /// It has taken the place of another.
    Coalesced,
    /// It is dropped, and so are so many older ones.
    Refused { dropped: u64 },
}

/// What a key's text costs besides its bytes: the two counts of an `Arc`, and what the allocator keeps.
const ARC_STR_OVERHEAD: usize = 32;
/// An entry of `coalesce_index`, in a table that is half full.
const INDEX_ENTRY_BYTES: usize = 2 * size_of::<((Key, i64), u64)>();
/// For so many samples there is room from the beginning; the system gives memory as it is used.
const MAX_PREALLOCATED: usize = 4 * 1024 * 1024;
/// At so many samples is looked to find some that are wanted: nobody can record meanwhile. As many as
/// leave at once.
pub(super) const SCAN_LIMIT: usize = 4096;

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        let room = limits.samples.min(limits.bytes / size_of::<Sample>()).min(MAX_PREALLOCATED);
        let coalesces = limits.when_full == WhenFull::Coalesce;
        Self {
            limits,
            samples: VecDeque::with_capacity(room),
            first: 0,
            shifted: 0,
            coalesce_index: coalesces.then(|| HashMap::with_capacity(room)),
            bytes: 0,
            out: [Taken::default(); Lane::COUNT],
        }
    }

    /// Whether at most half of what may wait does.
    pub(super) fn is_half_empty(&self) -> bool {
        self.waiting() <= self.limits.samples / 2 && self.bytes <= self.limits.bytes / 2
    }

    pub(super) fn push(&mut self, sample: Sample) -> PushOutcome {
        if let Some(index) = &mut self.coalesce_index
            && let Some(&at) = index.get(&(sample.key.clone(), sample.point.timestamp))
        {
            self.samples[(at - self.first) as usize].point.value = sample.point.value;
            return PushOutcome::Coalesced;
        }
        let cost = self.cost(&sample);
        let mut dropped = 0;
        while !self.has_room_for(cost) {
            let is_refused = matches!(self.limits.when_full, WhenFull::Fail | WhenFull::Wait)
                || cost > self.limits.bytes
                || self.samples.is_empty();
            if is_refused {
                return PushOutcome::Refused { dropped };
            }
            self.drop_oldest();
            dropped += 1;
        }
        let end = self.end();
        if let Some(index) = &mut self.coalesce_index {
            index.insert((sample.key.clone(), sample.point.timestamp), end);
        }
        self.bytes += cost;
        self.samples.push_back(sample);
        PushOutcome::Added { dropped }
    }

    /// Moves the oldest samples to `batch`, which is to be sent, at most so many, behind those of it
    /// that are out already. No more are ever out in a lane than [its share](Self::share) of what may
    /// wait: what is out cannot make room. They count as waiting until they are
    /// [settled](Self::settle).
    pub(super) fn take(&mut self, most: usize, batch: &mut Vec<Sample>) {
        let lane = Lane::Send;
        let (most, most_bytes) = self.begin_take(lane, most, batch);
        batch.reserve(most.min(self.waiting()).saturating_sub(batch.len()));
        while self.out[lane as usize].samples < most
            && self.out[lane as usize].bytes <= most_bytes
            && let Some(sample) = self.pop()
        {
            self.take_out(lane, sample, batch);
        }
        self.end_take(lane);
    }

    /// As [`take`](Self::take) for any lane, but only samples that are wanted, wherever they are among
    /// the oldest that are looked at.
    pub(super) fn take_matching(
        &mut self,
        lane: Lane,
        most: usize,
        mut is_wanted: impl FnMut(&Sample) -> bool,
        batch: &mut Vec<Sample>,
    ) {
        let (most, most_bytes) = self.begin_take(lane, most, batch);
        let mut kept = Vec::new();
        for _ in 0..SCAN_LIMIT.min(self.samples.len()) {
            let Taken { samples, bytes, .. } = self.out[lane as usize];
            if samples >= most || bytes > most_bytes {
                break;
            }
            let Some(sample) = self.pop() else { break };
            if is_wanted(&sample) {
                self.shifted += u64::from(!kept.is_empty());
                self.take_out(lane, sample, batch);
            } else {
                kept.push(sample);
            }
        }
        for sample in kept.into_iter().rev() {
            self.first -= 1;
            if let Some(index) = &mut self.coalesce_index {
                index.insert((sample.key.clone(), sample.point.timestamp), self.first);
            }
            self.samples.push_front(sample);
        }
        self.end_take(lane);
    }

    /// Whether any of the oldest samples is such a one.
    #[cfg(feature = "spool")]
    pub(super) fn any_of_oldest(&self, most: usize, is_such: impl Fn(&Sample) -> bool) -> bool {
        self.samples.iter().take(most).any(is_such)
    }

    /// How many samples and bytes may be out in the lane, when `most` more may be.
    fn begin_take(&mut self, lane: Lane, most: usize, batch: &[Sample]) -> (usize, usize) {
        let (samples, bytes) = self.share(lane);
        let first = self.first;
        let out = &mut self.out[lane as usize];
        debug_assert_eq!(out.samples, batch.len(), "a lane has one batch at a time");
        if batch.is_empty() {
            out.from = first;
        }
        (samples.min(out.samples + most), bytes)
    }

    /// Sees to it that no position from `first` on is that of a sample that is out, as it would be if
    /// samples have come back from another lane between two takes.
    fn end_take(&mut self, lane: Lane) {
        let out = &mut self.out[lane as usize];
        out.from = out.from.min(self.first - out.samples as u64);
    }

    fn take_out(&mut self, lane: Lane, sample: Sample, batch: &mut Vec<Sample>) {
        let cost = self.cost(&sample);
        let out = &mut self.out[lane as usize];
        out.samples += 1;
        out.bytes += cost;
        batch.push(sample);
    }

    /// The batch of the lane is not out any more. Those of its samples that have no outcome come
    /// again, before all others; how many of them are not needed any more is returned.
    pub(super) fn settle(
        &mut self,
        lane: Lane,
        open: impl DoubleEndedIterator<Item = Sample>,
    ) -> u64 {
        let out = std::mem::take(&mut self.out[lane as usize]);
        self.bytes -= out.bytes;
        let mut returned = 0;
        let mut coalesced = 0;
        for sample in open.rev() {
            if let Some(index) = &mut self.coalesce_index {
                match index.entry((sample.key.clone(), sample.point.timestamp)) {
                    Entry::Occupied(_) => {
                        coalesced += 1;
                        continue;
                    }
                    Entry::Vacant(place) => {
                        place.insert(self.first - 1);
                    }
                }
            }
            returned += 1;
            self.first -= 1;
            self.bytes += self.cost(&sample);
            self.samples.push_front(sample);
        }
        // The first that had no outcome had this position at least.
        let had = out.from + out.samples as u64 - returned - coalesced;
        self.shifted += self.first.saturating_sub(had);
        coalesced
    }

    /// Drops the batch of the lane, whoever has it. Returns how many samples that were.
    pub(super) fn forget(&mut self, lane: Lane) -> u64 {
        let out = std::mem::take(&mut self.out[lane as usize]);
        self.bytes -= out.bytes;
        out.samples as u64
    }

    /// How many samples of the lane are out.
    pub(super) fn out(&self, lane: Lane) -> usize {
        self.out[lane as usize].samples
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
        self.samples.len() + self.out.iter().map(|out| out.samples).sum::<usize>()
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
    pub(super) fn shifted(&self) -> u64 {
        self.shifted
    }

    /// How many samples before this position wait, those that are out included.
    pub(super) fn waiting_before(&self, position: u64) -> u64 {
        let queued = position.saturating_sub(self.first).min(self.samples.len() as u64);
        let out = self.out.iter().map(|out| {
            let before = position.saturating_sub(out.from);
            before.min(out.samples as u64)
        });
        queued + out.sum::<u64>()
    }

    /// How many samples, and at how many bytes no more, may be out in a lane: together at most three
    /// quarters of what may wait, so that the newest always find room.
    fn share(&self, lane: Lane) -> (usize, usize) {
        let part = match lane {
            Lane::Send => 2,
            Lane::Spool => 4,
        };
        (self.limits.samples.div_ceil(part), self.limits.bytes / part)
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
        if let Some(index) = &mut self.coalesce_index {
            index.remove(&(sample.key.clone(), sample.point.timestamp));
        }
        self.first += 1;
        Some(sample)
    }

    /// What a sample counts as. Keys are counted as if each sample had its own, which is how it is at
    /// worst.
    fn cost(&self, sample: &Sample) -> usize {
        let entry = if self.coalesce_index.is_some() { INDEX_ENTRY_BYTES } else { 0 };
        size_of::<Sample>() + ARC_STR_OVERHEAD + sample.key.len() + entry
    }
}
