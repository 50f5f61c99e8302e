//! A reporter whose disk hangs.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use tokio::{join, runtime, sync::Notify, time};

use super::*;
use crate::{
    MetricsClient, Reporter,
    client::WhenFull,
    reporter::{
        queue,
        settings::ReporterSettings,
        spool::OpenSpool,
        test_server::{TestServer, accounted},
    },
    spool::Spool,
};

const SECOND: Duration = Duration::from_secs(1);

/// A file system whose operations can hang.
#[derive(Clone)]
struct HangingFs {
    fs: FaultyFs,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// The operations that hang.
    hanging: Mutex<Option<Operation>>,
    released: Condvar,
    /// Notified when an operation begins to hang.
    hangs: Notify,
}

impl HangingFs {
    fn new() -> Self {
        let (fs, gate) = (FaultyFs::new(), Arc::new(Gate::default()));
        let hanging = Arc::clone(&gate);
        fs.set_hook(move |operation, _| {
            hanging.pass(operation);
            Ok(())
        });
        Self { fs, gate }
    }

    /// Lets these operations hang from now on.
    fn hang(&self, operation: Operation) {
        *self.gate.hanging.lock().unwrap() = Some(operation);
    }

    fn release(&self) {
        *self.gate.hanging.lock().unwrap() = None;
        self.gate.released.notify_all();
    }

    /// Waits until an operation hangs.
    async fn hangs(&self) {
        self.gate.hangs.notified().await;
    }
}

impl Gate {
    fn pass(&self, operation: Operation) {
        let mut hanging = self.hanging.lock().unwrap();
        while *hanging == Some(operation) {
            self.hangs.notify_one();
            hanging = self.released.wait(hanging).unwrap();
        }
    }
}

/// Starts a reporter with a spool on a disk that may hang, which holds `old` samples.
fn reporter(client: MetricsClient, old: i64) -> (HangingFs, Reporter) {
    let fs = HangingFs::new();
    let mut opened = open(&fs.fs);
    for second in 0..old {
        opened.append(Instant::now(), &[Sample::new("old", 0.5, second).unwrap()]).unwrap();
    }
    drop(opened);
    let opened = open(&fs.fs);
    let spool = OpenSpool::on(Spool::dir(dir()), opened);
    let limits =
        queue::QueueLimits { samples: 10_000, bytes: 1 << 20, when_full: WhenFull::DropOldest };
    let settings = ReporterSettings {
        limits,
        linger: Duration::from_millis(10),
        self_metrics: None,
        max_attempts: None,
        spool: Some(spool),
    };
    let reporter = Reporter::start(client, settings);
    (fs, reporter)
}

/// Advances the paused clock, which does not advance by itself while the disk hangs.
async fn pass(time: Duration) {
    let end = time::Instant::now() + time;
    while time::Instant::now() < end {
        time::advance(Duration::from_millis(10)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

// FAULTS A5
#[tokio::test(start_paused = true)]
async fn live_samples_do_not_wait_for_a_hanging_read() {
    let server = TestServer::default();
    let (fs, reporter) = reporter(server.client(), 10);
    fs.hang(Operation::Read);
    fs.hangs().await;
    for second in 100..110 {
        reporter.record_at("live", 0.5, second);
        server.has(&format!("live 0.5 {second}")).await;
        pass(SECOND).await;
    }
    assert!(!server.puts().iter().any(|put| put.starts_with("old")));
    fs.release();
    server.has("old 0.5 9").await;
    reporter.flush(60 * SECOND).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 20);
}

// FAULTS A5
#[tokio::test(start_paused = true)]
async fn live_samples_do_not_wait_for_a_hanging_settle() {
    let server = TestServer::default();
    let (fs, reporter) = reporter(server.client(), 10);
    fs.hang(Operation::Write);
    server.has("old 0.5 9").await;
    fs.hangs().await;
    reporter.record_at("live", 0.5, 100);
    server.has("live 0.5 100").await;
    fs.release();
    reporter.flush(60 * SECOND).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 11);
}

// FAULTS A5
#[tokio::test(start_paused = true)]
async fn live_samples_do_not_wait_for_a_hanging_write() {
    let server = TestServer::default();
    server.set_away(true);
    let (fs, reporter) = reporter(server.client(), 0);
    fs.hang(Operation::Write);
    // They are on their way to the disk when the server comes back.
    reporter.record_at("a", 0.5, 1);
    fs.hangs().await;
    server.set_away(false);
    pass(10 * SECOND).await;
    reporter.record_at("live", 0.5, 100);
    // A newer value must not overtake the one that the disk has.
    reporter.record_at("a", 1.5, 1);
    server.has("live 0.5 100").await;
    assert_eq!(server.puts(), ["live 0.5 100"]);
    assert_eq!(accounted(&reporter).waiting, 2);
    fs.release();
    reporter.flush(60 * SECOND).await.unwrap();
    assert_eq!(server.puts(), ["live 0.5 100", "a 0.5 1", "a 1.5 1"]);
    assert_eq!(accounted(&reporter).acknowledged, 3);
}

// FAULTS A5
#[tokio::test(start_paused = true)]
async fn live_samples_do_not_wait_for_a_hanging_sync() {
    let server = TestServer::default();
    server.set_away(true);
    let (fs, reporter) = reporter(server.client(), 0);
    fs.hang(Operation::Sync);
    reporter.record_at("a", 0.5, 1);
    fs.hangs().await;
    server.set_away(false);
    pass(10 * SECOND).await;
    reporter.record_at("live", 0.5, 100);
    server.has("live 0.5 100").await;
    fs.release();
    reporter.flush(60 * SECOND).await.unwrap();
}

// FAULTS A4
#[tokio::test(start_paused = true)]
async fn closing_ends_in_time_while_the_disk_hangs() {
    let server = TestServer::default();
    server.set_away(true);
    let (fs, reporter) = reporter(server.client(), 0);
    reporter.record_at("a", 0.5, 1);
    reporter.record_at("a", 0.5, 2);
    fs.hang(Operation::Write);
    let start = time::Instant::now();
    let closing = async {
        let unsent = reporter.close(SECOND).await.unwrap_err();
        assert!(start.elapsed() <= SECOND + Duration::from_millis(10), "{:?}", start.elapsed());
        assert_eq!((unsent.waiting, unsent.dropped, unsent.spooled), (0, 2, 0), "{unsent}");
        let stats = accounted(&reporter);
        assert_eq!((stats.waiting, stats.dropped.closed), (0, 2));
    };
    join!(closing, pass(2 * SECOND));
    // What the disk has taken after all is counted as that.
    fs.release();
    // The disk's thread runs this after the write that was hanging.
    reporter.shared().spool.as_ref().unwrap().sync().await;
    let stats = accounted(&reporter);
    assert_eq!((stats.spooled, stats.dropped.total()), (2, 0), "{stats:?}");
}

// FAULTS A4
#[test]
fn a_guard_ends_in_time_while_the_disk_hangs() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (fs, reporter) = runtime.block_on(async {
        let server = TestServer::default();
        server.set_away(true);
        let (fs, reporter) = reporter(server.client(), 0);
        reporter.record_at("a", 0.5, 1);
        fs.hang(Operation::Write);
        // It would never return.
        drop(reporter.flush_on_drop(Duration::from_millis(200)));
        assert_eq!(accounted(&reporter).waiting, 1);
        (fs, reporter)
    });
    fs.release();
    drop(runtime);
    assert_eq!(accounted(&reporter).dropped.total(), 0);
}

// FAULTS A4: the waiting samples are stored, although no blocking task can run.
#[test]
fn closing_moves_samples_while_the_blocking_pool_is_busy() {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .start_paused(true)
        .build()
        .unwrap();
    let (busy, is_over) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        tokio::task::spawn_blocking(move || is_over.recv());
        let server = TestServer::default();
        server.set_away(true);
        let (_fs, reporter) = reporter(server.client(), 0);
        reporter.record_at("a", 0.5, 1);
        let closing = async {
            let unsent = reporter.close(SECOND).await.unwrap_err();
            assert_eq!((unsent.spooled, unsent.dropped), (1, 0), "{unsent}");
        };
        let sending = pass(Duration::from_millis(750));
        join!(closing, sending);
        drop(busy);
    });
}
