//! Damaged, missing and foreign segments.

use std::io;

use proptest::prelude::*;

use super::*;

/// Three records of three samples, in one segment.
fn nine() -> (FaultyFs, String, Vec<u8>) {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    for first in [0, 3, 6] {
        append(&mut spool, first..first + 3).unwrap();
    }
    drop(spool);
    let (name, bytes) = segments(&fs).remove(0);
    (fs, name, bytes)
}

fn records_of(left: &[u64]) -> Vec<u64> {
    let mut blocks: Vec<u64> = left.iter().map(|n| n / 3).collect();
    blocks.dedup();
    blocks
}

#[test]
fn segment_cut_anywhere_keeps_the_records_before() {
    let (fs, name, bytes) = nine();
    let block = (bytes.len() - 20) / 3;
    for len in 0..bytes.len() {
        fs.remove_all();
        fs.put(dir().join(&name), &bytes[..len]);
        let mut spool = open(&fs);
        let whole = (len.saturating_sub(20) / block) as u64;
        // Zeros at the end need not be a part of a record.
        let zeros = bytes[..len].iter().rev().take_while(|&&byte| byte == 0).count() as u64;
        let counted = spool.stats().torn_bytes + spool.stats().bytes;
        assert!((len as u64 - zeros..=len as u64).contains(&counted), "{counted} of {len}");
        append(&mut spool, 100..101).unwrap();
        let expected: Vec<u64> = (0..3 * whole).chain([100]).collect();
        assert_eq!(drain(&mut spool), expected, "cut at {len}");
        assert_waiting(&mut spool, 0);
    }
}

#[test]
fn damaged_byte_costs_one_record_and_is_counted() {
    let (fs, name, bytes) = nine();
    for at in 0..bytes.len() {
        for garble in [1, 0x80, 0xff] {
            let mut garbled = bytes.clone();
            garbled[at] ^= garble;
            fs.remove_all();
            fs.put(dir().join(&name), &garbled);
            // Another segment behind it, so that this one is not the last.
            let mut behind = open(&fs);
            let known = behind.wal.next();
            append(&mut behind, 100..101).unwrap();
            drop(behind);
            let mut spool = open(&fs);
            let left = drain(&mut spool);
            let stats = spool.stats();
            assert_eq!(left.last(), Some(&100));
            let blocks = records_of(&left[..left.len() - 1]);
            assert!(blocks.len() >= 2 && left.len() - 1 == 3 * blocks.len(), "byte {at}: {left:?}");
            assert_eq!(stats.lost + left.len() as u64 - 1, known, "byte {at}: {stats:?}");
            assert_eq!(stats.waiting, 0);
            assert!(segments(&fs).is_empty());
        }
    }
}

#[test]
fn removed_bytes_cost_only_their_record() {
    let (fs, name, bytes) = nine();
    let block = (bytes.len() - 20) / 3;
    let taken = [&bytes[..20 + block / 2], &bytes[20 + block..]].concat();
    fs.remove_all();
    fs.put(dir().join(name), &taken);
    assert_eq!(drain(&mut open(&fs)), (3..9).collect::<Vec<_>>());
}

#[test]
fn corrupt_segment_costs_only_its_samples() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10_000).unwrap();
    drop(spool);
    let segments = segments(&fs);
    let number = |at: usize| segments[at].0.trim_end_matches(".log").parse::<u64>().unwrap();
    fs.put(dir().join(&segments[1].0), &vec![0xF0; segments[1].1.len()]);
    let mut spool = open(&fs);
    let expected: Vec<u64> = (0..number(1)).chain(number(2)..10_000).collect();
    assert_eq!(drain(&mut spool), expected);
    let stats = spool.stats();
    assert_eq!((stats.lost, stats.quarantined, stats.waiting), (number(2) - number(1), 1, 0));
    assert!(files(&fs).contains_key(&format!("{}.unreadable", segments[1].0)));
}

#[test]
fn unknown_files_are_ignored() {
    let fs = FaultyFs::default();
    let foreign = ["notes.txt", "0.log", "99999999999999999999.log", "00000000000000000001.log"];
    for name in foreign {
        fs.put(dir().join(name), b"a file of another program, longer than a header");
    }
    let mut spool = open(&fs);
    append(&mut spool, 0..10).unwrap();
    assert_eq!(drain(&mut spool), (0..10).collect::<Vec<_>>());
    assert_eq!(spool.stats().lost, 0);
    for name in &foreign[..3] {
        assert!(files(&fs).contains_key(*name));
    }
    assert!(files(&fs).contains_key("00000000000000000001.log.unreadable"));
}

#[test]
fn segment_removed_while_open_counts_as_lost() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..100).unwrap();
    fs.remove_all();
    append(&mut spool, 100..200).unwrap();
    let stats = spool.stats();
    assert_eq!((stats.lost, stats.waiting), (100, 100));
    assert_eq!(drain(&mut spool), (100..200).collect::<Vec<_>>());

    append(&mut spool, 200..300).unwrap();
    fs.remove_all();
    assert!(drain(&mut spool).is_empty());
    assert_eq!(spool.stats().lost, 200);
    append(&mut spool, 300..400).unwrap();
    assert_eq!(drain(&mut spool), (300..400).collect::<Vec<_>>());
    assert_waiting(&mut spool, 0);
}

/// The name of the only segment there is, and what is in it.
fn only_segment(fs: &FaultyFs) -> (String, Vec<u8>) {
    let mut segments = segments(fs);
    assert_eq!(segments.len(), 1);
    segments.remove(0)
}

// FAULTS A12
#[test]
fn segment_restored_from_a_backup_is_quarantined() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10).unwrap();
    let (name, backup) = only_segment(&fs);
    assert_eq!(drain(&mut spool).len(), 10);
    append(&mut spool, 10..12).unwrap();
    drop(spool);
    fs.put(dir().join(&name), &backup);
    let mut spool = open(&fs);
    assert_eq!((spool.stats().recovered, spool.stats().quarantined), (2, 1));
    let aside = format!("{name}.committed");
    assert_eq!(files(&fs).get(&aside), Some(&backup));
    assert_eq!(drain(&mut spool), [10, 11]);
    drop(spool);
    // Once more: the first one is not written over, and neither is looked at again.
    fs.put(dir().join(&name), &backup[..50]);
    fs.put(dir().join(&name), &backup);
    let spool = open(&fs);
    assert_eq!((spool.stats().recovered, spool.stats().quarantined), (0, 1));
    assert_eq!(files(&fs).get(&aside), Some(&backup));
    assert_eq!(files(&fs).get(&format!("{aside}.1")), Some(&backup));
    drop(spool);
    assert_eq!(open(&fs).stats().quarantined, 0);
}

// FAULTS A12: what a kill leaves behind is no such segment.
#[test]
fn settled_segment_left_behind_by_a_kill_is_removed() {
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    append(&mut spool, 0..10_000).unwrap();
    fs.set_fault(Fault::On { path: ".log", kind: io::ErrorKind::PermissionDenied });
    let first = segments(&fs).len();
    fs.set_fault(Fault::None);
    while let Some(samples) = spool.read(100).unwrap() {
        fs.set_fault(Fault::Of {
            operation: Operation::Remove,
            path: ".log",
            kind: io::ErrorKind::PermissionDenied,
        });
        spool.settle(samples.len()).unwrap();
        fs.set_fault(Fault::None);
    }
    drop(spool);
    let mut spool = open(&fs);
    assert_eq!((spool.stats().recovered, spool.stats().quarantined), (0, 0));
    assert!(first > 1 && segments(&fs).is_empty());
    append(&mut spool, 0..1).unwrap();
    assert_eq!(drain(&mut spool), [0]);
}

// FAULTS A12: a segment of another spool, whose numbers begin inside of ours.
#[test]
fn segment_that_overlaps_another_is_not_deleted_unsent() {
    let other = FaultyFs::default();
    let mut spool = open(&other);
    append(&mut spool, 0..10).unwrap();
    drain(&mut spool);
    append(&mut spool, 510..520).unwrap();
    let (name, foreign) = only_segment(&other);
    assert_eq!(name, format!("{:020}.log", 10));

    let fs = FaultyFs::default();
    append(&mut open(&fs), 0..20).unwrap();
    fs.put(dir().join(&name), &foreign);
    let mut spool = open(&fs);
    assert_eq!(spool.stats().quarantined, 1);
    assert_eq!(files(&fs).get(&format!("{name}.committed")), Some(&foreign));
    assert_eq!(drain(&mut spool), (0..20).collect::<Vec<_>>());
    drop(spool);

    // This one reaches beyond ours: what of ours it covers is kept in a file.
    let fs = FaultyFs::default();
    append(&mut open(&fs), 0..15).unwrap();
    let (ours, bytes) = only_segment(&fs);
    fs.put(dir().join(&name), &foreign);
    let mut spool = open(&fs);
    assert_eq!(drain(&mut spool), (0..10).chain(510..520).collect::<Vec<_>>());
    assert_eq!(spool.stats().quarantined, 1);
    assert_eq!(files(&fs).get(&format!("{ours}.committed")), Some(&bytes));
}

// FAULTS A12: put there while the spool is open, under the name of the segment that comes next.
#[test]
fn segment_in_place_of_the_next_is_quarantined() {
    let (other, _, foreign) = nine();
    drop(other);
    let fs = FaultyFs::default();
    let mut spool = open(&fs);
    let name = format!("{:020}.log", 0);
    fs.put(dir().join(&name), &foreign);
    append(&mut spool, 100..101).unwrap();
    assert_eq!(files(&fs).get(&format!("{name}.committed")), Some(&foreign));
    assert_eq!((spool.stats().quarantined, drain(&mut spool)), (1, vec![100]));
}

// FAULTS A17
#[test]
fn samples_in_hand_are_lost_if_the_directory_is_removed() {
    for settled in [0, 30, 100] {
        let fs = FaultyFs::default();
        let mut spool = open(&fs);
        append(&mut spool, 0..100).unwrap();
        assert_eq!(spool.read(100).unwrap().unwrap().len(), 100);
        fs.remove_all();
        append(&mut spool, 100..200).unwrap();
        assert_waiting(&mut spool, 200);
        spool.settle(settled as usize).unwrap();
        let stats = spool.stats();
        assert_eq!((stats.replayed, stats.dropped, stats.lost), (settled, 0, 100 - settled));
        assert_eq!(drain(&mut spool), (100..200).collect::<Vec<_>>());
        assert_waiting(&mut spool, 0);
    }
}

proptest! {
    #[test]
    fn damaged_segment_yields_only_what_was_written(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8, any::<u8>()), 1..6),
        is_last: bool,
    ) {
        let (fs, name, mut bytes) = nine();
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
        fs.remove_all();
        fs.put(dir().join(&name), &bytes);
        if !is_last {
            append(&mut open(&fs), 100..101).unwrap();
        }
        let mut spool = open(&fs);
        let recovered = spool.stats().recovered;
        let left = drain(&mut spool);
        prop_assert!(left.is_sorted_by(|a, b| a < b), "{:?}", left);
        prop_assert!(left.iter().all(|n| *n < 9 || *n == 100));
        let stats = spool.stats();
        prop_assert_eq!(stats.replayed + stats.lost, recovered);
        prop_assert_eq!(stats.waiting, 0);
        append(&mut spool, 200..201).unwrap();
        prop_assert_eq!(drain(&mut spool), [200]);
    }
}
