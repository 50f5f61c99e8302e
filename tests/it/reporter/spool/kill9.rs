//! Agent and server as processes that are killed at random.
//!
//! `METRICS_TEST_KILLS=n` makes it that many kills, `METRICS_TEST_KILL_SEED=n` repeats one order of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use metrics_client::{
    MetricsClient, Reporter, Selector,
    client::{Address, Connector, Pipelining, ReconnectPolicy},
    spool::{Spool, SpoolError},
};
use metrics_server::{
    Limits, serve_connection,
    store::{MemorySnapshot, MemoryStore, PutBatch, Store, StoreError},
};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    time,
};

use super::accounted;
use crate::child_test::child_test;

const FOLDER: &str = "METRICS_TEST_CHILD_FOLDER";
const FROM: &str = "METRICS_TEST_CHILD_FROM";

/// A limit that is reached only on failure.
const LIMIT: Duration = Duration::from_secs(120);

const KEYS: u64 = 50;
/// How many values each second of a key has.
const VALUES: u64 = 10;

#[test]
fn kill9_loses_no_spooled_sample() {
    let kills = env::var("METRICS_TEST_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let seed = env::var("METRICS_TEST_KILL_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    // Shown if it fails.
    println!("METRICS_TEST_KILL_SEED={seed}");
    let folder = TempDir::new().unwrap();
    let mut world = Harness::new(folder.path(), seed);
    for _ in 0..kills {
        world.turn();
    }
    world.finish();
    world.check();
}

#[test]
fn spool_lock_ends_with_its_process() {
    let folder = TempDir::new().unwrap();
    let mut agent = RoleProcess::start("child_agent", folder.path(), Some(0));
    while !agent.lines.recv_timeout(LIMIT).unwrap().starts_with("recording") {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let client = MetricsClient::builder("nobody:1").connect_lazy().unwrap();
    let open = || Reporter::builder(client.clone()).spool(Spool::dir(folder.path().join("spool")));
    assert!(matches!(open(), Err(SpoolError::InUse { .. })));
    agent.kill();
    assert!(open().is_ok());
}

/// The running processes, and what the agents have reported.
struct Harness {
    folder: PathBuf,
    rng: Rng,
    server: Option<RoleProcess>,
    agent: Option<RoleProcess>,
    /// The number of the next sample that no agent has recorded.
    next: u64,
    /// The samples that an agent has reported as stored or spooled.
    safe: BTreeSet<u64>,
    agents: u64,
    servers: u64,
}

impl Harness {
    fn new(folder: &Path, seed: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            rng: Rng::with_seed(seed),
            server: None,
            agent: None,
            next: 0,
            safe: BTreeSet::new(),
            agents: 0,
            servers: 0,
        }
    }

    /// Waits for a moment, and then kills the agent or the server.
    fn turn(&mut self) {
        if self.agent.is_none() {
            self.agents += 1;
            self.agent = Some(RoleProcess::start("child_agent", &self.folder, Some(self.next)));
        }
        if self.server.is_none() && self.rng.u8(..4) > 0 {
            self.servers += 1;
            self.server = Some(RoleProcess::start("child_server", &self.folder, None));
        }
        let life = Duration::from_millis(self.rng.u64(..500));
        self.listen(life);
        match self.rng.u8(..10) {
            0..4 => self.kill_agent(),
            4..7 => drop(self.server.take()),
            7 => {
                drop(self.server.take());
                self.kill_agent();
            }
            // It neither answers nor goes away.
            _ => {
                if let Some(server) = &self.server {
                    server.signal("STOP");
                    let silence = Duration::from_millis(self.rng.u64(..1500));
                    self.listen(silence);
                    if let Some(server) = &self.server {
                        server.signal("CONT");
                    }
                }
            }
        }
    }

    fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
            for line in &agent.lines {
                self.heard(&line);
            }
        }
    }

    fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(agent) = &self.agent {
            match agent.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.heard(&line),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("the agent has ended by itself"),
            }
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
    }

    fn heard(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["recording", end] => self.next = end.parse().unwrap(),
            ["safe", from, end] => {
                let (from, end): (u64, u64) = (from.parse().unwrap(), end.parse().unwrap());
                self.safe.extend(from..end);
            }
            ["dropped", ref what @ ..] => panic!("the agent drops samples: {what:?}"),
            _ => {}
        }
    }

    /// Runs agent and server until no sample waits.
    fn finish(&mut self) {
        self.kill_agent();
        if self.server.is_none() {
            self.server = Some(RoleProcess::start("child_server", &self.folder, None));
        }
        let agent = RoleProcess::start("child_agent", &self.folder, Some(u64::MAX));
        let mut last = (String::new(), Instant::now());
        while last.0 != "drained" {
            let line = agent.lines.recv_timeout(LIMIT).expect("the agent is silent");
            if line != last.0 {
                last = (line, Instant::now());
            }
            assert!(last.1.elapsed() < LIMIT, "it does not drain: {last:?}");
        }
    }

    fn check(&self) {
        let log = fs::read(self.folder.join("stored")).unwrap();
        let mut stored = BTreeSet::new();
        let mut last = BTreeMap::new();
        for line in String::from_utf8_lossy(&log).lines() {
            // What was being written when the server was killed has no end.
            let Some(put) = line.strip_suffix(';') else { continue };
            let [key, value, second] = put.split(' ').collect::<Vec<_>>()[..] else { continue };
            let (Ok(number), Ok(second)) = (value.parse::<f64>(), second.parse::<u64>()) else {
                continue;
            };
            stored.insert(number as u64);
            last.insert((key.to_owned(), second), number as u64);
        }
        let missing: Vec<_> = self.safe.difference(&stored).collect();
        println!(
            "{} agents, {} servers, {} samples recorded, {} safe, {} stored",
            self.agents,
            self.servers,
            self.next,
            self.safe.len(),
            stored.len()
        );
        assert!(missing.is_empty(), "{} samples are missing: {missing:?}", missing.len());
        assert!(!self.safe.is_empty());
        for &number in &self.safe {
            let last = last[&(key(number), second(number))];
            assert!(last >= number, "{last} has replaced {number}, which is newer");
        }
    }
}

/// A process, which is killed when this is dropped.
struct RoleProcess {
    child: Child,
    lines: Receiver<String>,
}

impl RoleProcess {
    /// Starts one of the roles below.
    fn start(role: &str, folder: &Path, from: Option<u64>) -> Self {
        let mut command = child_test(module_path!(), role);
        command.env(FOLDER, folder).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(from) = from {
            command.env(FROM, from.to_string());
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(number: u64) -> String {
    format!("agent.k{}", number % KEYS)
}

fn second(number: u64) -> u64 {
    number / (KEYS * VALUES)
}

fn folder() -> PathBuf {
    env::var_os(FOLDER).expect("it is started by the test of the kills").into()
}

#[test]
#[ignore = "a role in the test of the kills, which starts it"]
fn child_agent() {
    let from: u64 = env::var(FROM).unwrap().parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = MetricsClient::builder("the server")
            .connector(SocketConnector(folder().join("socket")))
            .pipelining(Pipelining::On)
            .reconnect(ReconnectPolicy::backoff(
                Duration::from_millis(1),
                Duration::from_millis(50),
            ))
            .connect_lazy()
            .unwrap();
        let spool = Spool::dir(folder().join("spool")).spill_after(Duration::from_millis(50));
        let reporter = Reporter::builder(client).spool(spool).unwrap().start();
        if from == u64::MAX {
            let mut samples = accounted(&reporter).spooled;
            while samples > 0 {
                say(format_args!("spooled {samples}"));
                time::sleep(Duration::from_millis(100)).await;
                samples = accounted(&reporter).spooled;
            }
            return say("drained");
        }
        let mut next = from;
        loop {
            let first = next;
            // Some of it within one wait, some of it while what came before is being sent.
            for _ in 0..fastrand::u32(1..20) {
                let end = next + fastrand::u64(1..300);
                say(format_args!("recording {end}"));
                for number in next..end {
                    reporter.record_at(key(number), number as f64, second(number) as i64);
                }
                next = end;
                time::sleep(Duration::from_millis(fastrand::u64(..5))).await;
            }
            while accounted(&reporter).waiting > 0 {
                time::sleep(Duration::from_millis(1)).await;
            }
            let dropped = accounted(&reporter).dropped;
            if dropped.total() > 0 {
                say(format_args!("dropped {dropped:?}"));
            }
            say(format_args!("safe {first} {next}"));
        }
    });
}

/// Reports something to the test at once, so that it is not lost if this process is killed.
fn say(what: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}").unwrap();
    out.flush().unwrap();
}

/// Dials a Unix socket: its name stays the same when another server has it.
struct SocketConnector(PathBuf);

impl Connector for SocketConnector {
    type Io = UnixStream;

    async fn connect(&self, _address: &Address) -> io::Result<UnixStream> {
        UnixStream::connect(&self.0).await
    }
}

#[test]
#[ignore = "a role in the test of the kills, which starts it"]
fn child_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = folder().join("socket");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let mut log =
            OpenOptions::new().append(true).create(true).open(folder().join("stored")).unwrap();
        // Behind what another one was writing when it was killed.
        log.write_all(b"\n").unwrap();
        let store = std::sync::Arc::new(Logged { log, memory: MemoryStore::new() });
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_connection(io, store.clone(), Limits::default()));
        }
    });
}

/// Writes down each put before it is acknowledged.
struct Logged {
    log: File,
    memory: MemoryStore,
}

impl Store for Logged {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        let mut lines = String::new();
        for (key, point) in puts {
            lines += &format!("{key} {} {};\n", point.value, point.timestamp);
        }
        (&self.log).write_all(lines.as_bytes()).unwrap();
        self.memory.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.memory.get(selector).await
    }
}
