//! What the rows have in common.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

pub(super) use metrics_client::{
    Error, MetricsClient, Reporter,
    opentelemetry::MetricExporter,
    recorder::{CounterMode, MetricsRecorder, RecorderBuilder},
    reporter::{FlushGuard, ReporterBuilder, ReporterStats},
    spool::Spool,
};
pub(super) use metrics_server::{
    Limits, MemoryStore, Server, Store,
    stats::StatsHandle,
    store::{MemorySnapshot, PutBatch, StoreError},
    tls::TlsAcceptor,
};
use tokio::runtime::{Builder, Runtime};

use super::{Outcome, ROW, in_shell};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// A server on a thread of its own. It runs to the end of the process.
pub(super) fn serve<S: Store>(store: S, limits: Limits) -> io::Result<(SocketAddr, StatsHandle)> {
    let (started, served) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0").await?.store(store).limits(limits);
            let _ = started.send((server.local_addr(), server.stats_handle()));
            server.serve().await;
            Ok::<(), io::Error>(())
        })
    });
    served.recv().map_err(io::Error::other)
}

/// A server that stores.
pub(super) fn memory() -> io::Result<SocketAddr> {
    Ok(serve(MemoryStore::new(), Limits::default())?.0)
}

/// A peer that answers the lines of each connection as `answer` says, until that is `None`.
pub(super) fn peer(
    answer: impl Fn(&str) -> Option<&'static [u8]> + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for mut io in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                for line in BufReader::new(io.try_clone()?).lines() {
                    match answer(&line?) {
                        Some(answer) => io.write_all(answer)?,
                        None => loop {
                            thread::park();
                        },
                    }
                }
                Ok::<(), io::Error>(())
            });
        }
    });
    Ok(addr)
}

/// An address where no process listens.
pub(super) fn nowhere() -> &'static str {
    "127.0.0.1:1"
}

/// Must be called on a runtime.
pub(super) fn lazy(addr: impl ToString) -> Result<MetricsClient, Error> {
    MetricsClient::builder(addr.to_string()).connect_lazy()
}

/// A recorder that reports each second.
pub(super) fn recorder(reporter: Reporter) -> Result<RecorderBuilder, Failure> {
    Ok(MetricsRecorder::builder(reporter).interval(SECOND)?)
}

pub(super) type Failure = Box<dyn std::error::Error>;

pub(super) fn start(builder: RecorderBuilder) -> MetricsRecorder {
    builder.start()
}

pub(super) fn by_rate(builder: RecorderBuilder) -> RecorderBuilder {
    builder.counter_mode(CounterMode::Rate)
}

pub(super) fn with_spool(builder: ReporterBuilder, spool: Spool) -> Result<Reporter, Failure> {
    Ok(builder.spool(spool)?.start())
}

pub(super) fn idle_after(limits: Limits, time: Duration) -> Limits {
    limits.idle_timeout(time)
}

pub(super) fn store_within(limits: Limits, time: Duration) -> Limits {
    limits.store_timeout(time)
}

pub(super) fn grace(limits: Limits, time: Duration) -> Limits {
    limits.shutdown_grace(time)
}

/// A failure that passes.
pub(super) fn disk_full() -> StoreError {
    StoreError::transient("disk full")
}

/// All puts are stored but one.
pub(super) fn all_but(index: usize) -> StoreError {
    StoreError::of_puts([(index, StoreError::new("no such tenant"))])
}

/// What the log says, from now on.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(super) fn start() -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        lines
    }

    /// The number of lines that contain this.
    pub(super) fn with(&self, text: &str) -> usize {
        self.all().lines().filter(|line| line.contains(text)).count()
    }

    pub(super) fn all(&self) -> String {
        let lines = self.0.lock().map(|lines| lines.clone()).unwrap_or_default();
        String::from_utf8_lossy(&lines).into_owned()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends this text over a connection of its own, and returns what has come after `time`.
pub(super) fn talk(addr: SocketAddr, text: &str, time: Duration) -> io::Result<String> {
    let mut io = TcpStream::connect(addr)?;
    io.write_all(text.as_bytes())?;
    Ok(read_for(&mut io, time))
}

/// Reads until the end, or until nothing comes for this long.
pub(super) fn read_for(io: &mut TcpStream, time: Duration) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    // It fails for no duration but zero.
    let _ = io.set_read_timeout(Some(time));
    while let Ok(len @ 1..) = io.read(&mut piece) {
        said.extend_from_slice(&piece[..len]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// A server in a process of its own, which ends with this value.
pub(super) struct FaultServer {
    process: Child,
    pub(super) addr: SocketAddr,
}

impl FaultServer {
    /// Starts the row `name`, which is a server, behind a command of the shell.
    pub(super) fn start(name: &str, before: &str) -> Result<Self, Failure> {
        let mut command = in_shell("env", &[], before)?;
        let mut process =
            command.env(ROW, name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        Ok(Self { process, addr: line.trim().parse()? })
    }

    pub(super) fn signal(&self, signal: &str) -> Result<(), Failure> {
        let id = self.process.id().to_string();
        std::process::Command::new("kill").args([signal, &id]).status()?;
        Ok(())
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        // Nothing is left to do where it fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until the process is killed, after a line that says where.
pub(super) fn serve_process(limits: Limits) -> Outcome {
    let (addr, _) = serve(MemoryStore::new(), limits)?;
    println!("{addr}");
    loop {
        thread::park();
    }
}

/// How a call has ended, and when.
pub(super) fn ended<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    result.as_ref().map_or_else(|error| format!("Err({error})"), |_| "Ok".into())
}

/// What is said of an interval of 100 milliseconds. Must be called on a runtime.
pub(super) fn short_interval() -> Outcome {
    let builder = MetricsRecorder::builder(Reporter::new(lazy(nowhere())?));
    Ok(ended(&builder.interval(SECOND / 10)))
}

pub(super) fn scope_labels(exporter: MetricExporter) -> MetricExporter {
    exporter.scope_labels(true)
}

pub(super) fn spool_dir(path: impl AsRef<std::path::Path>) -> Spool {
    Spool::dir(path)
}

pub(super) fn guard(reporter: &Reporter, limit: Duration) -> FlushGuard {
    reporter.flush_on_drop(limit)
}

pub(super) fn in_other_hands(stats: &ReporterStats) -> String {
    format!("{} counted as abandoned", stats.abandoned)
}

/// On how many addresses the server listens.
pub(super) fn listening<S: Store>(server: &Server<S>) -> usize {
    server.local_addrs().len()
}

/// What the server counts as failed handshakes.
pub(super) fn failures<S: Store>(server: &Server<S>) -> impl Fn() -> String + use<S> {
    let stats = server.stats_handle();
    move || format!("counted as {}", stats.stats().failed_handshakes)
}
