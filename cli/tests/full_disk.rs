//! A disk that is full under load, and has room again.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics_client::MetricsClient;
use support::Server;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};

mod support;

/// A small file system in memory, which only root can mount.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Returns `None` if it cannot be mounted, and says so.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { dir }),
            failed => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted, which needs root: {failed:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Fills the disk to its last byte, and returns the file that does.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut ballast = File::create(&path).unwrap();
        let mut len = 1024 * 1024;
        while len > 0 {
            match ballast.write(&vec![0; len]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => len /= 2,
                Err(error) => panic!("{error}"),
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

/// What a writer has seen.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

const WRITERS: usize = 8;

/// Puts one second after the other until it is stopped; repeats a put until it is acknowledged.
async fn write(
    client: MetricsClient,
    writer: usize,
    progress: Arc<[Progress; WRITERS]>,
    changed: watch::Sender<()>,
    stop: Arc<AtomicBool>,
) {
    let (key, mut second) = (format!("writer{writer}"), 0);
    while !stop.load(Ordering::Relaxed) {
        match client.put_at(&key, second as f64, second).await {
            Ok(()) => {
                second += 1;
                progress[writer].acknowledged.store(second as u64, Ordering::Release);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                progress[writer].failed.fetch_add(1, Ordering::Release);
            }
        }
        changed.send_replace(());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_under_load_is_used_again_once_freed() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data = disk.path().join("data");
    let args = ["--data", data.to_str().unwrap()];
    let server = Server::start_with(&args);
    let connect = || {
        // The tests of a failing put need not wait for long.
        let builder = MetricsClient::builder(&server.address);
        builder.request_timeout(Duration::from_millis(500)).connect_lazy().unwrap()
    };
    let progress = Arc::new(std::array::from_fn(|_| Progress::default()));
    let (changed, mut wake) = watch::channel(());
    let stop = Arc::new(AtomicBool::new(false));
    let clients = [connect(), connect()];
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(
            clients[writer % 2].clone(),
            writer,
            Arc::clone(&progress),
            changed.clone(),
            Arc::clone(&stop),
        ));
    }
    let counts = |count: fn(&Progress) -> &AtomicU64| {
        let progress = Arc::clone(&progress);
        move || progress.each_ref().map(|progress| count(progress).load(Ordering::Acquire))
    };
    let (acknowledged, failed) =
        (counts(|progress| &progress.acknowledged), counts(|progress| &progress.failed));
    let mut until = async |is_reached: &dyn Fn() -> bool| {
        while !is_reached() {
            wake.changed().await.unwrap();
        }
    };

    until(&|| acknowledged().iter().all(|&count| count > 100)).await;
    let ballast = disk.fill();
    let before = failed();
    until(&|| failed().iter().zip(before).all(|(&count, before)| count > before)).await;

    // Reads go on while it is full.
    let reader = MetricsClient::connect(&server.address).await.unwrap();
    for (writer, acknowledged) in acknowledged().into_iter().enumerate() {
        let key = format!("writer{writer}");
        let read = reader.get(&key).await.unwrap().points(&key).len() as u64;
        assert!(read >= acknowledged, "{key}: {read} of {acknowledged}");
    }

    fs::remove_file(ballast).unwrap();
    let (freed, before) = (Instant::now(), acknowledged());
    until(&|| acknowledged().iter().zip(before).all(|(&count, before)| count > before + 100)).await;
    println!("all writers go on {:.2?} after there was room", freed.elapsed());

    stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let acknowledged = acknowledged();
    check(&server.address, acknowledged).await;
    drop(server);
    check(&Server::start_with(&args).address, acknowledged).await;
}

/// Checks that everything that was acknowledged is there, and nothing is wrong.
async fn check(address: &str, acknowledged: [u64; WRITERS]) {
    let metrics = MetricsClient::connect(address).await.unwrap().get_all().await.unwrap();
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        let points = metrics.points(&format!("writer{writer}"));
        assert!(
            points.len() as u64 >= acknowledged,
            "{writer}: {} of {acknowledged}",
            points.len()
        );
        for (second, point) in points.iter().enumerate() {
            assert_eq!((point.timestamp, point.value), (second as i64, second as f64));
        }
    }
}
