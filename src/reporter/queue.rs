//! The bounded queue of samples: pure state.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{
    client::WhenFull,
    metric::{Key, Sample},
};

#[cfg(test)]
mod tests;

/// The bounds of a queue, and what happens when it is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) samples: usize,
    pub(super) bytes: usize,
    pub(super) when_full: WhenFull,
}

/// Samples in the order in which they were recorded, and the batches that were taken from it: one that is
/// being sent, and one that is being written to the spool.
///
/// Each sample has a position, and later samples have higher ones. A sample's position can grow while it is
/// queued: when others are taken from behind it, are coalesced, or return from another batch.
///
/// ```text
///   [taken] [ first . . . . . . | pushed at the end
/// ```
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    samples: VecDeque<Sample>,
    /// The position of the sample at the front.
    first: u64,
    /// By how much positions have grown so far, at most.
    shifted: u64,
    /// The position of the sample of a key and second, if samples are coalesced.
    coalesce_index: Option<HashMap<(Key, i64), u64>>,
    /// What the samples count as in bytes, taken ones included.
    bytes: usize,
    taken: [Taken; Lane::COUNT],
}

/// What a batch is taken for. Each lane has one batch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Send,
    Spool,
}

impl Lane {
    const COUNT: usize = 2;
}

/// A batch that was taken and not settled.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    samples: usize,
    bytes: usize,
    /// The position that its first sample had.
    from: u64,
}

/// What happened to a new sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// It is queued, and this many older ones were dropped for it.
    Added { dropped: u64 },
    /// It has replaced another.
    Coalesced,
    /// It is dropped, and so are this many older ones.
    Refused { dropped: u64 },
}

/// What a key's text costs besides its bytes: the two counters of an `Arc`, and the allocator's overhead.
const ARC_STR_OVERHEAD: usize = 32;
/// An entry of `coalesce_index`, in a table that is half full.
const INDEX_ENTRY_BYTES: usize = 2 * size_of::<((Key, i64), u64)>();
/// The most samples for which memory is reserved at first; the system provides it as it is used.
const MAX_PREALLOCATED: usize = 4 * 1024 * 1024;
/// The most samples that are searched for wanted ones, since no thread can record until that is done: as
/// many as a batch has.
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
            taken: [Taken::default(); Lane::COUNT],
        }
    }

    /// Returns true if the queue is at most half full.
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

    /// Moves up to `most` of the oldest samples to `batch`, which is to be sent, behind those that it has
    /// already. A lane never has more than [its share](Self::share) of the queue, because taken samples cannot
    /// make room. They count as queued until they are [settled](Self::settle).
    pub(super) fn take(&mut self, most: usize, batch: &mut Vec<Sample>) {
        let lane = Lane::Send;
        let (most, most_bytes) = self.begin_take(lane, most, batch);
        batch.reserve(most.min(self.waiting()).saturating_sub(batch.len()));
        while self.taken[lane as usize].samples < most
            && self.taken[lane as usize].bytes <= most_bytes
            && let Some(sample) = self.pop()
        {
            self.take_out(lane, sample, batch);
        }
        self.end_take(lane);
    }

    /// As [`take`](Self::take) for any lane, but only samples for which `is_wanted` is true, among the
    /// [`SCAN_LIMIT`] oldest.
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
            let Taken { samples, bytes, .. } = self.taken[lane as usize];
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

    /// Returns true if `is_such` is true for any of the `most` oldest samples.
    #[cfg(feature = "spool")]
    pub(super) fn any_of_oldest(&self, most: usize, is_such: impl Fn(&Sample) -> bool) -> bool {
        self.samples.iter().take(most).any(is_such)
    }

    /// Returns how many samples and bytes the lane may have in all, if `most` more may be taken.
    fn begin_take(&mut self, lane: Lane, most: usize, batch: &[Sample]) -> (usize, usize) {
        let (samples, bytes) = self.share(lane);
        let first = self.first;
        let out = &mut self.taken[lane as usize];
        debug_assert_eq!(out.samples, batch.len(), "a lane has one batch at a time");
        if batch.is_empty() {
            out.from = first;
        }
        (samples.min(out.samples + most), bytes)
    }

    /// Lowers the position of the batch, so that none of its samples has one from `first` on. It would if
    /// samples have returned from another lane between two takes.
    fn end_take(&mut self, lane: Lane) {
        let out = &mut self.taken[lane as usize];
        out.from = out.from.min(self.first - out.samples as u64);
    }

    fn take_out(&mut self, lane: Lane, sample: Sample, batch: &mut Vec<Sample>) {
        let cost = self.cost(&sample);
        let out = &mut self.taken[lane as usize];
        out.samples += 1;
        out.bytes += cost;
        batch.push(sample);
    }

    /// Ends the batch of the lane. Its samples without an outcome are queued again, before all others. Returns
    /// how many of them were coalesced with later ones instead.
    pub(super) fn settle(
        &mut self,
        lane: Lane,
        open: impl DoubleEndedIterator<Item = Sample>,
    ) -> u64 {
        let out = std::mem::take(&mut self.taken[lane as usize]);
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
        // The first without an outcome had at least this position.
        let had = out.from + out.samples as u64 - returned - coalesced;
        self.shifted += self.first.saturating_sub(had);
        coalesced
    }

    /// Counts the lane's batch as dropped. Returns how many samples it has.
    pub(super) fn forget(&mut self, lane: Lane) -> u64 {
        let out = std::mem::take(&mut self.taken[lane as usize]);
        self.bytes -= out.bytes;
        out.samples as u64
    }

    /// Returns how many samples the lane has.
    pub(super) fn taken(&self, lane: Lane) -> usize {
        self.taken[lane as usize].samples
    }

    /// Drops all samples but taken ones. Returns how many.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.samples.len() as u64;
        while !self.samples.is_empty() {
            self.drop_oldest();
        }
        dropped
    }

    /// Returns how many samples are queued, without taken ones.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns how many samples are queued, taken ones included.
    pub(super) fn waiting(&self) -> usize {
        self.samples.len() + self.taken.iter().map(|out| out.samples).sum::<usize>()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the position that the next sample will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.samples.len() as u64
    }

    /// Returns by how much positions have grown so far, at most. A sample that was before a position is now
    /// before that position plus what this has grown by since.
    pub(super) fn shifted(&self) -> u64 {
        self.shifted
    }

    /// Returns how many samples before this position are queued, taken ones included.
    pub(super) fn waiting_before(&self, position: u64) -> u64 {
        let queued = position.saturating_sub(self.first).min(self.samples.len() as u64);
        let out = self.taken.iter().map(|out| {
            let before = position.saturating_sub(out.from);
            before.min(out.samples as u64)
        });
        queued + out.sum::<u64>()
    }

    /// Returns how many samples a lane may have, and at how many bytes it takes no more: all lanes together at
    /// most three quarters of the queue, so that new samples always find room.
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

    /// Returns what a sample counts as in bytes, as if no two samples shared a key.
    fn cost(&self, sample: &Sample) -> usize {
        let entry = if self.coalesce_index.is_some() { INDEX_ENTRY_BYTES } else { 0 };
        size_of::<Sample>() + ARC_STR_OVERHEAD + sample.key.as_str().len() + entry
    }
}
