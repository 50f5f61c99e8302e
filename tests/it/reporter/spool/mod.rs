//! A reporter with a spool.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use metrics_client::{
    MetricsClient, Reporter,
    client::Pipelining,
    spool::{Spool, SpoolError},
};
use tempfile::TempDir;
use tokio::{
    join,
    time::{self, Instant},
};

use crate::peer::{MockNetwork, Peer};
use crate::reporter::{LONG, SECOND, accounted};

#[cfg(target_os = "linux")]
mod disk_full;
#[cfg(unix)]
mod kill9;
mod store_failure;

/// Starts a reporter with a spool in this directory, on a network without a server.
fn alone(folder: &Path) -> (MockNetwork, Reporter) {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    (network, spooling(client, Spool::dir(folder)))
}

pub(super) fn spooling(client: MetricsClient, spool: Spool) -> Reporter {
    Reporter::builder(client).spool(spool).unwrap().start()
}

/// Waits until the spool holds this many samples.
async fn spooled(reporter: &Reporter, samples: u64) {
    let limit = Instant::now() + LONG;
    while accounted(reporter).spooled != samples {
        assert!(Instant::now() < limit, "{reporter:?}");
        time::sleep(Duration::from_millis(10)).await;
    }
}

/// The puts that a server has received.
#[derive(Debug, Default)]
pub(super) struct ReceivedPuts {
    /// The puts, in their order, without the word.
    puts: Vec<String>,
    rest: String,
}

impl ReceivedPuts {
    /// Answers puts until this many were received.
    pub(super) async fn take(&mut self, peer: &mut Peer, puts: usize) {
        while self.puts.len() < puts {
            self.rest += &time::timeout(LONG, peer.read_some()).await.unwrap();
            let mut answers = String::new();
            while let Some((line, rest)) = self.rest.split_once('\n') {
                self.puts.push(line.strip_prefix("put ").unwrap().to_owned());
                self.rest = rest.to_owned();
                answers += "ok\n\n";
            }
            peer.send(&answers).await;
        }
    }

    /// Returns what a server would have stored: the last value of each key and second.
    fn stored(&self) -> BTreeMap<(&str, i64), f64> {
        let put = |put: &'_ String| -> ((&str, i64), f64) {
            let [key, value, timestamp] = put.split(' ').collect::<Vec<_>>()[..] else { panic!() };
            // The text lives as long as `self` does.
            let key = self
                .puts
                .iter()
                .find_map(|p| p.strip_prefix(key).map(|rest| &p[..p.len() - rest.len()]));
            ((key.unwrap(), timestamp.parse().unwrap()), value.parse().unwrap())
        };
        self.puts.iter().map(put).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn outage_spools_and_replays_behind_live_samples() {
    let folder = TempDir::new().unwrap();
    let (mut network, reporter) = alone(folder.path());
    for second in 0..10 {
        reporter.record_at("old", 0.5, second);
    }
    spooled(&reporter, 10).await;
    assert_eq!(accounted(&reporter).waiting, 0);
    network.refuse(0);
    reporter.record_at("live", 0.5, 1000);
    let mut received = ReceivedPuts::default();
    let mut peer = network.accept().await;
    received.take(&mut peer, 11).await;
    reporter.flush(LONG).await.unwrap();
    let old: Vec<_> = received.puts.iter().filter(|put| put.starts_with("old")).collect();
    assert!(old.iter().map(|put| put.as_str()).eq((0..10).map(|n| format!("old 0.5 {n}"))));
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.spooled, stats.dropped.total()), (11, 0, 0));
    let left: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the lock and the position: {left:?}");
}

#[tokio::test(start_paused = true)]
async fn unsent_samples_are_sent_by_the_next_reporter() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    for second in 0..1000 {
        reporter.record_at("a", 0.5, second);
    }
    let unsent = reporter.close(5 * SECOND).await.unwrap_err();
    assert_eq!((unsent.spooled, unsent.waiting, unsent.dropped), (1000, 0, 0), "{unsent}");
    accounted(&reporter);
    drop(reporter);

    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    assert_eq!(accounted(&reporter).recovered, 1000);
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 1000).await;
    reporter.flush(LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.acknowledged, stats.spooled), (0, 1000, 0));
}

#[tokio::test(start_paused = true)]
async fn newer_value_survives_replay() {
    let folder = TempDir::new().unwrap();
    let (mut network, reporter) = alone(folder.path());
    // More than is sent at once at first.
    for key in 0..500 {
        reporter.record_at(format!("k{key}"), 1.0, 7);
    }
    spooled(&reporter, 500).await;
    network.refuse(0);
    let mut peer = network.accept().await;
    let mut received = ReceivedPuts::default();
    received.take(&mut peer, 10).await;
    for key in 0..500 {
        reporter.record_at(format!("k{key}"), 2.0, 7);
        reporter.record_at(format!("k{key}"), 3.0, 8);
    }
    received.take(&mut peer, 1500).await;
    reporter.flush(LONG).await.unwrap();
    let stored = received.stored();
    assert_eq!(stored.len(), 1000);
    for ((key, second), value) in stored {
        assert_eq!(value, if second == 7 { 2.0 } else { 3.0 }, "{key} {second}");
    }
    accounted(&reporter);
}

#[tokio::test(start_paused = true)]
async fn newer_value_survives_replay_of_a_previous_run() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    for key in 0..500 {
        reporter.record_at(format!("k{key}"), 1.0, 7);
    }
    reporter.close(SECOND).await.unwrap_err();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    for key in 0..500 {
        reporter.record_at(format!("k{key}"), 2.0, 7);
    }
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 1000).await;
    reporter.flush(LONG).await.unwrap();
    assert!(received.stored().values().all(|&value| value == 2.0));
    accounted(&reporter);
}

#[tokio::test(start_paused = true)]
async fn replay_works_while_the_folder_is_read_only() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    reporter.record_at("a", 1.0, 7);
    reporter.close(SECOND).await.unwrap_err();
    // What stands where the next segment would is as good as a full disk.
    fs::create_dir(folder.path().join(format!("{:020}.log", 1))).unwrap();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    // It has to follow the one in the folder, and would go there.
    reporter.record_at("a", 2.0, 7);
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 2).await;
    reporter.flush(LONG).await.unwrap();
    assert_eq!(received.puts, ["a 1.0 7", "a 2.0 7"]);
    assert!(reporter.spool_stats().unwrap().io_errors.total() > 0);
    accounted(&reporter);
}

#[tokio::test(start_paused = true)]
async fn linger_of_duration_max_works_with_a_spool() {
    let folder = TempDir::new().unwrap();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = Reporter::builder(client).linger(Duration::MAX);
    let reporter = reporter.spool(Spool::dir(&folder)).unwrap().start();
    reporter.record_at("a", 1.0, 1);
    let mut peer = network.accept().await;
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    reporter.flush(SECOND).await.unwrap();
    reporter.record_at("a", 2.0, 2);
    let (flushed, ()) = tokio::join!(reporter.flush(LONG), peer.answer("put a 2.0 2\n", "ok\n\n"));
    flushed.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 2);
}

#[tokio::test(start_paused = true)]
async fn slow_server_leaves_the_rest_on_disk() {
    let folder = TempDir::new().unwrap();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter =
        Reporter::builder(client).capacity(2000).spool(Spool::dir(&folder)).unwrap().start();
    let recorder = reporter.clone();
    let recorded = tokio::spawn(async move {
        for second in 0..100 {
            for key in 0..100 {
                recorder.record_at(format!("k{key}"), 0.5, second);
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut peer = network.accept().await;
    let mut rest = String::new();
    // 100 a second, of the 1,000 that come.
    while !recorded.is_finished() {
        rest += &peer.read_some().await;
        while let Some(end) = rest.find('\n') {
            rest.drain(..=end);
            time::sleep(Duration::from_millis(10)).await;
            peer.send("ok\n\n").await;
        }
        accounted(&reporter);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.dropped.total()), (10_000, 0), "{stats:?}");
    assert!(stats.spooled > 5000 && stats.acknowledged > 100, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn full_spool_drops_the_oldest_and_adds_up() {
    let folder = TempDir::new().unwrap();
    let (mut network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder).max_bytes(1024 * 1024));
    for second in 0..100 {
        for _ in 0..1000 {
            reporter.record_at("some.key.of.ordinary.length", 0.5, second);
        }
        time::sleep(Duration::from_millis(100)).await;
    }
    time::sleep(10 * SECOND).await;
    let stats = accounted(&reporter);
    assert_eq!(stats.spooled + stats.dropped.spool_full, 100_000, "{stats:?}");
    assert!(stats.dropped.spool_full > 70_000 && stats.spooled > 15_000, "{stats:?}");
    network.refuse(0);
    let mut peer = network.accept().await;
    let mut received = ReceivedPuts::default();
    received.take(&mut peer, usize::try_from(stats.spooled).unwrap()).await;
    reporter.flush(LONG).await.unwrap();
    assert!(received.puts.last().unwrap().ends_with(" 99"));
    assert_eq!(accounted(&reporter).acknowledged, stats.spooled);
}

#[tokio::test(start_paused = true)]
async fn flush_reports_drops_of_a_full_spool() {
    let folder = TempDir::new().unwrap();
    let (mut network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder).max_bytes(1));
    for second in 0..100_000 {
        reporter.record_at("some.key.of.ordinary.length", 0.5, second);
    }
    let server = async {
        while accounted(&reporter).waiting > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        network.refuse(0);
        let spooled = accounted(&reporter).spooled;
        let mut peer = network.accept().await;
        ReceivedPuts::default().take(&mut peer, usize::try_from(spooled).unwrap()).await;
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    let unsent = flushed.unwrap_err();
    let stats = accounted(&reporter);
    assert!(stats.dropped.spool_full > 0, "{stats:?}");
    assert_eq!((unsent.waiting, unsent.spooled), (0, 0), "{unsent:?}");
    assert_eq!(unsent.dropped, stats.dropped.spool_full);
}

#[tokio::test(start_paused = true)]
async fn flush_ends_if_the_spool_is_unreadable() {
    let folder = TempDir::new().unwrap();
    let (network, reporter) = alone(folder.path());
    for second in 0..10 {
        reporter.record_at("a", 0.5, second);
    }
    let remove = async {
        spooled(&reporter, 10).await;
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|suffix| suffix == "log") {
                fs::remove_file(path).unwrap();
            }
        }
        network.refuse(0);
    };
    let start = Instant::now();
    let (flushed, ()) = join!(reporter.flush(LONG), remove);
    let unsent = flushed.unwrap_err();
    assert_eq!((unsent.waiting, unsent.spooled), (0, 0), "{unsent:?}");
    assert_eq!(accounted(&reporter).dropped.spool_lost, 10);
    assert!(start.elapsed() < LONG);
}

#[tokio::test(start_paused = true)]
async fn live_samples_pass_an_unwritable_spool() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    reporter.record_at("a", 1.0, 5);
    reporter.close(Duration::ZERO).await.unwrap_err();
    assert_eq!(accounted(&reporter).spooled, 1);
    // In the way of the next segment.
    fs::create_dir(folder.path().join(format!("{:020}.log", 1))).unwrap();

    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    for key in 0..1000 {
        reporter.record_at(format!("a{key}"), 2.0, 5);
    }
    for second in 6..1006 {
        reporter.record_at("live", 2.0, second);
    }
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 1000).await;
    assert!(received.puts.iter().filter(|put| put.starts_with("live ")).count() >= 999);
    accounted(&reporter);
}

#[tokio::test(start_paused = true)]
async fn replay_begins_slowly() {
    let folder = TempDir::new().unwrap();
    let (mut network, reporter) = alone(folder.path());
    for second in 0..20_000 {
        reporter.record_at("a", 0.5, second);
    }
    spooled(&reporter, 20_000).await;
    network.refuse(0);
    let mut peer = network.accept().await;
    let start = Instant::now();
    let mut received = ReceivedPuts::default();
    received.take(&mut peer, 1000).await;
    while start.elapsed() < SECOND {
        let so_far = received.puts.len();
        received.take(&mut peer, so_far + 1).await;
    }
    let first = received.puts.len();
    assert!((800..4000).contains(&first), "{first} in the first second");
    received.take(&mut peer, 20_000).await;
    assert!(start.elapsed() > 3 * SECOND, "{:?}", start.elapsed());
    assert!(start.elapsed() < 15 * SECOND, "{:?}", start.elapsed());
    reporter.flush(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn removed_folder_is_counted_and_recreated() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("spool");
    let (mut network, reporter) = alone(&folder);
    reporter.record_at("a", 0.5, 1);
    spooled(&reporter, 1).await;
    fs::remove_dir_all(&folder).unwrap();
    reporter.record_at("a", 0.5, 2);
    let limit = Instant::now() + LONG;
    while accounted(&reporter).dropped.spool_lost != 1 {
        assert!(Instant::now() < limit, "{reporter:?}");
        time::sleep(Duration::from_millis(100)).await;
    }
    spooled(&reporter, 1).await;
    network.refuse(0);
    network.accept().await.answer("put a 0.5 2\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn self_metrics_include_the_spool() {
    let folder = TempDir::new().unwrap();
    let (mut network, builder) = MockNetwork::new();
    network.black_hole();
    let reporter = Reporter::builder(builder.pipelining(Pipelining::On).connect_lazy().unwrap())
        .spool(Spool::dir(&folder))
        .unwrap()
        .self_metrics("me")
        .unwrap()
        .start();
    for second in 0..5 {
        reporter.record_at("a", 0.5, second);
    }
    spooled(&reporter, 5).await;
    let bytes = reporter.spool_stats().unwrap().bytes;
    time::sleep(10 * SECOND).await;
    network.refuse(0);
    let mut peer = network.accept().await;
    let mut received = ReceivedPuts::default();
    received.take(&mut peer, 5 + 19).await;
    let told = |name: &str| {
        let put = received.puts.iter().find(|put| put.starts_with(&format!("me.{name} ")));
        put.and_then(|put| put.split(' ').nth(1)?.parse::<f64>().ok())
    };
    assert_eq!(told("spooled"), Some(5.0));
    assert_eq!(told("recorded"), Some(5.0));
    assert_eq!(told("spool.bytes"), Some(bytes as f64));
    for none in [
        "recovered",
        "dropped.spool_full",
        "dropped.spool_lost",
        "dropped.spool_expired",
        "abandoned",
        "spool.io_errors",
    ] {
        assert_eq!(told(none), Some(0.0), "{none}");
    }
}

#[tokio::test]
async fn spool_folder_belongs_to_one_reporter() {
    let folder = TempDir::new().unwrap();
    let (_network, _reporter) = alone(folder.path());
    let (_other, builder) = MockNetwork::new();
    let error =
        Reporter::builder(builder.connect_lazy().unwrap()).spool(Spool::dir(&folder)).unwrap_err();
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
}

// FAULTS A16
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn reporter_works_without_a_moved_spool() {
    let root = TempDir::new().unwrap();
    let (folder, moved) = (root.path().join("spool"), root.path().join("moved"));
    let (mut network, reporter) = alone(&folder);
    reporter.record_at("a", 0.5, 1);
    spooled(&reporter, 1).await;
    fs::rename(&folder, &moved).unwrap();
    let (_other_network, other) = alone(&folder);
    reporter.record_at("a", 0.5, 2);
    let limit = Instant::now() + LONG;
    while accounted(&reporter).abandoned != 1 {
        assert!(Instant::now() < limit, "{reporter:?}");
        time::sleep(Duration::from_millis(100)).await;
    }
    network.refuse(0);
    let mut peer = network.accept().await;
    let (flushed, ()) = join!(reporter.flush(LONG), peer.answer("put a 0.5 2\n", "ok\n\n"));
    flushed.unwrap();
    // It works as one that never had a spool: a server that is slow is waited for.
    reporter.record_at("a", 0.5, 3);
    peer.expect("put a 0.5 3\n").await;
    time::sleep(3 * SECOND).await;
    reporter.record_at("a", 0.5, 4);
    peer.send("ok\n\n").await;
    peer.answer("put a 0.5 4\n", "ok\n\n").await;
    reporter.close(LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.dropped.total(), stats.spooled), (3, 0, 0));
    assert_eq!(accounted(&other).recovered, 0);
    // What was left is there.
    assert_eq!(accounted(&alone(&moved).1).recovered, 1);
}

// FAULTS A16: a flush that waits for what is left behind says so.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn flush_reports_samples_of_a_moved_spool() {
    let root = TempDir::new().unwrap();
    let (folder, moved) = (root.path().join("spool"), root.path().join("moved"));
    let (network, reporter) = alone(&folder);
    for second in 0..10 {
        reporter.record_at("a", 0.5, second);
    }
    let moving = async {
        spooled(&reporter, 10).await;
        fs::rename(&folder, &moved).unwrap();
        network.refuse(0);
    };
    let start = Instant::now();
    let (flushed, ()) = join!(reporter.flush(LONG), moving);
    let unsent = flushed.unwrap_err();
    assert_eq!((unsent.abandoned, unsent.dropped, unsent.spooled), (10, 0, 0));
    assert!(unsent.to_string().ends_with("10 abandoned"), "{unsent}");
    assert!(start.elapsed() < LONG);
}

// FAULTS A17
#[tokio::test(start_paused = true)]
async fn samples_of_a_removed_folder_are_lost_not_dropped() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("spool");
    let (mut network, reporter) = alone(&folder);
    for second in 0..10 {
        reporter.record_at("a", 0.5, second);
    }
    spooled(&reporter, 10).await;
    network.refuse(0);
    let mut peer = network.accept().await;
    peer.read_some().await;
    fs::remove_dir_all(&folder).unwrap();
    // A later one has to be written, which is when the removal is noticed.
    network.black_hole();
    reporter.record_at("a", 0.5, 100);
    drop(peer);
    let limit = Instant::now() + LONG;
    while accounted(&reporter).dropped.spool_lost != 10 {
        assert!(Instant::now() < limit, "{reporter:?}");
        time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(accounted(&reporter).dropped.spool_full, 0);
}

// FAULTS A26
#[tokio::test]
async fn builder_is_returned_if_the_spool_cannot_open() {
    let folder = TempDir::new().unwrap();
    let (_network, _reporter) = alone(folder.path());
    let (_other, builder) = MockNetwork::new();
    let builder = Reporter::builder(builder.connect_lazy().unwrap());
    let error = builder.spool(Spool::dir(&folder)).unwrap_err();
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
    let elsewhere = TempDir::new().unwrap();
    let with_spool = builder.spool(Spool::dir(&elsewhere)).unwrap();
    // As long as it has the folder, no second reporter can have it.
    let second = builder.spool(Spool::dir(&elsewhere)).unwrap_err();
    assert!(matches!(second, SpoolError::InUse { .. }), "{second}");
    assert!(with_spool.start().spool_stats().is_some());
    assert!(builder.start().spool_stats().is_none());
}

// Asked for: an age bound for what is replayed.
#[tokio::test(start_paused = true)]
async fn samples_older_than_max_age_are_not_replayed() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_secs() as i64;
    for age in [7200, 10, 7300, 20] {
        reporter.record_at("a", f64::from(age), now - i64::from(age));
    }
    reporter.close(SECOND).await.unwrap_err();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let spool = Spool::dir(&folder).max_age(3600 * SECOND);
    let reporter = spooling(client, spool);
    let mut received = ReceivedPuts::default();
    received.take(&mut network.accept().await, 2).await;
    // It says that two were dropped, if that was not before it began.
    let _ = reporter.flush(LONG).await;
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.dropped.spool_expired, stats.spooled), (2, 2, 0));
    assert_eq!(received.puts[0].split(' ').nth(1), Some("10.0"));
}

#[test]
fn guard_leaves_unsent_samples_in_the_spool() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reporter = runtime.block_on(async {
        // It cannot dial, so the guard has no connection of its own, and the disk has all the time.
        let (near, _far) = tokio::io::duplex(64);
        let reporter = spooling(MetricsClient::from_io(near), Spool::dir(&folder));
        let _guard = reporter.flush_on_drop(LONG);
        for second in 0..1000 {
            reporter.record_at("a", 0.5, second);
        }
        reporter
    });
    let stats = accounted(&reporter);
    assert_eq!((stats.spooled, stats.waiting, stats.dropped.total()), (1000, 0, 0), "{stats:?}");
}

#[test]
fn guard_rejected_by_the_server_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reporter = runtime.block_on(async {
        // The port was just released, so no process listens on it.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = MetricsClient::builder(socket.local_addr().unwrap()).connect_lazy().unwrap();
        drop(socket);
        let reporter = spooling(client, Spool::dir(&folder));
        let _guard = reporter.flush_on_drop(Duration::from_millis(200));
        for second in 0..1000 {
            reporter.record_at("a", 0.5, second);
        }
        reporter
    });
    let stats = accounted(&reporter);
    // The disk has a tenth of a second. What it does not take in that time waits, and is not dropped.
    assert_eq!((stats.spooled + stats.waiting, stats.dropped.total()), (1000, 0), "{stats:?}");
    assert_eq!(stats.acknowledged, 0);
}

// FAULTS A20
#[tokio::test(start_paused = true)]
async fn close_timeout_keeps_replayed_acks() {
    let folder = TempDir::new().unwrap();
    let (_network, reporter) = alone(folder.path());
    for second in 0..4 {
        reporter.record_at("a", 0.5, second);
    }
    reporter.close(SECOND).await.unwrap_err();
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let reporter = spooling(client, Spool::dir(&folder));
    let mut peer = network.accept().await;
    let (closed, ()) = join!(reporter.close(4 * SECOND), async {
        peer.expect("put a 0.5 0\nput a 0.5 1\nput a 0.5 2\nput a 0.5 3\n").await;
        peer.send("ok\n\nerror\nno\n\nok\n\n").await;
    });
    let unsent = closed.unwrap_err();
    assert_eq!((unsent.spooled, unsent.rejected, unsent.dropped), (1, 1, 0), "{unsent}");
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.rejected, stats.spooled), (2, 1, 1));
    drop(reporter);
    // The next process sends the one that had no answer, and no other.
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect_lazy().unwrap();
    let _reporter = spooling(client, Spool::dir(&folder));
    network.accept().await.answer("put a 0.5 3\n", "ok\n\n").await;
}
