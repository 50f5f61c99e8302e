//! The process is killed, the disk fails, or the power is lost, at every operation.

use std::{collections::BTreeSet, io, panic::AssertUnwindSafe};

use fastrand::Rng;

use super::*;

/// What is known of the samples, whatever became of the process.
#[derive(Debug, Default)]
struct Known {
    /// The number of the next sample to append.
    next: u64,
    /// Those that were appended.
    appended: BTreeSet<u64>,
    /// Those whose append failed: they may be there or not.
    perhaps: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    dropped: u64,
}

impl Known {
    /// One random call.
    fn step(&mut self, rng: &mut Rng, fs: &FaultyFs, spool: &mut SampleLog<FaultyFs>) {
        match rng.u8(..8) {
            0..4 => {
                let end = self.next + rng.u64(1..400);
                let samples = samples(self.next..end);
                self.next = end;
                match spool.append(Instant::now(), &samples) {
                    // A killed process does not return.
                    Ok(count) if !fs.is_killed() => {
                        let all = numbers(&samples);
                        self.appended.extend(&all[..count]);
                    }
                    _ => self.perhaps.extend(numbers(&samples)),
                }
            }
            4 => spool.sync(),
            _ => {
                if let Ok(Some(samples)) = spool.read(rng.usize(1..1000)) {
                    let some = rng.usize(..=samples.len());
                    // They have been sent, whether that can be written down or not.
                    self.settled.extend(&numbers(&samples)[..some]);
                    let _ = spool.settle(some);
                }
            }
        }
    }

    /// Checks what is left against what is known.
    fn check(&self, left: &[u64]) {
        assert!(left.is_sorted_by(|a, b| a < b), "out of order");
        let left: BTreeSet<u64> = left.iter().copied().collect();
        let known = &self.appended | &self.perhaps;
        assert_eq!(&left - &known, BTreeSet::new(), "from nowhere");
        let owed = &self.appended - &self.settled;
        let missing = &owed - &left;
        assert_eq!(missing.len() as u64, self.dropped, "{missing:?}");
        assert!(owed.iter().take(missing.len()).eq(&missing), "the oldest go first");
    }
}

/// Runs a random life of a spool, and says how many operations it took.
fn live(seed: u64, fs: &FaultyFs, fsync: Fsync) -> Known {
    let mut rng = Rng::with_seed(seed);
    let mut known = Known::default();
    let limits = SpoolLimits { fsync, ..LIMITS };
    let Ok(mut spool) = SampleLog::open(fs.clone(), dir(), limits) else { return known };
    for _ in 0..25 {
        known.step(&mut rng, fs, &mut spool);
        let stats = spool.stats();
        assert_eq!(
            stats.recovered + stats.spooled,
            stats.replayed + stats.dropped + stats.lost + stats.waiting,
        );
        known.dropped = stats.dropped + stats.lost;
        if fs.is_killed() {
            break;
        }
    }
    known
}

/// Runs a life under each fault in turn, and then looks at what is left.
fn at_every_operation(
    seed: u64,
    fault: impl Fn(u64) -> Fault,
    fsync: Fsync,
    after: impl Fn(&FaultyFs),
) {
    let fs = FaultyFs::with_seed(seed);
    live(seed, &fs, fsync);
    for at in 0..fs.operations() {
        let fs = FaultyFs::with_seed(seed + at);
        fs.set_fault(fault(at));
        let known = live(seed, &fs, fsync);
        fs.set_fault(Fault::None);
        after(&fs);
        let check = || {
            let mut left = open(&fs);
            known.check(&drain(&mut left));
            assert_eq!(left.stats().lost, 0);
        };
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(check)) {
            println!("seed {seed}, operation {at} of {}", fs.operations());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn kill_at_any_operation_loses_nothing() {
    for seed in 0..3 {
        at_every_operation(seed, |from| Fault::Killed { from }, Fsync::Never, |_| {});
    }
}

#[test]
fn error_at_any_operation_loses_nothing() {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::Other];
    for (seed, kind) in (0..3).zip(kinds.into_iter().cycle()) {
        at_every_operation(seed, |at| Fault::At { operation: at, kind }, Fsync::Never, |_| {});
    }
}

#[test]
fn power_loss_at_any_operation_keeps_what_was_synced() {
    for seed in 0..3 {
        at_every_operation(
            seed,
            |from| Fault::Killed { from },
            Fsync::Always,
            FaultyFs::lose_power,
        );
    }
}

#[test]
fn append_fails_on_a_full_disk_until_space_is_free() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..100).unwrap();
    fs.set_capacity(Some(6000));
    let error = append(&mut spool, 100..400).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write \"/agent/spool/00000000000000000000.log\": free space on the disk, or lower the spool's max_bytes"
    );
    let stats = spool.stats();
    assert_eq!((stats.io_errors.full, stats.waiting), (1, 100));
    // What it holds can still be read and settled, and makes room.
    assert_eq!(drain(&mut spool), (0..100).collect::<Vec<_>>());
    append(&mut spool, 400..420).unwrap();
    fs.set_capacity(None);
    append(&mut spool, 420..1000).unwrap();
    drop(spool);
    assert_eq!(drain(&mut open(&fs)), (400..1000).collect::<Vec<_>>());
}

#[test]
fn missing_permission_is_an_error_with_a_remedy() {
    let fs = FaultyFs::default();
    fs.set_fault(Fault::On { path: "lock", kind: io::ErrorKind::PermissionDenied });
    assert_eq!(
        SampleLog::open(fs.clone(), dir(), LIMITS).unwrap_err().to_string(),
        "cannot open \"/agent/spool/lock\": the process needs permission to read and write the directory"
    );
    fs.set_fault(Fault::None);
    let mut spool = open(&fs);
    fs.set_fault(Fault::On { path: ".log", kind: io::ErrorKind::PermissionDenied });
    append(&mut spool, 0..10).unwrap_err();
    assert_eq!(spool.stats().io_errors.denied, 1);
    fs.set_fault(Fault::None);
    append(&mut spool, 0..10).unwrap();
    assert_eq!(drain(&mut spool), (0..10).collect::<Vec<_>>());
}

#[test]
fn unreadable_segment_does_not_block_the_others() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10_000).unwrap();
    assert!(segments(&fs).len() > 2);
    let (second, _) = segments(&fs)[1].clone();
    let first: u64 = second.trim_end_matches(".log").parse().unwrap();
    fs.set_fault(Fault::Of {
        operation: Operation::Read,
        path: "00000000000000000000",
        kind: io::ErrorKind::Other,
    });
    for _ in 0..5 {
        spool.read(100).unwrap_err();
    }
    assert_eq!(drain(&mut spool), (first..10_000).collect::<Vec<_>>());
    let stats = spool.stats();
    assert_eq!((stats.lost, stats.quarantined, stats.io_errors.other), (first, 1, 5));
    assert!(files(&fs).contains_key("00000000000000000000.log.unreadable"));
}

/// A process that is out of file descriptors has lost nothing.
#[test]
fn segment_that_cannot_be_opened_is_kept() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..100).unwrap();
    fs.set_fault(Fault::Of {
        operation: Operation::OpenRead,
        path: ".log",
        kind: io::ErrorKind::Other,
    });
    for _ in 0..20 {
        let error = spool.read(100).unwrap_err().to_string();
        assert_eq!(error, "cannot open \"/agent/spool/00000000000000000000.log\"");
    }
    let stats = spool.stats();
    assert_eq!((stats.waiting, stats.lost, stats.quarantined), (100, 0, 0));
    assert_eq!(stats.io_errors.other, 20);
    fs.set_fault(Fault::None);
    assert_eq!(drain(&mut spool), (0..100).collect::<Vec<_>>());
}

#[test]
fn open_fails_if_a_segment_cannot_be_opened() {
    let fs = FaultyFs::default();
    append(&mut open(&fs), 0..10_000).unwrap();
    let before = files(&fs);
    fs.set_fault(Fault::Of {
        operation: Operation::OpenRead,
        path: "00000000000000000000",
        kind: io::ErrorKind::Other,
    });
    let error = SampleLog::open(fs.clone(), dir(), LIMITS).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot open \"/agent/spool/00000000000000000000.log\"");
    assert_eq!(files(&fs), before);
    // It was removed since it was listed.
    fs.set_fault(Fault::Of {
        operation: Operation::OpenRead,
        path: "00000000000000000000",
        kind: io::ErrorKind::NotFound,
    });
    let stats = open(&fs).stats();
    assert_eq!((stats.quarantined, stats.io_errors.total()), (0, 1));
    fs.set_fault(Fault::None);
    assert_eq!(drain(&mut open(&fs)).last(), Some(&9999));
}

#[test]
fn torn_segment_that_cannot_be_cut_is_readable() {
    let fs = FaultyFs::default();
    append(&mut open(&fs), 0..100).unwrap();
    let (name, bytes) = segments(&fs).remove(0);
    fs.put(dir().join(&name), &[&bytes[..], b"torn"].concat());
    fs.set_fault(Fault::Of {
        operation: Operation::Open,
        path: ".log",
        kind: io::ErrorKind::Other,
    });
    let mut spool = open(&fs);
    let stats = spool.stats();
    assert_eq!((stats.recovered, stats.quarantined, stats.io_errors.other), (100, 0, 1));
    fs.set_fault(Fault::None);
    assert_eq!(drain(&mut spool), (0..100).collect::<Vec<_>>());
}

#[test]
fn segments_that_cannot_be_removed_are_removed_later() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10_000).unwrap();
    let read = spool.read(10).unwrap().unwrap();
    fs.set_fault(Fault::On { path: ".log", kind: io::ErrorKind::PermissionDenied });
    spool.settle(read.len()).unwrap();
    fs.set_fault(Fault::None);
    let first = segments(&fs).len();
    assert_eq!(drain(&mut spool).len(), 10_000 - 10);
    assert!(first > 1 && segments(&fs).is_empty());
    assert_eq!(spool.stats().bytes, 0);
}

// FAULTS A18: whatever happens while a segment of a far larger bound is made smaller, the newest samples
// stay, and those that were dropped are known to be.
#[test]
fn fault_at_any_operation_of_trimming_keeps_the_newest() {
    let wide = SpoolLimits { max_bytes: 128 * 1024 * 1024, fsync: Fsync::Always };
    let narrow = SpoolLimits { max_bytes: 256 * 1024, fsync: Fsync::Always };
    // Long keys, so that few samples have many bytes.
    let sample =
        |n: u64| Sample::new(format!("{}{n}", "k".repeat(1000)), n as f64, 1_150_864_247).unwrap();
    let prepared = FaultyFs::default();
    let all: Vec<Sample> = (0..400).map(sample).collect();
    let mut spool = SampleLog::open(prepared.clone(), dir(), wide).unwrap();
    let mut rest = &all[..];
    while !rest.is_empty() {
        rest = &rest[spool.append(Instant::now(), rest).unwrap()..];
    }
    drop(spool);
    let copy = |seed| {
        let fs = FaultyFs::with_seed(seed);
        for (name, content) in prepared.files() {
            fs.put(dir().join(name), &content);
        }
        fs
    };
    let trim = |fs: &FaultyFs| {
        let Ok(mut spool) = SampleLog::open(fs.clone(), dir(), narrow) else { return };
        let _ = spool.append(Instant::now(), &[sample(400)]);
    };
    let counted = copy(0);
    trim(&counted);
    for at in 0..counted.operations() {
        for (fault, loses_power) in [
            (Fault::Killed { from: at }, false),
            (Fault::Killed { from: at }, true),
            (Fault::At { operation: at, kind: io::ErrorKind::StorageFull }, false),
        ] {
            let fs = copy(at);
            fs.set_fault(fault);
            trim(&fs);
            fs.set_fault(Fault::None);
            if loses_power {
                fs.lose_power();
            }
            if files(&fs).keys().any(|name| name.ends_with(".unreadable")) {
                // It could not be read at opening.
                continue;
            }
            let mut spool = SampleLog::open(fs.clone(), dir(), narrow).unwrap();
            assert!(spool.stats().disk_bytes <= narrow.max_bytes, "{fault:?}");
            let left = drain(&mut spool);
            let (first, last) = (left[0], left[left.len() - 1]);
            assert!((1..300).contains(&first), "{fault:?}: {first}");
            assert!([399, 400].contains(&last), "{fault:?}: {last}");
            assert_eq!(left, (first..=last).collect::<Vec<_>>(), "{fault:?}");
            assert_eq!(spool.stats().lost, 0, "{fault:?}");
            let is_left = |name: &String| name.ends_with(".tmp") || name.ends_with(".committed");
            assert!(!files(&fs).keys().any(is_left), "{fault:?}");
        }
    }
}
