//! The order of points: a newer value of a second is never replaced by an older one.

use super::*;

#[tokio::test(start_paused = true)]
async fn newer_points_wait_for_the_request_that_fails() {
    let mut running = RunningRelay::new(&FaultyFs::new());
    running.put_rows([("palm.cpu", 1, 0.0)]);
    let first = running.request().await;
    running.put_rows([("palm.cpu", 1, 1.0)]);
    running.wait(SECOND / 2).await;
    first.fail_after(0);
    for _ in 0..3 {
        let request = running.request().await;
        assert_eq!(request.values(), [0.0]);
        request.fail_after(0);
    }
    assert_eq!(running.request().await.accept(), [("palm.cpu".to_owned(), 1, 0.0)]);
    assert_eq!(running.request().await.accept(), [("palm.cpu".to_owned(), 1, 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn points_in_memory_wait_for_those_on_disk() {
    let fs = FaultyFs::new();
    let mut running = RunningRelay::new(&fs);
    running.put("a", 0..3);
    let first = running.request().await;
    running.put("a", 3..6);
    running.until("spooled", |stats| stats.spooled == 6).await;
    running.put("a", 6..9);
    first.accept();
    let mut values = Vec::new();
    while values.len() < 6 {
        values.extend(running.request().await.accept().into_iter().map(|row| row.1));
    }
    assert_eq!(values, (3..9).collect::<Vec<_>>());
    running.until("delivered", |stats| stats.delivered == 9 && stats.spool_bytes == 0).await;
}

#[tokio::test(start_paused = true)]
async fn request_in_flight_is_stored_before_newer_points() {
    let fs = FaultyFs::new();
    let mut running = RunningRelay::new(&fs);
    running.put("a", [1]);
    let request = running.request().await;
    running.put("a", [2]);
    running.until("spooled", |stats| stats.spooled == 2).await;
    // The process is killed; the request was executed or not.
    drop((running, request));
    sleep(SECOND).await;
    let mut again = RunningRelay::new(&fs);
    let rows = again.accept_all().await;
    assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(again.stats().recovered, 2);
}

#[tokio::test(start_paused = true)]
async fn power_loss_brings_no_older_value_back() {
    for seed in 0..20 {
        let fs = FaultyFs::with_seed(seed);
        let mut running = RunningRelay::new(&fs);
        running.put_rows([("a", 1, 1.0)]);
        let request = running.request().await;
        running.until("spooled", |stats| stats.spooled == 1).await;
        request.accept();
        running.until("delivered", |stats| stats.spooled == 0).await;
        // This one is sent from memory, and the spool does not know it.
        running.put_rows([("a", 1, 2.0)]);
        running.request().await.accept();
        running.until("delivered", |stats| stats.delivered == 2).await;
        fs.set_fault(metrics_wal::testing::Fault::Killed { from: fs.operations() });
        drop(running);
        sleep(20 * SECOND).await;
        fs.set_fault(metrics_wal::testing::Fault::None);
        fs.lose_power();
        let mut again = RunningRelay::new(&fs);
        again.expect_no_request(10 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_delay_points_are_stored_before_they_are_sent() {
    let fs = FaultyFs::new();
    let setup = Setup { spill_after: Duration::ZERO, ..Setup::default() };
    let mut running = setup.clone().start(&fs);
    for value in 0..10 {
        running.put("a", [value]);
        let request = running.request().await;
        assert_eq!((running.stats().waiting, running.stats().spooled), (0, 1));
        if value == 9 {
            fs.set_fault(metrics_wal::testing::Fault::Killed { from: fs.operations() });
            drop((running, request));
            break;
        }
        request.accept();
    }
    sleep(20 * SECOND).await;
    fs.set_fault(metrics_wal::testing::Fault::None);
    fs.lose_power();
    let rows = setup.start(&fs).accept_all().await;
    // The one before may arrive a second time: its commit is not synced.
    let seconds: Vec<_> = rows.iter().map(|row| row.1).collect();
    assert!(seconds == [9] || seconds == [8, 9], "{seconds:?}");
}
