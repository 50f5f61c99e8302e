//! A server in a process of its own.
//!
//! It must not share the process with what sends and reads: its threads and its memory are what is
//! measured. So the bench program starts itself once more. It ends when its standard input does: also
//! when the bench program is killed.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
};

use metrics_client::Selector;
use metrics_server::{
    MemoryStore, Server, Store,
    graphite::{GraphiteListener, RenderLimits},
    http::{Access, HttpLimits, HttpServer},
    store::{DiskStore, MemorySnapshot, PutBatch, StoreError, Tee},
};
use tokio::{runtime::Runtime, sync::oneshot};

use crate::Outcome;

/// The environment variable that makes the bench program a server: the folder of its store, or one of these.
const STORE: &str = "METRICS_BENCH_STORE";
const MEMORY: &str = "memory:";
const NOTHING: &str = "nothing:";

/// The environment variable that makes it serve HTTP too.
const HTTP: &str = "METRICS_BENCH_HTTP";

/// A running server; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    output: BufReader<ChildStdout>,
    /// Where the protocol is served, and after it HTTP and Graphite, by a server that has them.
    addrs: Vec<SocketAddr>,
}

impl Peer {
    /// Starts a server with a `MemoryStore`.
    pub(crate) fn memory() -> io::Result<Self> {
        Self::start(MEMORY.into())
    }

    /// Starts a server with a store that does nothing.
    pub(crate) fn nothing() -> io::Result<Self> {
        Self::start(NOTHING.into())
    }

    /// Starts a server with a `DiskStore` in a folder.
    pub(crate) fn disk(dir: &Path) -> io::Result<Self> {
        Self::start(dir.into())
    }

    /// Starts a server with a `MemoryStore` that serves HTTP too.
    pub(crate) fn memory_with_http() -> io::Result<Self> {
        Self::start_command(Command::new(env::current_exe()?).env(STORE, MEMORY).env(HTTP, "yes"))
    }

    fn start(store: OsString) -> io::Result<Self> {
        Self::start_command(Command::new(env::current_exe()?).env(STORE, store))
    }

    fn start_command(command: &mut Command) -> io::Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut ports = String::new();
        output.read_line(&mut ports)?;
        let addrs = ports
            .split_whitespace()
            .map(|port| Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()));
        let addrs: Option<Vec<_>> = addrs.collect();
        let addrs = addrs.filter(|addrs| !addrs.is_empty());
        Ok(Self {
            process,
            output,
            addrs: addrs.ok_or_else(|| io::Error::other("the peer names no port"))?,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Returns where Graphite's lines are taken, by a peer with HTTP.
    pub(crate) fn graphite_addr(&self) -> SocketAddr {
        self.addrs[2]
    }

    pub(crate) fn http_addr(&self) -> SocketAddr {
        self.addrs[1]
    }

    /// Returns the memory that the process has, and the most that it ever had, in bytes.
    pub(crate) fn memory_bytes(&self) -> io::Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        // Lines such as `VmRSS:     4092 kB`; see proc_pid_status(5).
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        };
        field("VmRSS:")
            .zip(field("VmHWM:"))
            .ok_or_else(|| io::Error::other("the memory of the peer cannot be read"))
    }

    /// Stops the server as a signal does: the store is closed. Returns its statistics.
    pub(crate) fn stop(mut self) -> io::Result<String> {
        drop(self.process.stdin.take());
        let mut last = String::new();
        self.output.read_to_string(&mut last)?;
        Ok(last)
    }

    /// Kills the process with `SIGKILL`.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nothing is left to do for a process that cannot be waited for.
        self.process.wait().ok();
    }
}

/// Serves until standard input ends, if this process was started for it, and says whether it was.
pub(crate) fn serve_if_asked() -> Outcome<bool> {
    let Some(dir) = env::var_os(STORE) else { return Ok(false) };
    Runtime::new()?.block_on(async {
        if dir == MEMORY {
            let store = MemoryStore::new().max_bytes(usize::MAX);
            if env::var_os(HTTP).is_some() {
                return serve_with_http(store).await;
            }
            return serve(store).await;
        }
        if dir == NOTHING {
            return serve(Nothing(MemoryStore::new().max_bytes(usize::MAX))).await;
        }
        let store = Arc::new(DiskStore::open(dir).await?);
        serve(Arc::clone(&store)).await?;
        let stats = store.stats();
        store.close().await;
        println!("{} syncs, {} seals", stats.syncs, stats.seals);
        Ok(())
    })?;
    Ok(true)
}

async fn serve(store: impl Store) -> Outcome {
    let server = Server::bind("127.0.0.1:0").await?.store(store);
    println!("{}", server.local_addr().port());
    server.serve_until(end_of_input()).await;
    Ok(())
}

/// Serves the protocol, HTTP and Graphite from one store, as `metrics serve --http` does.
async fn serve_with_http(store: impl Store) -> Outcome {
    let store = Tee::new(Arc::new(store), 1024);
    let server = Server::bind("127.0.0.1:0").await?.store(store.clone());
    // All clients of a bench have one address.
    let limits = HttpLimits::default().max_connections_per_address(2_000);
    let http =
        HttpServer::bind("127.0.0.1:0", store.clone(), Access::Loopback).await?.limits(limits);
    let http = http.graphite(RenderLimits::default()).protocol_stats(server.stats_handle());
    let http = http.influx();
    let graphite = GraphiteListener::bind("127.0.0.1:0").await?.store(store);
    let addrs = [server.local_addr(), http.local_addr(), graphite.local_addr()];
    println!("{}", addrs.map(|addr| addr.port().to_string()).join(" "));
    tokio::select! {
        () = server.serve() => {}
        () = http.serve() => {}
        () = graphite.serve() => {}
        () = end_of_input() => {}
    }
    Ok(())
}

/// Completes when standard input ends.
async fn end_of_input() {
    let (end, ended) = oneshot::channel();
    thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        end.send(()).ok();
    });
    _ = ended.await;
}

/// A store that forgets what it is given: what the server costs without one.
struct Nothing(MemoryStore);

impl Store for Nothing {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, _: &PutBatch) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.0.get(selector).await
    }
}
