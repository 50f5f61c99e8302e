//! The queue on a random walk: whatever comes, it is accounted for, within the bound and in order.

use std::collections::HashMap;

use fastrand::Rng;

use super::*;
use crate::metric::Point;

/// A queue and a model of it.
struct Walk {
    queue: Queue,
    random: Rng,
    /// Values are numbered, so that a later one is higher.
    recorded: u64,
    settled: u64,
    coalesced: u64,
    dropped: u64,
    batch: Vec<Sample>,
    /// What is being written to the spool.
    spill: Vec<Sample>,
    mark: ModelMark,
    /// What a server has.
    stored: HashMap<(Key, i64), f64>,
    /// What was recorded last.
    last: HashMap<(Key, i64), f64>,
}

/// What a flush would remember.
#[derive(Default)]
struct ModelMark {
    before: u64,
    shifted: u64,
    recorded: u64,
    dropped: u64,
}

impl Walk {
    fn new(when_full: WhenFull, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let limits =
            QueueLimits { samples: random.usize(1..20), bytes: random.usize(100..2000), when_full };
        Self {
            queue: Queue::new(limits),
            random,
            recorded: 0,
            settled: 0,
            coalesced: 0,
            dropped: 0,
            batch: Vec::new(),
            spill: Vec::new(),
            mark: ModelMark::default(),
            stored: HashMap::new(),
            last: HashMap::new(),
        }
    }

    fn push(&mut self) {
        let name = ["a", "b", "much.longer.than.the.others"][self.random.usize(0..3)];
        let sample = Sample {
            key: Key::new(name).unwrap(),
            point: Point { timestamp: self.random.i64(0..4), value: self.recorded as f64 },
        };
        self.recorded += 1;
        let place = (sample.key.clone(), sample.point.timestamp);
        let value = sample.point.value;
        match self.queue.push(sample) {
            PushOutcome::Added { dropped } => self.dropped += dropped,
            PushOutcome::Coalesced => self.coalesced += 1,
            PushOutcome::Refused { dropped } => {
                self.dropped += dropped + 1;
                return;
            }
        }
        self.last.insert(place, value);
    }

    fn take(&mut self) {
        let most = self.random.usize(1..10);
        #[cfg(feature = "spool")]
        if self.random.bool() || !self.spill.is_empty() {
            let held_back = ["a", "b"][self.random.usize(0..2)];
            let place = |sample: &Sample| (sample.key.clone(), sample.point.timestamp);
            let spill: Vec<_> = self.spill.iter().map(place).collect();
            let is_wanted = |sample: &Sample| {
                sample.key.as_str() != held_back && !spill.contains(&place(sample))
            };
            self.queue.take_matching(Lane::Send, most, is_wanted, &mut self.batch);
            return;
        }
        self.queue.take(most, &mut self.batch);
    }

    #[cfg(feature = "spool")]
    fn take_to_spool(&mut self) {
        if self.batch.is_empty() {
            let most = self.random.usize(1..10);
            self.queue.take_matching(Lane::Spool, most, |_| true, &mut self.spill);
        }
    }

    fn set_mark(&mut self) {
        self.mark = ModelMark {
            before: self.queue.end(),
            shifted: self.queue.shifted(),
            recorded: self.recorded,
            dropped: self.dropped,
        };
    }

    /// Settles the batch: some of it is acknowledged, and the rest is open.
    fn settle(&mut self, settled: usize) {
        let batch = std::mem::take(&mut self.batch);
        self.settle_lane(Lane::Send, batch, settled);
    }

    /// Settles the spool's batch: some of it is stored.
    #[cfg(feature = "spool")]
    fn settle_spooled(&mut self) {
        let stored = self.random.usize(0..=self.spill.len());
        let batch = std::mem::take(&mut self.spill);
        self.settle_lane(Lane::Spool, batch, stored);
    }

    fn settle_lane(&mut self, lane: Lane, mut batch: Vec<Sample>, settled: usize) {
        let open = batch.split_off(settled);
        self.settled += settled as u64;
        for Sample { key, point } in batch {
            let before = self.stored.insert((key, point.timestamp), point.value);
            assert!(
                before.is_none_or(|before| before < point.value),
                "a newer value was overtaken"
            );
        }
        self.coalesced += self.queue.settle(lane, open.into_iter());
    }

    fn check(&self) {
        let Self { queue, .. } = self;
        let all = || queue.samples.iter().chain(&self.batch).chain(&self.spill);
        let waiting = queue.waiting() as u64;
        assert_eq!(self.recorded, self.settled + self.coalesced + self.dropped + waiting);
        assert_eq!(waiting, (queue.len() + self.batch.len() + self.spill.len()) as u64);
        assert_eq!(queue.waiting_before(queue.end()), waiting);
        if self.dropped == self.mark.dropped {
            let ModelMark { before, shifted, recorded, .. } = self.mark;
            let is_before = |sample: &&Sample| sample.point.value < recorded as f64;
            let truth = all().filter(is_before).count();
            let waiting = queue.waiting_before(before + queue.shifted() - shifted);
            assert!(waiting >= truth as u64, "{waiting} instead of {truth}");
        }
        assert_eq!(queue.waiting_bytes(), all().map(|sample| queue.cost(sample)).sum::<usize>());
        assert!(queue.waiting() <= queue.limits.samples);
        assert!(queue.waiting_bytes() <= queue.limits.bytes);
        if let Some(index) = &queue.coalesce_index {
            assert_eq!(index.len(), queue.len());
            for ((key, timestamp), at) in index {
                let Sample { key: there, point } = &queue.samples[(at - queue.first) as usize];
                assert_eq!((key, *timestamp), (there, point.timestamp));
            }
        }
    }
}

fn walk(when_full: WhenFull) {
    for seed in 0..300 {
        let mut walk = Walk::new(when_full, seed);
        for _ in 0..300 {
            match walk.random.u8(0..13) {
                0..7 => walk.push(),
                10 => walk.set_mark(),
                7 => walk.take(),
                #[cfg(feature = "spool")]
                11 => walk.take_to_spool(),
                #[cfg(feature = "spool")]
                12 => walk.settle_spooled(),
                _ => {
                    let settled = walk.random.usize(0..=walk.batch.len());
                    walk.settle(settled);
                }
            }
            walk.check();
        }
        loop {
            walk.settle(walk.batch.len());
            #[cfg(feature = "spool")]
            walk.settle_spooled();
            if walk.queue.waiting() == 0 {
                break;
            }
            walk.take();
        }
        walk.check();
        if walk.dropped == 0 || when_full == WhenFull::Fail {
            assert_eq!(walk.stored, walk.last, "seed {seed}");
        }
    }
}

#[test]
fn random_walk_with_drop_oldest() {
    walk(WhenFull::DropOldest);
}

#[test]
fn random_walk_with_drop_newest() {
    walk(WhenFull::Fail);
}

#[test]
fn random_walk_with_coalescing() {
    walk(WhenFull::Coalesce);
}

#[test]
fn position_passes_when_all_before_it_are_settled() {
    let limits = QueueLimits { samples: 10, bytes: 10_000, when_full: WhenFull::DropOldest };
    let mut queue = Queue::new(limits);
    let push = |queue: &mut Queue| queue.push(Sample::new("a", 0.5, 1).unwrap());
    push(&mut queue);
    push(&mut queue);
    let mark = queue.end();
    push(&mut queue);
    assert_eq!(queue.waiting_before(mark), 2);
    let mut batch = Vec::new();
    queue.take(1, &mut batch);
    assert_eq!(queue.waiting_before(mark), 2);
    // A batch may be taken in several goes.
    queue.take(2, &mut batch);
    assert_eq!((batch.len(), queue.waiting_before(mark), queue.len()), (3, 2, 0));
    queue.settle(Lane::Send, batch.split_off(1).into_iter());
    assert_eq!((queue.waiting_before(mark), queue.len()), (1, 2));
    queue.clear();
    assert_eq!(queue.waiting_before(mark), 0);
}

#[cfg(feature = "spool")]
#[test]
fn lane_never_takes_more_than_its_share() {
    let limits = QueueLimits { samples: 10, bytes: 10_000, when_full: WhenFull::DropOldest };
    let mut queue = Queue::new(limits);
    for second in 0..10 {
        queue.push(Sample::new("a", 0.5, second).unwrap());
    }
    let mut batch = Vec::new();
    queue.take_matching(Lane::Send, 8, |_| true, &mut batch);
    assert_eq!((batch.len(), queue.len()), (5, 5));
    queue.take(8, &mut batch);
    assert_eq!((batch.len(), queue.len()), (5, 5));
}

#[cfg(feature = "spool")]
#[test]
fn take_matching_finds_samples_behind_others() {
    let limits = QueueLimits { samples: 1000, bytes: 1_000_000, when_full: WhenFull::DropOldest };
    let mut queue = Queue::new(limits);
    for second in 0..1000 {
        queue.push(Sample::new("a", 0.5, second).unwrap());
    }
    let mut batch = Vec::new();
    queue.take_matching(Lane::Send, 10, |sample| sample.point.timestamp >= 500, &mut batch);
    let seconds: Vec<_> = batch.iter().map(|sample| sample.point.timestamp).collect();
    assert_eq!(seconds, Vec::from_iter(500..510));
    assert_eq!(queue.len(), 990);
}
