//! A log of samples in ordinary use.

use super::*;

#[test]
fn appended_samples_are_read_in_order_and_settled_once() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..1000).unwrap();
    append(&mut spool, 1000..1001).unwrap();
    assert_waiting(&mut spool, 1001);
    assert_eq!(drain(&mut spool), (0..1001).collect::<Vec<_>>());
    assert_waiting(&mut spool, 0);
    assert!(spool.is_drained());
    assert!(segments(&fs).is_empty(), "nothing is left on disk");
    append(&mut spool, 1001..1003).unwrap();
    assert_eq!(drain(&mut spool), [1001, 1002]);
}

#[test]
fn samples_survive_as_they_were_recorded() {
    let longest = "k".repeat(1024);
    let all = [
        Sample::new("ключ", -0.0, i64::MIN).unwrap(),
        Sample::new(longest.as_str(), f64::MIN_POSITIVE, i64::MAX).unwrap(),
        Sample::new("a", 1e300, 0).unwrap(),
    ];
    let fs = FaultyFs::default();
    open(&fs).append(Instant::now(), &all).unwrap();
    let mut spool = open(&fs);
    assert_eq!(spool.latest(), Some(i64::MAX));
    let read = spool.read(100).unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{all:?}"));
}

#[test]
fn unsettled_samples_are_read_again() {
    let mut spool = open(&FaultyFs::default());
    append(&mut spool, 0..10).unwrap();
    assert_eq!(numbers(&spool.read(4).unwrap().unwrap()), [0, 1, 2, 3]);
    assert_eq!(numbers(&spool.read(4).unwrap().unwrap()), [0, 1, 2, 3]);
    spool.settle(1).unwrap();
    assert!(!spool.is_drained());
    assert_eq!(numbers(&spool.read(100).unwrap().unwrap()), (1..10).collect::<Vec<_>>());
    assert_waiting(&mut spool, 9);
}

#[test]
fn next_process_continues_at_the_position() {
    let fs = FaultyFs::default();
    let mut first = open(&fs);
    append(&mut first, 0..10).unwrap();
    first.read(4).unwrap().unwrap();
    first.settle(3).unwrap();
    drop(first);
    let mut second = open(&fs);
    assert_eq!(second.stats().recovered, 7);
    append(&mut second, 10..12).unwrap();
    assert_eq!(drain(&mut second), (3..12).collect::<Vec<_>>());
    drop(second);
    let mut third = open(&fs);
    assert_eq!(third.stats().recovered, 0);
    append(&mut third, 12..13).unwrap();
    assert_eq!(drain(&mut third), [12], "numbers are not given out again");
}

#[test]
fn lost_position_reads_everything_again() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10).unwrap();
    spool.read(4).unwrap().unwrap();
    spool.settle(4).unwrap();
    drop(spool);
    fs.put(dir().join("position"), b"garbled");
    assert_eq!(drain(&mut open(&fs)), (0..10).collect::<Vec<_>>());
}

#[test]
fn full_log_drops_the_oldest_samples_and_counts_them() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    let all = 100_000;
    for n in 0..all / 100 {
        append(&mut spool, 100 * n..100 * (n + 1)).unwrap();
        let used: usize = segments(&fs).iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(used as u64 <= LIMITS.max_bytes, "{used}");
        assert_eq!(used as u64, spool.stats().bytes);
    }
    let stats = spool.stats();
    assert!(stats.dropped > 0 && stats.dropped_bytes > 0);
    assert!(stats.bytes >= LIMITS.max_bytes / 16 * 14, "{stats:?}");
    assert_eq!(stats.dropped + stats.waiting, all);
    assert_eq!(drain(&mut spool), (stats.dropped..all).collect::<Vec<_>>());
    assert_eq!(spool.stats().lost, 0);
}

#[test]
fn samples_dropped_in_flight_count_once() {
    for settled in [0, 30, 100] {
        let mut spool = open(&FaultyFs::default());
        append(&mut spool, 0..100).unwrap();
        assert_eq!(spool.read(100).unwrap().unwrap().len(), 100);
        let mut all = 100;
        while spool.stats().dropped == 0 {
            append(&mut spool, all..all + 100).unwrap();
            all += 100;
        }
        let dropped = spool.stats().dropped;
        assert_waiting(&mut spool, all - dropped);
        spool.settle(settled as usize).unwrap();
        let stats = spool.stats();
        assert_eq!((stats.replayed, stats.dropped), (settled, dropped + 100 - settled));
        assert_eq!(drain(&mut spool), (dropped + 100..all).collect::<Vec<_>>());
        assert_waiting(&mut spool, 0);
    }
}

#[test]
fn directory_has_one_owner() {
    let fs = FaultyFs::default();
    let first = open(&fs);
    let second = SampleLog::open(fs.clone(), dir(), LIMITS);
    assert_eq!(
        second.unwrap_err().to_string(),
        format!(
            "spool \"/agent/spool\" is in use by process {}: give each reporter a directory of its own",
            std::process::id()
        )
    );
    drop(first);
    open(&fs);
}

#[test]
fn appended_samples_are_synced_when_due() {
    let fs = FaultyFs::default();
    let limits = SpoolLimits { fsync: Fsync::Every(Duration::from_secs(1)), ..LIMITS };
    let mut spool = SampleLog::open(fs.clone(), dir(), limits).unwrap();
    let start = Instant::now();
    spool.append(start, &samples(0..1)).unwrap();
    spool.append(start + Duration::from_millis(999), &samples(1..2)).unwrap();
    spool.sync_if_due(start + Duration::from_secs(1));
    spool.append(start + Duration::from_secs(1), &samples(2..3)).unwrap();
    drop(spool);
    fs.lose_power();
    let mut spool = open(&fs);
    assert!(drain(&mut spool).starts_with(&[0, 1]));
}

#[test]
fn record_length_is_limited() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    let sample = Sample::new("k".repeat(1024), 1.0, 2).unwrap();
    let appended = spool.append(Instant::now(), &vec![sample; 100]).unwrap();
    assert_eq!(appended, (MAX_RECORD_BYTES - RECORD_HEADER_BYTES) / (1024 + 18));
}

/// Appends each sample in a process of its own, and so in a segment of its own.
fn restarted(fs: &FaultyFs, samples: u64) {
    for n in 0..samples {
        append(&mut open(fs), n..n + 1).unwrap();
    }
}

// FAULTS A19
#[test]
fn read_spans_segments() {
    let fs = FaultyFs::default();
    restarted(&fs, 200);
    assert_eq!(segments(&fs).len(), 200);
    let mut spool = open(&fs);
    let read = spool.read(150).unwrap().unwrap();
    assert_eq!(numbers(&read), (0..150).collect::<Vec<_>>());
    spool.settle(120).unwrap();
    assert_eq!(segments(&fs).len(), 80);
    assert_waiting(&mut spool, 80);
    let read = spool.read(1000).unwrap().unwrap();
    assert_eq!(numbers(&read), (120..200).collect::<Vec<_>>());
    spool.settle(80).unwrap();
    assert!(segments(&fs).is_empty() && spool.is_drained());
}

// FAULTS A19
#[test]
fn small_segments_count_as_the_disk_blocks_they_take() {
    let fs = FaultyFs::default();
    restarted(&fs, 300);
    let segments = segments(&fs).len() as u64;
    assert!(segments * 4096 <= LIMITS.max_bytes, "{segments} segments");
    assert!(segments * 4096 > LIMITS.max_bytes - 2 * 4096, "{segments} segments");
    let mut spool = open(&fs);
    assert_eq!(drain(&mut spool), (300 - segments..300).collect::<Vec<_>>());
}

// FAULTS A19: samples of several segments are in hand, of which some go.
#[test]
fn samples_in_hand_of_dropped_segments_count_once() {
    for settled in [0, 3, 5, 50] {
        let fs = FaultyFs::default();
        restarted(&fs, 50);
        let mut spool = open(&fs);
        assert_eq!(spool.read(50).unwrap().unwrap().len(), 50);
        let mut next = 50;
        // Until some of them are dropped, and not all.
        while segments(&fs)[0].0 < segment_name(5) {
            append(&mut spool, next..next + 1).unwrap();
            next += 1;
            if next % 10 == 0 {
                spool.wal.roll().unwrap();
            }
        }
        assert_eq!(segments(&fs)[0].0, segment_name(5));
        assert_eq!(spool.stats().dropped, 0);
        assert_waiting(&mut spool, next);
        spool.settle(settled as usize).unwrap();
        let stats = spool.stats();
        let dropped = 5_u64.saturating_sub(settled);
        assert_eq!((stats.replayed, stats.dropped), (settled, dropped));
        assert_eq!(drain(&mut spool), (settled.max(5)..next).collect::<Vec<_>>());
        assert_waiting(&mut spool, 0);
    }
}

// FAULTS A18
#[test]
fn smaller_bound_trims_at_start_oldest_first() {
    let fs = FaultyFs::default();
    let wide = SpoolLimits { max_bytes: 128 * 1024 * 1024, ..LIMITS };
    let mut spool = SampleLog::open(fs.clone(), dir(), wide).unwrap();
    append(&mut spool, 0..100_000).unwrap();
    drop(spool);
    assert_eq!(segments(&fs).len(), 1);

    let mut spool = open(&fs);
    let stats = spool.stats();
    assert_eq!(stats.dropped + stats.waiting, 100_000);
    let used = |fs: &FaultyFs| segments(fs).iter().map(|(_, b)| b.len() as u64).sum::<u64>();
    assert!(used(&fs) <= LIMITS.max_bytes, "{}", used(&fs));
    assert!(used(&fs) > LIMITS.max_bytes / 8 * 7, "{}", used(&fs));
    // One append drops no more than it always does.
    append(&mut spool, 100_000..100_100).unwrap();
    assert!(used(&fs) <= LIMITS.max_bytes, "{}", used(&fs));
    assert!(used(&fs) > LIMITS.max_bytes / 8 * 7, "{}", used(&fs));
    append(&mut spool, 100_100..103_000).unwrap();
    assert!(used(&fs) <= LIMITS.max_bytes, "{}", used(&fs));
    assert!(used(&fs) > LIMITS.max_bytes / 8 * 7, "{}", used(&fs));
    let dropped = spool.stats().dropped;
    assert_eq!(drain(&mut spool), (dropped..103_000).collect::<Vec<_>>());
    assert_eq!((spool.stats().lost, spool.stats().dropped), (0, dropped));
    drop(spool);
    assert_eq!(open(&fs).stats().recovered, 0);
}

/// Samples of which every third is old.
fn oldest_seen(numbers: std::ops::Range<u64>) -> Vec<Sample> {
    let mut samples = samples(numbers.clone());
    for (sample, number) in samples.iter_mut().zip(numbers) {
        sample.point.timestamp = if number % 3 == 0 { 10 } else { 20 };
    }
    samples
}

// Asked for: an age bound for what is replayed.
#[test]
fn samples_that_are_too_old_are_dropped_when_read() {
    let mut spool = open(&FaultyFs::default());
    spool.append(Instant::now(), &oldest_seen(0..10)).unwrap();
    assert_eq!(numbers(&spool.read_since(20, 3).unwrap().unwrap()), [1, 2]);
    spool.settle(1).unwrap();
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.expired, stats.waiting), (1, 1, 8));
    assert_eq!(numbers(&spool.read_since(20, 100).unwrap().unwrap()), [2, 4, 5, 7, 8]);
    // The last one is too old, and settled with those in front of it.
    spool.settle(5).unwrap();
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.expired, stats.waiting), (6, 4, 0));
    assert!(spool.is_drained());
}

#[test]
fn samples_that_are_all_too_old_leave_nothing_behind() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10_000).unwrap();
    assert!(spool.read_since(i64::MAX, 100).unwrap().is_none());
    assert_eq!((spool.stats().expired, spool.stats().waiting), (10_000, 0));
    assert!(spool.is_drained() && segments(&fs).is_empty());
    drop(spool);
    assert_eq!(open(&fs).stats().recovered, 0);
}

#[test]
fn samples_that_are_too_old_count_once_when_their_segment_goes() {
    for settled in [0, 3, 66] {
        let mut spool = open(&FaultyFs::default());
        spool.append(Instant::now(), &oldest_seen(0..100)).unwrap();
        assert_eq!(spool.read_since(20, 100).unwrap().unwrap().len(), 66);
        let mut all = 100;
        while spool.stats().dropped == 0 {
            append(&mut spool, all..all + 100).unwrap();
            all += 100;
        }
        let dropped = spool.stats().dropped;
        spool.settle(settled as usize).unwrap();
        let stats = spool.stats();
        assert_eq!(stats.replayed, settled);
        assert_eq!(stats.replayed + stats.expired + stats.dropped, dropped + 100);
        assert_eq!(drain(&mut spool), (dropped + 100..all).collect::<Vec<_>>());
        assert_waiting(&mut spool, 0);
    }
}
