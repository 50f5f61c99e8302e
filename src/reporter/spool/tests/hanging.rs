//! A reporter whose disk hangs.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    join, runtime,
    sync::Notify,
    time::{self, Instant},
};

use super::*;
use crate::{
    MetricsClient, Reporter,
    client::WhenFull,
    reporter::{
        queue,
        settings::Settings,
        spool::{
            OpenSpool,
            fs::{FileSystem, Identity, OsFileSystem},
        },
        test_server::{TestServer, accounted},
    },
    spool::Spool,
};

const SECOND: Duration = Duration::from_secs(1);

/// The system's disk, whose operations hang from when it is told until it is released; clones are the
/// same one.
#[derive(Clone, Debug, Default)]
struct HangingDisk(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    /// What hangs: operations of this name.
    hanging: Mutex<Option<&'static str>>,
    released: Condvar,
    /// Told when an operation begins to hang.
    hangs: Notify,
}

impl HangingDisk {
    /// From now on these operations hang.
    fn hang(&self, operation: &'static str) {
        *self.0.hanging.lock().unwrap() = Some(operation);
    }

    fn release(&self) {
        *self.0.hanging.lock().unwrap() = None;
        self.0.released.notify_all();
    }

    /// Waits until an operation hangs.
    async fn hangs(&self) {
        self.0.hangs.notified().await;
    }

    fn pass(&self, operation: &str) {
        let mut hanging = self.0.hanging.lock().unwrap();
        while *hanging == Some(operation) {
            self.0.hangs.notify_one();
            hanging = self.0.released.wait(hanging).unwrap();
        }
    }
}

impl FileSystem for HangingDisk {
    type File = <OsFileSystem as FileSystem>::File;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        OsFileSystem.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Self::File> {
        OsFileSystem.open(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Self::File> {
        self.pass("read");
        OsFileSystem.open_read(path)
    }
    fn lock(&self, file: &Self::File) -> io::Result<bool> {
        OsFileSystem.lock(file)
    }
    fn identity(&self, path: &Path) -> io::Result<Identity> {
        OsFileSystem.identity(path)
    }
    fn file_identity(&self, file: &Self::File) -> io::Result<Identity> {
        OsFileSystem.file_identity(file)
    }
    fn has_name(&self, file: &Self::File) -> io::Result<bool> {
        OsFileSystem.has_name(file)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        OsFileSystem.len(path)
    }
    fn read_at(&self, file: &mut Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.pass("read");
        OsFileSystem.read_at(file, offset, buffer)
    }
    fn write_at(&self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pass("write");
        OsFileSystem.write_at(file, offset, bytes)
    }
    fn truncate(&self, file: &mut Self::File, len: u64) -> io::Result<()> {
        OsFileSystem.truncate(file, len)
    }
    fn sync(&self, file: &mut Self::File) -> io::Result<()> {
        self.pass("sync");
        OsFileSystem.sync(file)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFileSystem.rename(from, to)
    }
}

/// A reporter with a spool on a disk that may hang, in which so many samples of `old` lie.
fn reporter(client: MetricsClient, old: i64) -> (TempDir, HangingDisk, Reporter) {
    let folder = TempDir::new().unwrap();
    let fs = HangingDisk::default();
    let mut opened = SegmentLog::open(fs.clone(), folder.path(), LIMITS).unwrap();
    for second in 0..old {
        opened
            .append(std::time::Instant::now(), &[Sample::new("old", 0.5, second).unwrap()])
            .unwrap();
    }
    drop(opened);
    let opened = SegmentLog::open(fs.clone(), folder.path(), LIMITS).unwrap();
    let spool = OpenSpool::on(Spool::dir(folder.path()), opened);
    let limits = queue::Limits { samples: 10_000, bytes: 1 << 20, when_full: WhenFull::DropOldest };
    let settings = Settings {
        limits,
        linger: Duration::from_millis(10),
        self_metrics: None,
        max_attempts: None,
        spool: Some(spool),
    };
    let reporter = Reporter::start(client, settings);
    (folder, fs, reporter)
}

/// Lets so much time pass. The paused clock does not go on by itself while the disk hangs.
async fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        time::advance(Duration::from_millis(10)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

// FAULTS A5
#[tokio::test(start_paused = true)]
async fn live_samples_do_not_wait_for_a_read_that_hangs() {
    let server = TestServer::default();
    let (_folder, fs, reporter) = reporter(server.client(), 10);
    fs.hang("read");
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
async fn live_samples_do_not_wait_for_a_settling_that_hangs() {
    let server = TestServer::default();
    let (_folder, fs, reporter) = reporter(server.client(), 10);
    fs.hang("write");
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
async fn live_samples_do_not_wait_for_a_write_that_hangs() {
    let server = TestServer::default();
    server.set_away(true);
    let (_folder, fs, reporter) = reporter(server.client(), 0);
    fs.hang("write");
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
async fn live_samples_do_not_wait_for_a_sync_that_hangs() {
    let server = TestServer::default();
    server.set_away(true);
    let (_folder, fs, reporter) = reporter(server.client(), 0);
    fs.hang("sync");
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
    let (_folder, fs, reporter) = reporter(server.client(), 0);
    reporter.record_at("a", 0.5, 1);
    reporter.record_at("a", 0.5, 2);
    fs.hang("write");
    let start = Instant::now();
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
    while accounted(&reporter).spooled != 2 {
        time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(accounted(&reporter).dropped.total(), 0);
}

// FAULTS A4
#[test]
fn a_guard_ends_in_time_while_the_disk_hangs() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_folder, fs, reporter) = runtime.block_on(async {
        let server = TestServer::default();
        server.set_away(true);
        let (folder, fs, reporter) = reporter(server.client(), 0);
        reporter.record_at("a", 0.5, 1);
        fs.hang("write");
        // It would never return.
        drop(reporter.flush_on_drop(Duration::from_millis(200)));
        assert_eq!(accounted(&reporter).waiting, 1);
        (folder, fs, reporter)
    });
    fs.release();
    drop(runtime);
    assert_eq!(accounted(&reporter).dropped.total(), 0);
}

// FAULTS A4: what waits lies in the spool, although no blocking task can run.
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
        let (_folder, _disk, reporter) = reporter(server.client(), 0);
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
