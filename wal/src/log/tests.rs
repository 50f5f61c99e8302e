//! A log on a file system that does what a test tells it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use fastrand::Rng;
use proptest::prelude::*;

use super::{names::segment_name, *};
use crate::{
    lock::DirLock,
    record::{MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES},
    testing::{Fault, FaultyFs, Operation},
};

fn dir() -> &'static Path {
    Path::new("/data/log")
}

fn open(fs: &FaultyFs) -> Wal<FaultyFs> {
    open_with(fs, Options::new())
}

fn open_with(fs: &FaultyFs, options: Options) -> Wal<FaultyFs> {
    Wal::open(fs.clone(), dir(), options).unwrap()
}

/// Appends records of one entry each, whose payloads are these bytes.
fn append(log: &mut Wal<FaultyFs>, payloads: &[&str]) {
    for payload in payloads {
        log.append(1, 0, payload.as_bytes()).unwrap();
    }
}

/// The payloads of all records, in order.
fn scan(log: &mut Wal<FaultyFs>) -> Vec<String> {
    let mut payloads = Vec::new();
    let first = log.segments.front().map_or(0, |first| first.first);
    log.scan(first, |record| {
        payloads.push(String::from_utf8(record.payload.to_vec()).unwrap());
        true
    })
    .unwrap();
    payloads
}

fn path(first: u64) -> PathBuf {
    dir().join(segment_name(first))
}

/// Returns the entries that were reported as lost, and how many bytes as damaged.
fn damage(log: &mut Wal<FaultyFs>) -> (Vec<u64>, u64) {
    let (mut lost, mut damaged) = (Vec::new(), 0);
    for event in log.take_events() {
        match event {
            Event::Lost { entries } => lost.extend(entries),
            Event::Damaged { bytes, .. } => damaged += bytes,
            _ => {}
        }
    }
    (lost, damaged)
}

#[test]
fn read_splits_records_and_continues_after_commit() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    assert_eq!(log.append(3, 7, b"abc").unwrap(), 0..3);
    assert_eq!(log.append(0, 5, b"d").unwrap(), 3..4);
    let unread = RefCell::new(Vec::new());
    let note = |record: Record<'_>| {
        unread.borrow_mut().push((record.first, record.count, record.latest, record.unread));
        true
    };
    assert_eq!(log.read(2, note).unwrap(), 0..2);
    log.commit(2).unwrap();
    drop(log);
    let mut log = open(&fs);
    assert_eq!((log.committed(), log.next(), log.stats().recovered), (2, 4, 2));
    assert_eq!(log.latest(), Some(7));
    assert_eq!(log.read(100, note).unwrap(), 2..4);
    let expected = [(0, 3, 7, 0..2), (0, 3, 7, 2..3), (3, 1, 5, 3..4)];
    assert_eq!(*unread.borrow(), expected);
    log.commit(4).unwrap();
    assert!(log.is_drained() && log.read(1, |_| true).unwrap().is_empty());
    assert_eq!(log.stats().segments, 0);
}

#[test]
fn committed_segments_are_removed_and_others_kept() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a", "b"]);
    log.roll().unwrap();
    append(&mut log, &["c"]);
    log.commit(1).unwrap();
    assert_eq!(scan(&mut log), ["a", "b", "c"]);
    log.commit(2).unwrap();
    assert_eq!(scan(&mut log), ["c"]);
    assert!(!fs.files().contains_key(&path(0)) && fs.files().contains_key(&path(2)));
    // It cannot be taken back.
    log.commit(0).unwrap();
    assert_eq!((log.committed(), log.next()), (2, 3));
}

#[test]
fn segments_end_at_their_length_and_records_are_whole() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, Options::new().segment_bytes(200));
    let long = "x".repeat(300);
    append(&mut log, &["a", "b", "c", &long, "d"]);
    assert_eq!(log.stats().segments, 3);
    assert_eq!(scan(&mut log), ["a", "b", "c", &long, "d"]);
    let max = MAX_PAYLOAD_BYTES;
    let error = log.append(1, 0, &vec![0; max + 1]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { len, .. } if len == max + 1), "{error}");
}

#[test]
fn scan_starts_at_a_number_and_changes_nothing() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    for payload in ["ab", "cd", "ef"] {
        log.append(2, 0, payload.as_bytes()).unwrap();
    }
    let before = fs.files();
    let mut seen = Vec::new();
    log.scan(3, |record| {
        seen.push((record.payload.to_vec(), record.unread));
        true
    })
    .unwrap();
    assert_eq!(seen, [(b"cd".to_vec(), 3..4), (b"ef".to_vec(), 4..6)]);
    assert_eq!(damage(&mut log), (vec![], 0));
    assert_eq!(fs.files(), before);
}

#[test]
fn failed_sync_is_not_retried_on_its_file() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    log.sync().unwrap();
    append(&mut log, &["b"]);
    fs.set_fault(Fault::Of { operation: Operation::Sync, path: ".log", kind: ErrorKind::Other });
    let error = log.sync().unwrap_err();
    assert!(matches!(error, Error::Io { action: "sync", .. }), "{error}");
    fs.set_fault(Fault::None);
    log.sync().unwrap_err();
    append(&mut log, &["c"]);
    log.sync().unwrap();
    assert_eq!(log.stats().segments, 2);
    // What could not be synced stays in the log until power is lost.
    assert_eq!(scan(&mut log), ["a", "b", "c"]);
}

#[test]
fn discarded_records_are_appended_again_in_a_new_file() {
    for is_cut in [true, false] {
        let fs = FaultyFs::new();
        let mut log = open(&fs);
        append(&mut log, &["a"]);
        log.sync().unwrap();
        append(&mut log, &["b", "c"]);
        fs.set_fault(Fault::Of {
            operation: Operation::Sync,
            path: ".log",
            kind: ErrorKind::Other,
        });
        log.sync().unwrap_err();
        let kind = ErrorKind::Other;
        let uncut = Fault::Of { operation: Operation::Truncate, path: ".log", kind };
        fs.set_fault(if is_cut { Fault::None } else { uncut });
        log.discard_unsynced();
        fs.set_fault(Fault::None);
        assert_eq!(log.next(), 1);
        append(&mut log, &["b", "d"]);
        log.sync().unwrap();
        assert_eq!(scan(&mut log), ["a", "b", "d"]);
        drop(log);
        fs.lose_power();
        let mut log = open(&fs);
        assert_eq!((scan(&mut log), log.next()), (vec!["a".into(), "b".into(), "d".into()], 3));
        assert_eq!(damage(&mut log).0, [0; 0]);
    }
}

#[test]
fn discarding_everything_of_a_segment_starts_another_file() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    log.roll().unwrap();
    append(&mut log, &["b"]);
    fs.set_fault(Fault::Of { operation: Operation::Sync, path: ".log", kind: ErrorKind::Other });
    log.sync().unwrap_err();
    fs.set_fault(Fault::None);
    log.discard_unsynced();
    assert!(!fs.files().contains_key(&path(1)));
    append(&mut log, &["c"]);
    log.sync().unwrap();
    drop(log);
    fs.lose_power();
    assert_eq!(scan(&mut open(&fs)), ["a", "c"]);
}

#[test]
fn sync_fails_if_the_unsynced_segment_is_missing() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    fs.remove_all();
    append(&mut log, &["b"]);
    assert!(log.sync().is_err() && log.sync().is_err());
    assert_eq!(damage(&mut log).0, [0]);
    assert_eq!(log.discard_unsynced(), 0);
    append(&mut log, &["a", "b"]);
    log.sync().unwrap();
    assert_eq!(scan(&mut log), ["a", "b"]);
    drop(log);
    fs.lose_power();
    assert_eq!(scan(&mut open(&fs)), ["a", "b"]);
}

#[test]
fn failed_sync_of_a_full_segment_fails_the_append() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, Options::new().segment_bytes(100));
    append(&mut log, &["a"]);
    fs.set_fault(Fault::Of { operation: Operation::Sync, path: ".log", kind: ErrorKind::Other });
    log.append(1, 0, &[b'b'; 50]).unwrap_err();
    fs.set_fault(Fault::None);
    log.discard_unsynced();
    append(&mut log, &["a", "b"]);
    assert_eq!(scan(&mut log), ["a", "b"]);
}

#[test]
fn failed_write_is_cut_off_and_a_later_append_works() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    let before = fs.files();
    let used: usize = before.values().map(Vec::len).sum();
    fs.set_capacity(Some(used + RECORD_HEADER_BYTES));
    for _ in 0..3 {
        let error = log.append(1, 0, b"too long").unwrap_err();
        assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
        assert_eq!(fs.files(), before);
    }
    assert_eq!((log.stats().io_errors.full, log.next()), (3, 1));
    fs.set_capacity(None);
    append(&mut log, &["b"]);
    assert_eq!(scan(&mut log), ["a", "b"]);
}

#[test]
fn damaged_record_costs_itself_and_is_reported() {
    for is_last in [false, true] {
        let fs = FaultyFs::new();
        let mut log = open(&fs);
        append(&mut log, &["a", "b", "c"]);
        if !is_last {
            log.roll().unwrap();
            append(&mut log, &["d"]);
        }
        drop(log);
        let record = RECORD_HEADER_BYTES + 1;
        let mut bytes = fs.files()[&path(0)].clone();
        bytes[SEGMENT_HEADER_BYTES + 2 * record - 1] ^= 1;
        fs.put(path(0), &bytes);
        let mut log = open_with(&fs, Options::new().keep_damaged(true));
        let expected: &[&str] = if is_last { &["a", "c"] } else { &["a", "c", "d"] };
        assert_eq!(scan(&mut log), expected);
        assert_eq!(damage(&mut log), (vec![1], record as u64));
        log.commit(3).unwrap();
        let kept = format!("{}.damaged", path(0).display());
        assert_eq!(fs.files().get(Path::new(&kept)), Some(&bytes));
        assert_eq!(log.stats().quarantined, 1);
    }
}

#[test]
fn payload_that_its_reader_refuses_counts_as_damaged() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a", "bad", "c"]);
    log.scan(0, |record| record.payload != b"bad").unwrap();
    assert_eq!(damage(&mut log), (vec![1], (RECORD_HEADER_BYTES + 3) as u64));
    // Missing entries end a call.
    for expected in [0..1, 2..3] {
        let entries = log.read(10, |record| record.payload != b"bad").unwrap();
        assert_eq!(entries, expected);
        log.commit(entries.end).unwrap();
    }
    assert_eq!(damage(&mut log).0, [1]);
}

#[test]
fn torn_end_is_cut_only_from_the_last_segment() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    log.roll().unwrap();
    append(&mut log, &["b"]);
    drop(log);
    let files = fs.files();
    for first in [0, 1] {
        fs.put(path(first), &[&files[&path(first)][..], b"torn"].concat());
    }
    let mut log = open(&fs);
    assert_eq!(log.stats().torn_bytes, 4);
    assert_eq!(fs.files()[&path(1)], files[&path(1)]);
    assert_eq!(scan(&mut log), ["a", "b"]);
    assert_eq!(damage(&mut log), (vec![], 4));
}

#[test]
fn newer_version_is_refused_and_kept() {
    let fs = FaultyFs::new();
    append(&mut open(&fs), &["a"]);
    let mut bytes = fs.files()[&path(0)].clone();
    bytes[7] += 1;
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    fs.put(path(0), &bytes);
    fs.put(dir().join("notes.txt"), b"");
    let failed = Wal::open(fs.clone(), dir(), Options::new()).unwrap_err();
    assert!(matches!(failed.error, Error::NewerVersion { version: 2, .. }), "{failed}");
    assert!(matches!(&failed.events[..], [Event::UnknownFile { name }] if name == "notes.txt"));
    assert_eq!(fs.files()[&path(0)], bytes);
}

#[test]
fn directory_has_one_owner_whose_pid_is_shown() {
    let fs = FaultyFs::new();
    let log = open(&fs);
    let refused = Wal::open(fs.clone(), dir(), Options::new()).unwrap_err();
    let expected = format!("directory \"/data/log\" is in use by process {}", std::process::id());
    assert_eq!(refused.to_string(), expected);
    drop(log);
    let lock = DirLock::acquire(&fs, dir()).unwrap();
    assert!(lock.is_current(&fs).unwrap());
    fs.put(dir().join("lock"), b"");
    assert!(!lock.is_current(&fs).unwrap());
}

#[test]
fn empty_path_is_an_error_and_creates_nothing() {
    let fs = FaultyFs::new();
    let error = Error::from(Wal::open(fs.clone(), "", Options::new()).unwrap_err());
    assert!(matches!(error, Error::Io { action: "open the directory", .. }), "{error}");
    assert!(fs.files().is_empty());
}

#[test]
fn lock_file_replaced_by_another_ends_the_log() {
    let fs = FaultyFs::new();
    let mut log = open(&fs);
    append(&mut log, &["a"]);
    fs.put(dir().join("lock"), b"");
    assert!(matches!(log.append(1, 0, b"b"), Err(Error::NotOwned { .. })));
    assert!(log.is_abandoned() && log.read(1, |_| true).is_err());
    assert!(matches!(log.take_events()[..], [Event::Abandoned]));
    assert_eq!(scan(&mut open(&fs)), ["a"]);
}

/// Options with which a segment is filled up to its end, 1,000 bytes.
fn filling() -> Options {
    Options::new().segment_bytes(1000).max_fill_bytes(1 << 20)
}

#[test]
fn zeros_behind_records_are_no_torn_tail() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, filling());
    append(&mut log, &["a", "b"]);
    log.sync().unwrap();
    drop(log);
    let bytes = fs.files()[&path(0)].clone();
    let end = SEGMENT_HEADER_BYTES + 2 * (RECORD_HEADER_BYTES + 1);
    assert!(bytes.len() == 1000 && bytes[end..].iter().all(|&byte| byte == 0));
    assert_eq!(crate::salvage(&bytes, |_| true), 0);
    let mut log = open(&fs);
    assert!(log.take_events().is_empty());
    assert_eq!((log.stats().torn_bytes, log.stats().bytes), (0, end as u64));
    assert_eq!(fs.files()[&path(0)].len(), end);
    assert_eq!(scan(&mut log), ["a", "b"]);

    // A record that was not written completely is.
    let mut torn = bytes;
    torn[end] = 1;
    fs.put(path(0), &torn);
    drop(log);
    let mut log = open(&fs);
    assert!(matches!(log.take_events()[..], [Event::TornTail { bytes: 1, .. }]));
}

#[test]
fn zeros_are_cut_when_a_segment_ends() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, filling());
    append(&mut log, &["a"]);
    log.roll().unwrap();
    append(&mut log, &["b"]);
    let len = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 1;
    assert_eq!(fs.files()[&path(0)].len(), len);
    // Unless that fails: then they are cut at the next opening.
    let fault = ErrorKind::PermissionDenied;
    fs.set_fault(Fault::Of { operation: Operation::Truncate, path: "1.log", kind: fault });
    log.roll().unwrap();
    append(&mut log, &["c"]);
    fs.set_fault(Fault::None);
    drop(log);
    assert_eq!(fs.files()[&path(1)].len(), 1000);
    let mut log = open(&fs);
    assert_eq!(fs.files()[&path(1)].len(), len);
    assert_eq!(scan(&mut log), ["a", "b", "c"]);
    assert!(log.take_events().is_empty());
}

#[test]
fn zeroed_records_are_reported_as_damage() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, filling());
    append(&mut log, &["a", "b"]);
    log.roll().unwrap();
    append(&mut log, &["c"]);
    drop(log);
    let mut bytes = fs.files()[&path(0)].clone();
    bytes[SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 1..].fill(0);
    fs.put(path(0), &bytes);
    let mut log = open(&fs);
    assert_eq!(scan(&mut log), ["a", "c"]);
    assert_eq!(damage(&mut log), (vec![1], RECORD_HEADER_BYTES as u64 + 1));
}

#[test]
fn full_disk_keeps_a_record_without_zeros() {
    let fs = FaultyFs::new();
    let mut log = open_with(&fs, filling());
    let used: usize = fs.files().values().map(Vec::len).sum();
    let len = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 1;
    fs.set_capacity(Some(used + len + 100));
    append(&mut log, &["a", "b"]);
    log.sync().unwrap();
    assert_eq!(fs.files()[&path(0)].len(), len + RECORD_HEADER_BYTES + 1);
    assert!(log.append(1, 0, &[b'c'; 100]).is_err());
    fs.set_capacity(None);
    append(&mut log, &["d"]);
    assert_eq!(fs.files()[&path(0)].len(), 1000);
    log.sync().unwrap();
    drop(log);
    fs.lose_power();
    assert_eq!(scan(&mut open(&fs)), ["a", "b", "d"]);
}

/// What the user of a log with group commit knows: which payloads were synced, and which may be there.
#[derive(Default)]
struct Known {
    acknowledged: Vec<u64>,
    perhaps: Vec<u64>,
}

/// Appends and syncs as a store does that acknowledges what is synced: what could not be synced is discarded
/// and appended again.
fn live_as_store(seed: u64, fs: &FaultyFs) -> Known {
    let mut rng = Rng::with_seed(seed);
    let mut known = Known::default();
    let options = Options::new().segment_bytes(200).max_fill_bytes(seed % 2 * 1000);
    let Ok(mut log) = Wal::open(fs.clone(), dir(), options) else { return known };
    let mut next = 0_u64;
    for _ in 0..20 {
        let batch: Vec<u64> = (next..next + rng.u64(1..4)).collect();
        next += batch.len() as u64;
        let first = log.next();
        let is_stored = (0..2).any(|_| {
            let rest = &batch[(log.next() - first) as usize..];
            let is_appended = rest.iter().all(|n| log.append(1, 0, &n.to_le_bytes()).is_ok());
            let is_stored = is_appended && log.sync().is_ok();
            if !is_stored {
                log.discard_unsynced();
            }
            is_stored
        });
        if is_stored && !fs.is_killed() {
            known.acknowledged.extend(batch);
        } else {
            known.perhaps.extend(batch);
        }
        if fs.is_killed() {
            break;
        }
    }
    known
}

fn assert_store_survives(seed: u64, fault: impl Fn(u64) -> Fault, loses_power: bool) {
    let fs = FaultyFs::with_seed(seed);
    live_as_store(seed, &fs);
    for at in 0..fs.operations() {
        let fs = FaultyFs::with_seed(seed + at);
        fs.set_fault(fault(at));
        let known = live_as_store(seed, &fs);
        fs.set_fault(Fault::None);
        if loses_power {
            fs.lose_power();
        }
        let check = || {
            let mut log = open(&fs);
            let mut left = Vec::new();
            log.scan(0, |record| {
                left.push(u64::from_le_bytes(record.payload.try_into().unwrap()));
                true
            })
            .unwrap();
            assert!(left.is_sorted_by(|a, b| a < b), "out of order or twice: {left:?}");
            let missing = known.acknowledged.iter().find(|n| !left.contains(n));
            assert_eq!(missing, None, "{left:?}");
            let is_known = |n: &u64| known.acknowledged.contains(n) || known.perhaps.contains(n);
            assert!(left.iter().all(is_known), "from nowhere: {left:?}");
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
            println!("seed {seed}, operation {at} of {}", fs.operations());
            resume_unwind(panic);
        }
    }
}

#[test]
fn power_loss_at_any_operation_keeps_what_was_synced() {
    for seed in 0..6 {
        assert_store_survives(seed, |from| Fault::Killed { from }, true);
    }
}

#[test]
fn kill_at_any_operation_keeps_what_was_synced() {
    for seed in 0..6 {
        assert_store_survives(seed, |from| Fault::Killed { from }, false);
    }
}

#[test]
fn error_at_any_operation_keeps_what_was_synced() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::PermissionDenied] {
        for loses_power in [false, true] {
            for seed in 3..5 {
                assert_store_survives(seed, |at| Fault::At { operation: at, kind }, loses_power);
            }
        }
    }
}

proptest! {
    #[test]
    fn damaged_segments_yield_only_what_was_written(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 1..6),
        segment in 0..2_u64,
    ) {
        let fs = FaultyFs::new();
        let mut log = open(&fs);
        append(&mut log, &["0", "1", "2"]);
        log.roll().unwrap();
        append(&mut log, &["3", "4", "5"]);
        drop(log);
        let file = path(3 * segment);
        let mut bytes = fs.files()[&file].clone();
        for (at, what, byte) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len()))),
                _ => bytes.insert(at, byte),
            }
        }
        fs.put(&file, &bytes);
        let mut log = open(&fs);
        let next = log.next();
        let left = scan(&mut log);
        let all: BTreeMap<String, u64> = (0..6).map(|n| (n.to_string(), n)).collect();
        let numbers: Vec<u64> = left.iter().map(|payload| all[payload]).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", left);
        let (lost, _) = self::damage(&mut log);
        // A segment of which nothing can be read is not known at either end.
        let first = log.segments.front().map_or(next, |first| first.first);
        prop_assert_eq!((lost.len() + numbers.len()) as u64, next - first);
        log.append(1, 0, b"6").unwrap();
        let last = scan(&mut log).pop();
        prop_assert_eq!(last.as_deref(), Some("6"));
    }
}
