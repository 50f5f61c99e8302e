//! The spool on the file system of the operating system.

use std::fs;

use metrics_wal::OsFileSystem;

use super::*;

fn open_real(path: &Path) -> SampleLog {
    SampleLog::open(OsFileSystem, path, LIMITS).unwrap()
}

#[test]
fn directory_is_created_locked_written_and_read() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("not/there/yet");
    let mut spool = open_real(&path);
    append(&mut spool, 0..10_000).unwrap();
    spool.sync();
    assert!(matches!(SampleLog::open(OsFileSystem, &path, LIMITS), Err(SpoolError::InUse { .. })));
    drop(spool);
    let mut spool = open_real(&path);
    assert_eq!(drain(&mut spool), (0..10_000).collect::<Vec<_>>());
    let mut names: Vec<_> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "position"]);
}

#[test]
fn directory_removed_while_open_is_created_again() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("spool");
    let mut spool = open_real(&path);
    append(&mut spool, 0..10).unwrap();
    fs::remove_dir_all(&path).unwrap();
    append(&mut spool, 10..20).unwrap();
    assert_eq!(spool.stats().lost, 10);
    assert!(matches!(SampleLog::open(OsFileSystem, &path, LIMITS), Err(SpoolError::InUse { .. })));
    drop(spool);
    assert_eq!(drain(&mut open_real(&path)), (10..20).collect::<Vec<_>>());
}

#[test]
fn path_of_a_file_is_an_error_with_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "").unwrap();
    let error = SampleLog::open(OsFileSystem, &path, LIMITS).unwrap_err().to_string();
    assert!(error.ends_with("the spool's path must be a directory"), "{error}");
}

/// Checks a log whose directory was taken over.
#[cfg(unix)]
fn assert_abandoned(spool: &mut SampleLog, samples: u64) {
    let waiting = spool.stats();
    assert!(matches!(append(spool, 90..91), Err(SpoolError::NotOwned { .. })));
    assert!(matches!(spool.read(1), Err(SpoolError::NotOwned { .. })));
    spool.sync();
    spool.settle(1).unwrap();
    let stats = spool.stats();
    assert_eq!((stats.abandoned, stats.waiting), (samples, 0), "{waiting:?}");
    assert_eq!((stats.lost, stats.dropped), (0, 0));
    assert!(spool.is_drained());
}

// FAULTS A16
#[cfg(unix)]
#[test]
fn moved_directory_is_left_to_other_processes() {
    let root = tempfile::tempdir().unwrap();
    let (path, moved) = (root.path().join("spool"), root.path().join("moved"));
    let mut first = open_real(&path);
    append(&mut first, 0..10).unwrap();
    fs::rename(&path, &moved).unwrap();
    // Another process, whose first segment has the same name.
    let mut second = open_real(&path);
    append(&mut second, 50..60).unwrap();
    assert_abandoned(&mut first, 10);
    assert_eq!(drain(&mut second), (50..60).collect::<Vec<_>>());
    assert_eq!(second.stats().lost, 0);
    // It is not locked any more.
    assert_eq!(drain(&mut open_real(&moved)), (0..10).collect::<Vec<_>>());
}

// FAULTS A16
#[cfg(unix)]
#[test]
fn moved_directory_is_noticed_without_another_process() {
    let root = tempfile::tempdir().unwrap();
    let (path, moved) = (root.path().join("spool"), root.path().join("moved"));
    let mut spool = open_real(&path);
    append(&mut spool, 0..10).unwrap();
    fs::rename(&path, &moved).unwrap();
    assert_abandoned(&mut spool, 10);
    assert!(!path.exists());
    assert_eq!(drain(&mut open_real(&moved)), (0..10).collect::<Vec<_>>());
}

// FAULTS A16
#[cfg(unix)]
#[test]
fn removed_lock_file_releases_the_directory() {
    for settled in [0, 4, 10] {
        let root = tempfile::tempdir().unwrap();
        let mut first = open_real(root.path());
        append(&mut first, 0..10).unwrap();
        assert_eq!(first.read(10).unwrap().unwrap().len(), 10);
        fs::remove_file(root.path().join("lock")).unwrap();
        let mut second = open_real(root.path());
        assert_eq!(second.stats().recovered, 10);
        // The first still has the samples in hand, and settles some.
        first.settle(settled as usize).unwrap();
        assert_abandoned(&mut first, 10 - settled);
        assert_eq!(first.stats().replayed, settled);
        assert_eq!(drain(&mut second), (0..10).collect::<Vec<_>>());
        assert_eq!(second.stats().lost, 0);
    }
}

// FAULTS A16: a removed directory is still owned, unless another process has created it again.
#[cfg(unix)]
#[test]
fn directory_recreated_by_another_process_is_left() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("spool");
    let mut first = open_real(&path);
    append(&mut first, 0..10).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let mut second = open_real(&path);
    append(&mut second, 50..60).unwrap();
    assert_abandoned(&mut first, 10);
    assert_eq!(drain(&mut second), (50..60).collect::<Vec<_>>());
}
