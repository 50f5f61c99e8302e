//! Puts while browsers watch: a thousand streams of server-sent events, each with keys of its own.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::oneshot,
    task::JoinSet,
};

use crate::{
    Outcome,
    load::Load,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::name,
};

/// The connections that put, and the keys of each.
const CONNECTIONS: usize = 64;
const KEYS: usize = 10;
/// How many keys a browser watches: its charts, and the part of the list that can be seen.
const WATCHED: usize = 40;

pub(super) fn run(options: &Options, report: &mut Report) -> Outcome {
    let browsers = options.choose(20, 200, 1_000);
    let rounds = options.choose(1, 3, 11);
    let time = Duration::from_millis(options.choose(100, 1_000, 2_000));
    let peer = Peer::memory_with_http()?;
    let mut load = Load::connect(peer.addr(), CONNECTIONS, KEYS)?;
    let mut paced = (Vec::new(), Vec::new());
    let mut unpaced = (Vec::new(), Vec::new());
    let (mut events, mut idle_memory, mut memory) = (0.0, 0, 0);
    for _ in 0..rounds {
        paced.1.push(load.run_at(100_000.0, time)?);
        unpaced.1.push(load.run(time)?);
        if memory == 0 {
            idle_memory = peer.memory_bytes()?.0;
        }
        let watching = Browsers::open(peer.http_addr(), browsers)?;
        let (begin, before) = (Instant::now(), watching.bytes());
        paced.0.push(load.run_at(100_000.0, time)?);
        events = (watching.bytes() - before) as f64 / begin.elapsed().as_secs_f64();
        unpaced.0.push(load.run(time)?);
        if memory == 0 {
            memory = peer.memory_bytes()?.0;
        }
    }
    let what = |how: &str| format!("{how}, {browsers} live browsers");
    for (how, (with, without)) in
        [("100,000 puts/s", &paced), ("puts, 64 connections × 10", &unpaced)]
    {
        let row = Row::rounds(what(how), Unit::Rate, with, "no browser", without);
        report.push(row.bar(Bar::RatioAtLeast(0.8)));
    }
    let grown = memory.saturating_sub(idle_memory) as f64;
    let row = Row::new(what("memory of the server more"), Unit::MiB, grown / f64::from(1 << 20));
    report.push(row.bar(Bar::AtMost(128.0)));
    report.note(format!(
        "Each browser watches {WATCHED} keys, all of which change; together they read {:.1} MB/s of events on the same two cores, \
         {:.1} KiB of memory each.",
        events / 1e6,
        grown / 1024.0 / browsers as f64
    ));
    Ok(())
}

/// Streams that are read as fast as they come, on a thread of their own; they end when dropped.
struct Browsers {
    bytes: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Browsers {
    fn open(addr: SocketAddr, count: usize) -> Outcome<Self> {
        let (end, ended) = oneshot::channel();
        let (opened, are_open) = std::sync::mpsc::channel();
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut streams = JoinSet::new();
                let mut result = Ok(());
                for browser in 0..count {
                    match watch(addr, browser).await {
                        Ok(stream) => {
                            streams.spawn(read(stream, Arc::clone(&counter)));
                        }
                        Err(error) => result = Err(error),
                    }
                }
                opened.send(result).ok();
                ended.await.ok();
            });
        });
        let browsers = Self { bytes, end: Some(end), thread: Some(thread) };
        are_open.recv()??;
        Ok(browsers)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Browsers {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("reading does not panic");
        }
    }
}

/// Opens the stream of one browser.
async fn watch(addr: SocketAddr, browser: usize) -> io::Result<TcpStream> {
    let keys = (0..WATCHED).map(|at| name((browser * 7 + at * 13) % (CONNECTIONS * KEYS)));
    let keys: Vec<_> = keys.map(|key| format!("key={key}")).collect();
    let mut stream = TcpStream::connect(addr).await?;
    let request =
        format!("GET /api/v1/live?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", keys.join("&"));
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    if head == *b"HTTP/1.1 200" { Ok(stream) } else { Err(io::Error::other("no stream")) }
}

async fn read(mut stream: TcpStream, bytes: Arc<AtomicU64>) {
    let mut block = vec![0; 16 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut block).await {
        bytes.fetch_add(len as u64, Ordering::Relaxed);
    }
}
