//! A folder in ordinary use.

use super::*;

#[test]
fn what_was_appended_is_read_in_order_and_settled_once() {
    let disk = TestDisk::default();
    let mut spool = open(&disk);
    append(&mut spool, 0..1000).unwrap();
    append(&mut spool, 1000..1001).unwrap();
    assert_waiting(&mut spool, 1001);
    assert_eq!(drain(&mut spool), (0..1001).collect::<Vec<_>>());
    assert_waiting(&mut spool, 0);
    assert!(spool.is_drained());
    assert!(disk.segments().is_empty(), "nothing is left on disk");
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
    let disk = TestDisk::default();
    open(&disk).append(Instant::now(), &all).unwrap();
    let mut spool = open(&disk);
    assert_eq!(spool.latest(), Some(i64::MAX));
    let read = spool.read(100).unwrap().unwrap();
    assert_eq!(format!("{read:?}"), format!("{all:?}"));
}

#[test]
fn what_is_not_settled_is_read_again() {
    let mut spool = open(&TestDisk::default());
    append(&mut spool, 0..10).unwrap();
    assert_eq!(numbers(&spool.read(4).unwrap().unwrap()), [0, 1, 2, 3]);
    assert_eq!(numbers(&spool.read(4).unwrap().unwrap()), [0, 1, 2, 3]);
    spool.settle(1).unwrap();
    assert!(!spool.is_drained());
    assert_eq!(numbers(&spool.read(100).unwrap().unwrap()), (1..10).collect::<Vec<_>>());
    assert_waiting(&mut spool, 9);
}

#[test]
fn the_next_process_goes_on_where_the_last_one_was() {
    let disk = TestDisk::default();
    let mut first = open(&disk);
    append(&mut first, 0..10).unwrap();
    first.read(4).unwrap().unwrap();
    first.settle(3).unwrap();
    drop(first);
    let mut second = open(&disk);
    assert_eq!(second.stats().recovered, 7);
    append(&mut second, 10..12).unwrap();
    assert_eq!(drain(&mut second), (3..12).collect::<Vec<_>>());
    drop(second);
    let mut third = open(&disk);
    assert_eq!(third.stats().recovered, 0);
    append(&mut third, 12..13).unwrap();
    assert_eq!(drain(&mut third), [12], "numbers are not given out again");
}

#[test]
fn without_its_position_everything_is_sent_again() {
    let disk = TestDisk::default();
    let mut spool = open(&disk);
    append(&mut spool, 0..10).unwrap();
    spool.read(4).unwrap().unwrap();
    spool.settle(4).unwrap();
    drop(spool);
    disk.put(&folder().join("position"), b"garbled");
    assert_eq!(drain(&mut open(&disk)), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_full_folder_drops_the_oldest_and_counts_them() {
    let disk = TestDisk::default();
    let mut spool = open(&disk);
    let all = 100_000;
    for n in 0..all / 100 {
        append(&mut spool, 100 * n..100 * (n + 1)).unwrap();
        let used: usize = disk.segments().iter().map(|(_, bytes)| bytes.len()).sum();
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
fn samples_dropped_while_they_were_being_sent_count_once() {
    for settled in [0, 30, 100] {
        let mut spool = open(&TestDisk::default());
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
fn one_folder_has_one_owner() {
    let disk = TestDisk::default();
    let first = open(&disk);
    let second = Folder::open(disk.clone(), folder(), LIMITS);
    assert_eq!(
        second.unwrap_err().to_string(),
        "the spool \"/agent/spool\" is in use: give each reporter a folder of its own"
    );
    drop(first);
    open(&disk);
}

#[test]
fn what_is_appended_is_synced_when_it_is_due() {
    let disk = TestDisk::default();
    let limits = Limits { sync_every: Duration::from_secs(1), ..LIMITS };
    let mut spool = Folder::open(disk.clone(), folder(), limits).unwrap();
    let start = Instant::now();
    spool.append(start, &samples(0..1)).unwrap();
    spool.append(start + Duration::from_millis(999), &samples(1..2)).unwrap();
    spool.sync_if_due(start + Duration::from_secs(1));
    spool.append(start + Duration::from_secs(1), &samples(2..3)).unwrap();
    drop(spool);
    disk.lose_power();
    let mut spool = open(&disk);
    assert!(drain(&mut spool).starts_with(&[0, 1]));
}

#[test]
fn a_block_is_no_longer_than_it_may_be() {
    let disk = TestDisk::default();
    let mut spool = open(&disk);
    let sample = Sample::new("k".repeat(1024), 1.0, 2).unwrap();
    let appended = spool.append(Instant::now(), &vec![sample; 100]).unwrap();
    assert_eq!(appended, (MAX_BLOCK_LEN - 36) / (1024 + 18));
}
