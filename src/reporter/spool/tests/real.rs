//! The operating system's own disk.

use std::fs;

use super::{super::disk::OsDisk, *};

fn open_real(path: &Path) -> Folder {
    Folder::open(OsDisk, path, LIMITS).unwrap()
}

#[test]
fn a_real_folder_is_made_locked_written_and_read() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("not/there/yet");
    let mut spool = open_real(&path);
    append(&mut spool, 0..10_000).unwrap();
    spool.sync();
    assert!(matches!(Folder::open(OsDisk, &path, LIMITS), Err(SpoolError::InUse { .. })));
    drop(spool);
    let mut spool = open_real(&path);
    assert_eq!(drain(&mut spool), (0..10_000).collect::<Vec<_>>());
    let mut names: Vec<_> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["lock", "position"]);
}

#[test]
fn a_folder_removed_while_the_spool_is_open_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("spool");
    let mut spool = open_real(&path);
    append(&mut spool, 0..10).unwrap();
    fs::remove_dir_all(&path).unwrap();
    append(&mut spool, 10..20).unwrap();
    assert_eq!(spool.stats().lost, 10);
    assert!(matches!(Folder::open(OsDisk, &path, LIMITS), Err(SpoolError::InUse { .. })));
    drop(spool);
    assert_eq!(drain(&mut open_real(&path)), (10..20).collect::<Vec<_>>());
}

#[test]
fn a_path_that_is_a_file_is_refused_with_the_remedy() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Folder::open(OsDisk, &path, LIMITS).unwrap_err().to_string();
    assert!(error.ends_with("the spool's path must be a folder"), "{error}");
}
