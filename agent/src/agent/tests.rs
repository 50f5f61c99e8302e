//! An agent with a clock that the test sets, and a server behind a pipe.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metrics_client::{
    MetricsClient, Reporter,
    client::{Address, Connector},
    spool::Spool,
};
use metrics_server::{Limits, MemoryStore, serve_connection};
use tokio::{
    io::{DuplexStream, duplex},
    time::{self, Instant},
};

use super::*;
use crate::{filter::Filter, names::KeyStyle};

const SECOND: Duration = Duration::from_secs(1);

/// A server that can be away.
#[derive(Clone, Default)]
struct Peer {
    store: Arc<MemoryStore>,
    is_away: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Connector for Peer {
    type Io = DuplexStream;

    async fn connect(&self, _: &Address) -> io::Result<DuplexStream> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(256 * 1024);
        let serving =
            tokio::spawn(serve_connection(far, Arc::clone(&self.store), Limits::default()));
        self.connections.lock().unwrap().push(serving.abort_handle());
        Ok(near)
    }
}

impl Peer {
    fn client(&self) -> MetricsClient {
        MetricsClient::builder("peer").connector(self.clone()).connect_lazy().unwrap()
    }

    fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
        if is_away {
            self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
        }
    }

    /// Returns the seconds of a key.
    async fn seconds(&self, key: &str) -> Vec<i64> {
        let metrics = self.client().get(key).await.unwrap();
        metrics.points(key).iter().map(|point| point.timestamp).collect()
    }
}

/// A clock of a host: that of Tokio, set to another time of day.
#[derive(Clone)]
struct SetClock {
    begin: Instant,
    set_by: Arc<AtomicI64>,
}

impl SetClock {
    /// Returns a clock that says this second now.
    fn new(second: i64) -> Self {
        Self { begin: Instant::now(), set_by: Arc::new(second.into()) }
    }

    /// Sets it by this many seconds, as a host does that was suspended.
    fn set_by(&self, seconds: i64) {
        self.set_by.fetch_add(seconds, Ordering::Relaxed);
    }

    fn wall(&self) -> WallClock {
        let clock = self.clone();
        Arc::new(move || -> SystemTime {
            let set_by = Duration::from_secs(clock.set_by.load(Ordering::Relaxed).unsigned_abs());
            UNIX_EPOCH + set_by + clock.begin.elapsed()
        })
    }
}

fn settings(interval: u32) -> AgentSettings {
    let schedule = Schedule::new(interval * SECOND, Duration::ZERO);
    let names = Names::new("palm", KeyStyle::Dotted, [], Filter::default()).unwrap();
    AgentSettings { schedule, names }
}

fn agent(interval: u32, reporter: Reporter, clock: &SetClock) -> Agent {
    Agent::new(settings(interval), reporter, clock.wall(), Host::new)
}

/// Runs the agent for this long.
async fn run(agent: &mut Agent, length: Duration) {
    let _ = time::timeout(length, agent.run()).await;
}

#[tokio::test(start_paused = true)]
async fn points_have_due_seconds() {
    let (peer, clock) = (Peer::default(), SetClock::new(1003));
    let mut agent = agent(10, Reporter::new(peer.client()), &clock);
    run(&mut agent, 35 * SECOND).await;
    agent.reporter().flush(SECOND).await.unwrap();
    for key in ["palm.uptime", "palm.memory", "palm.agent.acknowledged"] {
        assert_eq!(peer.seconds(key).await, [1010, 1020, 1030], "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn suspended_host_sends_no_burst() {
    let (peer, clock) = (Peer::default(), SetClock::new(1000));
    let mut agent = agent(10, Reporter::new(peer.client()), &clock);
    run(&mut agent, 15 * SECOND).await;
    clock.set_by(8 * 3600);
    run(&mut agent, 20 * SECOND).await;
    agent.reporter().flush(SECOND).await.unwrap();
    let resumed = 8 * 3600;
    assert_eq!(
        peer.seconds("palm.uptime").await,
        [1010, resumed + 1010, resumed + 1020, resumed + 1030]
    );
}

#[tokio::test(start_paused = true)]
async fn clock_set_back_sends_no_burst() {
    let (peer, clock) = (Peer::default(), SetClock::new(10_000));
    let mut agent = agent(10, Reporter::new(peer.client()), &clock);
    run(&mut agent, 15 * SECOND).await;
    clock.set_by(-5000);
    run(&mut agent, 20 * SECOND).await;
    agent.reporter().flush(SECOND).await.unwrap();
    assert_eq!(peer.seconds("palm.uptime").await, [5010, 5020, 5030, 10_010]);
    let metrics = peer.client().get_all().await.unwrap();
    let negative = metrics.iter().find(|(_, points)| points.iter().any(|point| point.value < 0.0));
    assert!(negative.is_none(), "{negative:?}");
}

/// An hour, or as many as the environment says: `METRICS_TEST_OUTAGE_HOURS=24`.
#[tokio::test(start_paused = true)]
async fn outage_is_replayed_without_a_gap() {
    let hours =
        std::env::var("METRICS_TEST_OUTAGE_HOURS").map_or(1, |hours| hours.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (peer, clock) = (Peer::default(), SetClock::new(1_000_000));
    let spool = Spool::dir(folder.path());
    let reporter = Reporter::builder(peer.client()).spool(spool).unwrap().start();
    let mut agent = agent(10, reporter, &clock);
    run(&mut agent, 300 * SECOND).await;
    peer.set_away(true);
    run(&mut agent, hours * 3600 * SECOND).await;
    let spooled = agent.reporter().stats().spooled;
    assert!(spooled > u64::from(hours) * 360 * 10, "{spooled}");
    peer.set_away(false);
    run(&mut agent, 600 * SECOND).await;
    agent.reporter().flush(600 * SECOND).await.unwrap();
    let seconds = peer.seconds("palm.uptime").await;
    assert!(seconds.len() >= hours as usize * 360 + 80, "{}", seconds.len());
    assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] == 10), "there is a gap");
    let stats = agent.reporter().stats();
    assert_eq!((stats.dropped.total(), stats.rejected), (0, 0), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn dropped_run_continues_with_its_measurement() {
    let (peer, clock) = (Peer::default(), SetClock::new(1000));
    let mut agent = agent(10, Reporter::new(peer.client()), &clock);
    // Dropped at each await, in particular while the host is measured.
    for _ in 0..395 {
        run(&mut agent, Duration::from_millis(100)).await;
    }
    agent.reporter().flush(SECOND).await.unwrap();
    assert_eq!(peer.seconds("palm.uptime").await, [1010, 1020, 1030]);
}

#[tokio::test(start_paused = true)]
async fn settings_change_while_counters_continue() {
    let (peer, clock) = (Peer::default(), SetClock::new(1000));
    let mut agent = agent(10, Reporter::new(peer.client()), &clock);
    run(&mut agent, 15 * SECOND).await;
    agent.set_settings(AgentSettings {
        names: Names::new("eardrum", KeyStyle::Labels, [], Filter::default()).unwrap(),
        ..settings(5)
    });
    run(&mut agent, 11 * SECOND).await;
    agent.reporter().flush(SECOND).await.unwrap();
    assert_eq!(peer.seconds("palm.uptime").await, [1010]);
    assert_eq!(peer.seconds("processes.started;host=eardrum").await, [1015, 1020, 1025]);
}

/// Creates a `/proc` whose `uptime` is a FIFO: a read blocks until it is written to, as on a disk that hangs.
fn hanging_proc() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("uptime");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    dir
}

/// Runs the agent while this time passes, in steps: a call that blocks holds up the paused clock.
async fn run_in_steps(agent: &mut Agent, seconds: u32) {
    let mut run = std::pin::pin!(agent.run());
    for _ in 0..10 * seconds {
        tokio::select! {
            biased;
            _ = &mut run => {}
            () = time::advance(SECOND / 10) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn host_that_hangs_holds_up_nothing_else() {
    let (peer, clock, dir) = (Peer::default(), SetClock::new(1000), hanging_proc());
    let proc = dir.path().to_owned();
    let new_host = {
        let proc = proc.clone();
        move || Host::with_roots(&proc, proc.join("sys"))
    };
    let reporter = Reporter::new(peer.client());
    let mut agent = Agent::new(settings(10), reporter, clock.wall(), new_host);
    agent.set_statsd(Some(Statsd::start(Default::default()).unwrap()));
    run_in_steps(&mut agent, 39).await;
    assert_eq!(agent.late, 3);
    // The disk is back, and what has waited is released.
    std::fs::write(proc.join("new"), "5 5\n").unwrap();
    let fifo = std::fs::OpenOptions::new().write(true).open(proc.join("uptime")).unwrap();
    std::fs::rename(proc.join("new"), proc.join("uptime")).unwrap();
    drop(fifo);
    run(&mut agent, 30 * SECOND).await;
    agent.reporter().flush(SECOND).await.unwrap();
    assert_eq!(agent.late, 3);
    assert_eq!(peer.seconds("palm.uptime").await, [1040, 1050, 1060]);
    let seconds = peer.seconds("palm.agent.statsd.lines").await;
    assert_eq!(seconds, [1010, 1020, 1030, 1040, 1050, 1060]);
}
