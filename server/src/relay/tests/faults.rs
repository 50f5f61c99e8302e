//! Slow and broken disks, and spools that are full, damaged or taken over.

use std::io::ErrorKind;

use metrics_wal::testing::{Fault, Operation};

use super::*;

#[tokio::test(start_paused = true)]
async fn slow_destination_fills_the_spool_not_the_memory() {
    let fs = FaultyFs::new();
    let setup = Setup { max_queue_bytes: 64 * 1024, ..Setup::default() };
    let mut running = setup.start(&fs);
    for round in 0..200 {
        running.put("palm.cpu", round * 100..(round + 1) * 100);
        running.wait(SECOND / 10).await;
        assert!(running.stats().queue_bytes <= 64 * 1024);
    }
    let stats = running.stats();
    assert_eq!((stats.applied, stats.dropped.total()), (20_000, 0));
    assert!(stats.spooled > 19_000, "{stats:?}");
    let seconds: Vec<_> = running.accept_all().await.into_iter().map(|row| row.1).collect();
    assert_eq!(seconds, (0..20_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn broken_disk_delays_nothing_while_the_queue_has_room() {
    let fs = FaultyFs::new();
    let mut running = Setup { max_queue_bytes: 64 * 1024, ..Setup::default() }.start(&fs);
    running.put("a", [0]);
    running.request().await.accept();
    fs.set_fault(Fault::On { path: "/spool", kind: ErrorKind::StorageFull });
    running.put("a", [1]);
    let hanging = running.request().await;
    running.wait(3 * SECOND).await;
    assert!(running.stats().spool_errors > 0);
    hanging.accept();
    running.put("a", [2]);
    assert_eq!(running.request().await.accept().len(), 1);
    // The destination is gone too: the bound of the queue holds, and new points are dropped.
    for round in 0..100 {
        running.put("a", round * 100..(round + 1) * 100);
        running.wait(SECOND / 10).await;
        assert!(running.stats().queue_bytes <= 64 * 1024);
    }
    let stats = running.stats();
    assert!(stats.dropped.queue_full > 5000 && stats.spooled == 0, "{stats:?}");
    // There is room again.
    fs.set_fault(Fault::None);
    running.until("spooled", |stats| stats.waiting == 0).await;
    let kept = running.stats().spooled;
    let rows = running.accept_all().await;
    assert_eq!(rows.len() as u64, kept);
    assert!(rows.is_sorted_by(|a, b| a.1 < b.1) && rows[0].1 == 0);
}

#[tokio::test(start_paused = true)]
async fn hanging_disk_delays_no_put() {
    let fs = FaultyFs::new();
    let mut running = Setup { max_queue_bytes: 64 * 1024, ..Setup::default() }.start(&fs);
    running.put("a", [0]);
    running.request().await.accept();
    running.until("delivered", |stats| stats.delivered == 1).await;
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    fs.set_hook(move |operation, _| {
        if operation == Operation::Write {
            let _ = gate.lock().unwrap().recv();
        }
        Ok(())
    });
    running.put("a", 0..1000);
    let _hanging = running.request().await;
    // Paused time does not pass while the disk hangs: the task is let to run into it.
    tokio::time::advance(2 * SECOND).await;
    for round in 0..100 {
        tokio::task::yield_now().await;
        running.put("a", round * 100..(round + 1) * 100);
        let stats = running.stats();
        assert!(stats.queue_bytes <= 64 * 1024 || stats.waiting == 1000, "{stats:?}");
    }
    assert!(running.stats().dropped.queue_full > 5000);
    drop(release);
    running.until("spooled", |stats| stats.waiting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn full_spool_drops_the_oldest_points() {
    let fs = FaultyFs::new();
    let setup = Setup { max_spool_bytes: 512 * 1024, ..Setup::default() };
    let mut running = setup.start(&fs);
    for round in 0..100 {
        running.put("palm.cpu", round * 1000..(round + 1) * 1000);
        running.wait(SECOND / 2).await;
    }
    running.until("spooled", |stats| stats.waiting == 0).await;
    let stats = running.stats();
    assert!(stats.dropped.spool_full > 50_000 && stats.spool_bytes <= 512 * 1024, "{stats:?}");
    // The request in flight was the oldest: it counts as dropped.
    running.request().await.accept();
    running.wait(SECOND).await;
    assert_eq!(running.stats().delivered, 0);
    let seconds: Vec<_> = running.accept_all().await.into_iter().map(|row| row.1).collect();
    let first = 100_000 - seconds.len() as i64;
    assert_eq!(seconds, (first..100_000).collect::<Vec<_>>());
    assert_eq!(running.stats().dropped.spool_full, first as u64);
}

#[tokio::test(start_paused = true)]
async fn damaged_record_is_counted_and_the_rest_is_sent() {
    let fs = FaultyFs::new();
    let running = RunningRelay::new(&fs);
    for round in 0..4 {
        running.put("palm.cpu", round * 10..(round + 1) * 10);
        running.wait(2 * SECOND).await;
    }
    running.relay.close().await;
    drop(running);
    let files = fs.files();
    let (path, content) = files
        .iter()
        .find(|(path, _)| {
            path.extension().is_some_and(|extension| extension != "lock")
                && path.to_string_lossy().contains("00000")
        })
        .unwrap_or_else(|| panic!("{:?}", files.keys()));
    let mut content = content.clone();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs.put(path, &content);
    let mut again = RunningRelay::new(&fs);
    let rows = again.accept_all().await;
    let stats = again.stats();
    assert_eq!((stats.recovered, stats.dropped.spool_damaged, rows.len()), (40, 10, 30));
}

#[tokio::test(start_paused = true)]
async fn relay_goes_on_when_its_spool_is_taken_over() {
    let fs = FaultyFs::new();
    let mut running = RunningRelay::new(&fs);
    running.put("a", 0..10);
    let hanging = running.request().await;
    running.until("spooled", |stats| stats.spooled == 10).await;
    // Another process has removed the lock file, and opened the spool.
    fs.remove_all();
    let _other = Spool::open(fs.clone(), Path::new("/spool"), 1 << 20).unwrap();
    running.put("a", 10..20);
    running.wait(2 * SECOND).await;
    hanging.accept();
    let rows = running.accept_all().await;
    assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), (10..20).collect::<Vec<_>>());
    assert_eq!(running.stats().dropped.spool_damaged, 10);
    running.put("a", [20]);
    assert_eq!(running.request().await.accept().len(), 1);
}
