//! The spool on a file system that does what a test tells it.

mod basic;
mod corruption;
mod crash_recovery;
mod hanging;
mod os_fs;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use metrics_wal::{
    FileSystem, Fsync, RECORD_HEADER_BYTES,
    testing::{Fault, FaultyFs, Operation},
};

use super::{
    error::SpoolError,
    sample_log::{SampleLog, SpoolLimits},
    samples::MAX_RECORD_BYTES,
};
use crate::metric::Sample;

const LIMITS: SpoolLimits = SpoolLimits { max_bytes: SpoolLimits::MIN_BYTES, fsync: Fsync::Never };

fn dir() -> &'static Path {
    Path::new("/agent/spool")
}

fn open(fs: &FaultyFs) -> SampleLog<FaultyFs> {
    SampleLog::open(fs.clone(), dir(), LIMITS).unwrap()
}

/// The files of the spool, by name.
fn files(fs: &FaultyFs) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    fs.files().into_iter().map(|(path, bytes)| (name(&path), bytes)).collect()
}

/// The segments among them.
fn segments(fs: &FaultyFs) -> Vec<(String, Vec<u8>)> {
    files(fs).into_iter().filter(|(name, _)| name.ends_with(".log")).collect()
}

fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
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
fn append<F: FileSystem>(
    log: &mut SampleLog<F>,
    numbers: std::ops::Range<u64>,
) -> Result<(), SpoolError> {
    let samples = samples(numbers);
    let mut rest = &samples[..];
    let now = Instant::now();
    while !rest.is_empty() {
        let appended = log.append(now, rest)?;
        rest = &rest[appended..];
    }
    Ok(())
}

/// Reads and settles everything.
fn drain<F: FileSystem>(log: &mut SampleLog<F>) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some(samples) = log.read(100).unwrap() {
        all.extend(numbers(&samples));
        log.settle(samples.len()).unwrap();
    }
    all
}

/// Whether everything is accounted for. `waiting` is what the other counters leave; it must be what is there.
fn assert_waiting<F: FileSystem>(log: &mut SampleLog<F>, expected: u64) {
    assert_eq!(log.stats().waiting, expected, "{:?}", log.stats());
}
