//! The spool on a disk that does what a test tells it.

mod crashes;
mod damage;
mod everyday;
mod fs;
mod hanging;
mod real;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use self::fs::TestDisk;
use super::{
    error::SpoolError,
    fs::FileSystem,
    segment::MAX_BLOCK_LEN,
    segment_log::{Limits, SegmentLog},
};
use crate::metric::Sample;

const LIMITS: Limits = Limits { max_bytes: Limits::MIN_BYTES, sync_every: Duration::MAX };

fn folder() -> &'static Path {
    Path::new("/agent/spool")
}

fn open(fs: &TestDisk) -> SegmentLog<TestDisk> {
    SegmentLog::open(fs.clone(), folder(), LIMITS).unwrap()
}

/// Samples that tell which they are.
fn samples(numbers: std::ops::Range<u64>) -> Vec<Sample> {
    numbers
        .map(|n| Sample::new(format!("palm.cpu{}", n % 7), n as f64, 1_150_864_247).unwrap())
        .collect()
}

fn numbers(samples: &[Sample]) -> Vec<u64> {
    samples.iter().map(|sample| sample.point.value as u64).collect()
}

/// Appends samples, each call's as one block.
fn append<D: FileSystem>(
    folder: &mut SegmentLog<D>,
    numbers: std::ops::Range<u64>,
) -> Result<(), SpoolError> {
    let samples = samples(numbers);
    let mut rest = &samples[..];
    let now = Instant::now();
    while !rest.is_empty() {
        let appended = folder.append(now, rest)?;
        rest = &rest[appended..];
    }
    Ok(())
}

/// Reads and settles everything.
fn drain<D: FileSystem>(folder: &mut SegmentLog<D>) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some(samples) = folder.read(100).unwrap() {
        all.extend(numbers(&samples));
        folder.settle(samples.len()).unwrap();
    }
    all
}

/// Whether everything is accounted for. `waiting` is what the other counters leave; it must be what is there.
fn assert_waiting<D: FileSystem>(folder: &mut SegmentLog<D>, expected: u64) {
    assert_eq!(folder.stats().waiting, expected, "{:?}", folder.stats());
}
