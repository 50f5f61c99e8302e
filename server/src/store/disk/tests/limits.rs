//! The limits of a store: keys, bytes on disk, and how old points may be.

use super::*;

#[tokio::test]
async fn new_keys_over_the_limit_are_rejected() {
    let disk = Disk::new();
    let builder = DiskStore::builder().max_keys(2);
    let store = disk.try_open(builder.clone()).unwrap();
    put(&store, &[("a", 1, 0.5), ("b", 1, 0.5)]).await;
    let error = store.apply(&batch(&[("c", 1, 9.0), ("a", 2, 1.5)])).await.unwrap_err();
    assert_eq!(error.of_put(0).unwrap().to_string(), "too many keys: at most 2 are kept");
    assert!(!error.of_put(0).unwrap().is_transient() && error.of_put(1).is_none());
    kill(store).await;
    // Keys of the log and of blocks count.
    let store = disk.try_open(builder).unwrap();
    store.apply(&batch(&[("d", 1, 9.0)])).await.unwrap_err();
    assert_eq!(store.stats().too_many_keys, 1);
    assert_eq!(all(&store).await, [row("a", 1, 0.5), row("a", 2, 1.5), row("b", 1, 0.5)]);
    kill(store).await;
}

#[tokio::test]
async fn folder_over_its_limit_takes_no_puts() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::builder().max_disk_bytes(1).open(dir.path()).await.unwrap();
    let error = store.apply(&batch(&[("a", 1, 0.5)])).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().starts_with("disk full: the folder has"));
    assert_eq!(all(&store).await, []);
    store.close().await;
    let store = DiskStore::open(dir.path()).await.unwrap();
    put(&store, &[("a", 1, 0.5)]).await;
    store.close().await;
}

#[tokio::test]
async fn old_points_are_rejected_hidden_and_removed() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let disk = Disk::new();
    let store = disk.open();
    let old: Vec<_> = (0..600).map(|second| ("a", now - 5000 + second, 0.5)).collect();
    put(&store, &old).await;
    put(&store, &[("a", now, 1.5), ("b", 1, 0.5)]).await;
    store.seal().await.unwrap();
    assert_eq!(store.stats().block_points, 602);
    kill(store).await;

    let builder = DiskStore::builder().keep(Duration::from_secs(3600));
    let store = disk.try_open(builder.clone()).unwrap();
    assert_eq!(all(&store).await, [row("a", now, 1.5)]);
    let error = store.apply(&batch(&[("a", now - 4000, 9.0), ("c", now, 2.5)])).await.unwrap_err();
    assert_eq!(error.of_put(0).unwrap().to_string(), "older than 1h");
    assert!(!error.of_put(0).unwrap().is_transient() && error.of_put(1).is_none());
    assert_eq!(store.stats().too_old, 1);
    let rows = [row("a", now, 1.5), row("c", now, 2.5)];
    assert_eq!(all(&store).await, rows);
    store.seal().await.unwrap();
    assert_eq!(all(&store).await, rows);
    // A full block of old points is gone; one that has a newer point too is kept.
    assert_eq!(store.stats().block_points, 101 + 1);
    kill(store).await;
}
