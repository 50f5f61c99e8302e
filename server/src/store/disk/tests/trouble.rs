//! Trouble with the folder, not with what is in it.

use std::fs;

use super::*;

fn source(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn folder_that_cannot_be_written_is_named() {
    for (kind, operation) in [
        (io::ErrorKind::ReadOnlyFilesystem, Operation::Open),
        (io::ErrorKind::PermissionDenied, Operation::CreateDir),
        (io::ErrorKind::StorageFull, Operation::Open),
    ] {
        let disk = Disk::new();
        disk.fs.set_fault(Fault::Of { operation, path: "/data", kind });
        let said = source(&disk.try_open(DiskStore::builder()).unwrap_err());
        let io = io::Error::from(kind).to_string();
        assert!(said.starts_with("cannot ") && said.contains("/data"), "{said}");
        assert!(said.ends_with(&io), "{said}");
        // Nothing is half done.
        disk.fs.set_fault(Fault::None);
        kill(disk.open()).await;
    }
}

#[tokio::test]
async fn read_only_folder_of_a_store_loses_nothing() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    kill(store).await;
    for operation in [Operation::Open, Operation::Write] {
        let kind = io::ErrorKind::ReadOnlyFilesystem;
        disk.fs.set_fault(Fault::Of { operation, path: "/data", kind });
        if let Ok(store) = disk.try_open(DiskStore::builder()) {
            // What can be read is served.
            assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
            assert!(store.apply(&batch(&[("a", 2, 2.0)])).await.unwrap_err().is_transient());
            kill(store).await;
        }
        disk.fs.set_fault(Fault::None);
        let store = disk.open();
        assert_eq!(all(&store).await, [row("a", 1, 1.0)], "{operation:?}");
        kill(store).await;
    }
}

#[tokio::test]
async fn no_inode_for_a_segment_passes() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    store.seal().await.unwrap();
    let (operation, kind) = (Operation::Open, io::ErrorKind::StorageFull);
    disk.fs.set_fault(Fault::Of { operation, path: ".log", kind });
    let error = store.apply(&batch(&[("a", 2, 2.0)])).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "disk full");
    assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
    disk.fs.set_fault(Fault::None);
    put(&store, &[("a", 3, 3.0)]).await;
    kill(store).await;
    disk.fs.lose_power();
    assert_eq!(all(&disk.open()).await, [row("a", 1, 1.0), row("a", 3, 3.0)]);
}

#[tokio::test]
async fn removed_folder_takes_no_more_puts() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, &[("a", 1, 1.0)]).await;
    disk.fs.remove_all();
    for _ in 0..2 {
        let error = store.apply(&batch(&[("a", 2, 2.0)])).await.unwrap_err();
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "the folder of the store was moved, removed or replaced");
    }
    // What is in memory is still shown, and no other folder is made of it.
    assert_eq!(all(&store).await, [row("a", 1, 1.0)]);
    assert!(disk.fs.files().is_empty());
    kill(store).await;
}

#[tokio::test]
async fn moved_folder_keeps_what_was_acknowledged() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, moved) = (parent.path().join("data"), parent.path().join("moved"));
    let store = DiskStore::open(&dir).await.unwrap();
    put(&store, &[("a", 1, 1.0)]).await;
    store.seal().await.unwrap();
    put(&store, &[("a", 2, 2.0)]).await;
    fs::rename(&dir, &moved).unwrap();
    assert!(store.apply(&batch(&[("a", 3, 3.0)])).await.unwrap_err().is_transient());
    assert!(!dir.exists());
    // Another store at the old place is not touched.
    let other = DiskStore::open(&dir).await.unwrap();
    assert!(store.apply(&batch(&[("a", 4, 4.0)])).await.unwrap_err().is_transient());
    put(&other, &[("b", 1, 1.0)]).await;
    store.close().await;
    other.close().await;
    let rows = [row("a", 1, 1.0), row("a", 2, 2.0)];
    assert_eq!(all(&DiskStore::open(&moved).await.unwrap()).await, rows);
    assert_eq!(all(&DiskStore::open(&dir).await.unwrap()).await, [row("b", 1, 1.0)]);
}

#[tokio::test]
async fn file_in_place_of_the_folder_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("data");
    fs::write(&file, b"mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = DiskStore::open(&path).await.unwrap_err();
        let said = source(&error);
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert!(matches!(error, OpenError::Io { .. }), "{said}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    // A folder in place of the database.
    let dir = parent.path().join("store");
    DiskStore::open(&dir).await.unwrap().close().await;
    fs::remove_file(dir.join("blocks.redb")).unwrap();
    fs::create_dir(dir.join("blocks.redb")).unwrap();
    assert!(matches!(DiskStore::open(&dir).await.unwrap_err(), OpenError::Blocks(_)));
}

#[tokio::test]
async fn missing_folder_is_created_only_if_wanted() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let open = || DiskStore::builder().create_missing(false).open(&dir);
    assert!(matches!(open().await.unwrap_err(), OpenError::NotAStore { .. }));
    assert!(!dir.exists());
    DiskStore::open(&dir).await.unwrap().close().await;
    open().await.unwrap().close().await;
}

#[tokio::test]
async fn stats_say_what_is_where() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let parent = tempfile::tempdir().unwrap();
    let builder = DiskStore::builder().keep(Duration::from_secs(3600));
    let store = builder.open(parent.path()).await.unwrap();
    let stats = store.stats();
    assert_eq!((stats.keys, stats.oldest_unsealed, stats.last_seal), (0, None, None));
    put(&store, &[("a", now, 1.0), ("b", now, 1.0)]).await;
    assert!(store.apply(&batch(&[("a", 1, 1.0), ("a", now, 2.0)])).await.is_err());
    let stats = store.stats();
    assert_eq!((stats.keys, stats.head_points, stats.too_old), (2, 3, 1));
    assert!(stats.oldest_unsealed.is_some() && stats.sync_time >= stats.last_sync_time);
    store.seal().await.unwrap();
    let stats = store.stats();
    assert_eq!((stats.head_points, stats.block_points, stats.oldest_unsealed), (0, 2, None));
    assert!(stats.last_seal.is_some() && stats.last_seal_time > Duration::ZERO);
    let len = fs::metadata(parent.path().join("blocks.redb")).unwrap().len();
    assert_eq!((stats.block_bytes, stats.damaged_bytes), (len, 0));
    put(&store, &[("a", now, 3.0)]).await;
    // Written after each commit.
    store.seal().await.unwrap();
    kill(store).await;
}
