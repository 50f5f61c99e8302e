//! Snapshots: of large keys, of which there are many, and those that are evicted.

use super::*;

#[tokio::test]
async fn large_key_is_read_in_pieces() {
    let disk = Disk::new();
    let store = disk.open();
    let mut expected = Vec::new();
    for (begin, step, value) in [(0, 2, 1.0), (1, 4, 2.0), (0, 10, 3.0)] {
        let rows: Vec<_> = (0..40_000).map(|index| ("a", begin + index * step, value)).collect();
        put(&store, &rows).await;
        if step < 10 {
            store.seal().await.unwrap();
        }
        expected.push(rows);
    }
    let model: BTreeMap<i64, f64> =
        expected.iter().flatten().map(|&(_, second, value)| (second, value)).collect();
    let rows: Vec<_> = model.into_iter().map(|(second, value)| row("a", second, value)).collect();
    assert_eq!(all(&store).await, rows);
    kill(store).await;
}

#[tokio::test]
async fn oldest_snapshots_are_evicted_when_memory_is_short() {
    let disk = Disk::new();
    let builder = DiskStore::builder().max_memory_bytes(1 << 20);
    let store = disk.try_open(builder).unwrap();
    let mut snapshots = Vec::new();
    for version in 0..20 {
        // Some 160 KiB, all of which changes.
        let rows: Vec<_> = (0..10_000).map(|second| ("a", second, f64::from(version))).collect();
        put(&store, &rows).await;
        snapshots.push(store.get(&Selector::All).await.unwrap());
    }
    assert!(store.stats().head_bytes <= 1 << 20);
    let mut kept = 0;
    for (version, snapshot) in snapshots.into_iter().enumerate() {
        match read(snapshot).await {
            Ok(rows) => {
                kept += 1;
                let value = (version as f64).to_bits();
                assert!(rows.len() == 10_000 && rows.iter().all(|row| row.2 == value));
            }
            Err(error) => assert!(error.is_transient() && kept == 0, "an older one was kept"),
        }
    }
    assert!((2..=6).contains(&kept), "{kept}");
    kill(store).await;
}

#[tokio::test]
async fn thousands_of_snapshots_read_little_at_a_time() {
    let disk = Disk::new();
    let store = disk.open();
    let rows: Vec<_> = (0..20_000).map(|second| ("a", second, 0.5)).collect();
    put(&store, &rows).await;
    let mut alone = store.get(&Selector::All).await.unwrap();
    assert!(alone.next_block().await.unwrap().unwrap().points.len() > 10_000);
    let mut snapshots = Vec::new();
    for _ in 0..10_000 {
        snapshots.push(store.get(&Selector::All).await.unwrap());
    }
    let mut last = snapshots.pop().unwrap();
    assert!(last.next_block().await.unwrap().unwrap().points.len() <= 1_024);
    assert!(alone.next_block().await.unwrap().unwrap().points.len() <= 1_024);
    drop((snapshots, alone));
    let rest = read(last).await.unwrap();
    assert!(rest.len() >= 20_000 - 1_024);
    kill(store).await;
}
