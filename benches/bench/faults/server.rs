//! The server: S1, S2, S5 to S8, S10 to S14.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use metrics_client::Selector;
use tokio::{
    net::{TcpSocket, lookup_host},
    sync::oneshot,
    time::sleep,
};

use super::{
    IMPATIENT_SERVER, Outcome, SERVER,
    support::{
        Failure, FaultServer, Limits, Lines, MemorySnapshot, MemoryStore, PutBatch, Reporter,
        SECOND, Server, Store, StoreError, TlsAcceptor, all_but, disk_full, failures, grace,
        idle_after, lazy, listening, memory, read_for, runtime, serve as serve_in_thread,
        serve_process, spool_dir, store_within, talk, with_spool,
    },
};

pub(super) fn serve() -> Outcome {
    serve_process(Limits::default())
}

pub(super) fn serve_impatiently() -> Outcome {
    serve_process(idle_after(Limits::default(), SECOND))
}

pub(super) fn frozen_process() -> Outcome {
    const PEERS: usize = 100;
    let server = FaultServer::start(IMPATIENT_SERVER, "true")?;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut io = TcpStream::connect(server.addr)?;
        io.write_all(b"put a 1 1\n")?;
        io.read_exact(&mut [0; 4])?;
        peers.push(io);
    }
    server.signal("-STOP")?;
    // In time.
    thread::sleep(SECOND / 5);
    for io in &mut peers {
        io.write_all(b"put a 1 2\n")?;
    }
    thread::sleep(3 * SECOND);
    server.signal("-CONT")?;
    let answered = peers
        .iter_mut()
        .filter_map(|io| (read_for(io, SECOND / 2) == "ok\n\n").then_some(()))
        .count();
    Ok(format!("{answered} of {PEERS} peers that wrote in time are answered"))
}

pub(super) fn gets_of_a_full_store() -> Outcome {
    let lines = Lines::start();
    let (addr, _) = serve_in_thread(MemoryStore::new().max_bytes(0), Limits::default())?;
    let mut io = TcpStream::connect(addr)?;
    for second in 0..200 {
        // The first finds an empty store.
        io.write_all(format!("put a 1 {second}\nget b\n").as_bytes())?;
        read_for(&mut io, SECOND / 10);
    }
    let all = lines.all();
    Ok(format!(
        "{} lines for 200 puts and gets in 20 s",
        all.lines().filter(|line| !line.contains("serving")).count()
    ))
}

/// A store that can be made to fail.
struct Failing {
    inner: MemoryStore,
    fails: AtomicBool,
}

impl Store for Failing {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(disk_full());
        }
        self.inner.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.inner.get(selector).await
    }
}

pub(super) fn store_that_fails_for_a_while() -> Outcome {
    let store = Arc::new(Failing { inner: MemoryStore::new(), fails: AtomicBool::new(false) });
    let (addr, _) = serve_in_thread(Arc::clone(&store), Limits::default())?;
    let dir = tempfile::tempdir()?;
    runtime()?.block_on(async {
        let client = lazy(addr)?;
        let reporter = with_spool(Reporter::builder(client.clone()), spool_dir(dir.path()))?;
        for second in 0..6000 {
            store.fails.store((2000..4000).contains(&second), Ordering::Relaxed);
            reporter.record_at("a", 1.0, second);
            if second % 10 == 9 {
                sleep(Duration::from_millis(10)).await;
            }
        }
        let _ = reporter.close(30 * SECOND).await;
        let stored = client.get("a").await?.points("a").len();
        Ok(format!("{stored} of 6,000 samples stored"))
    })
}

pub(super) fn few_descriptors() -> Outcome {
    const PEERS: usize = 1100;
    let server = FaultServer::start(SERVER, "ulimit -n 1024")?;
    rlimit::increase_nofile_limit(PEERS as u64 + 100)?;
    runtime()?.block_on(async {
        let mut peers = Vec::new();
        let mut served = 0;
        for _ in 0..PEERS {
            let mut io = TcpStream::connect(server.addr)?;
            io.write_all(b"get a\n")?;
            io.set_read_timeout(Some(SECOND / 2))?;
            served += usize::from(io.read_exact(&mut [0; 4]).is_ok());
            peers.push(io);
            if peers.len() > served + 20 {
                break;
            }
        }
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.2:0".parse()?)?;
        let mut other = socket.connect(server.addr).await?.into_std()?;
        other.set_nonblocking(false)?;
        other.write_all(b"get a\n")?;
        let other =
            if read_for(&mut other, 2 * SECOND).is_empty() { "no answer" } else { "an answer" };
        Ok(format!("one address holds {served} connections, another has {other}"))
    })
}

/// A store that never ends a put.
struct Hanging;

impl Store for Hanging {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, _: &PutBatch) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        MemoryStore::new().get(selector).await
    }
}

pub(super) fn store_that_hangs() -> Outcome {
    const PEERS: usize = 50;
    let limits = store_within(Limits::default(), 2 * SECOND);
    let (addr, stats) = serve_in_thread(Hanging, limits)?;
    for _ in 0..PEERS {
        TcpStream::connect(addr)?.write_all(b"put a 1 1\n")?;
    }
    thread::sleep(8 * SECOND);
    Ok(format!(
        "{} of {PEERS} connections of peers that are gone are open after 8 s",
        stats.stats().connections
    ))
}

pub(super) fn http_with_a_put() -> Outcome {
    let addr = memory()?;
    talk(addr, "POST / HTTP/1.1\r\nHost: localhost\r\n\r\nput a 1 1\n", SECOND)?;
    let stored = talk(addr, "get a\n", SECOND)?.contains("a 1.0 1");
    Ok(if stored { "the put is carried out" } else { "the put is not carried out" }.into())
}

/// A store that rejects one key.
struct Picky;

impl Store for Picky {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        match puts.iter().position(|(key, _)| key == "no") {
            Some(index) => Err(all_but(index)),
            None => Ok(()),
        }
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        MemoryStore::new().get(selector).await
    }
}

pub(super) fn one_rejected_put() -> Outcome {
    let (addr, _) = serve_in_thread(Picky, Limits::default())?;
    let puts = format!("{}put no 1 1\n{}", "put a 1 1\n".repeat(4), "put a 1 1\n".repeat(5));
    let answers = talk(addr, &puts, SECOND)?;
    Ok(format!("{} of 10 puts fail", answers.matches("error").count()))
}

/// A store that blocks its thread.
struct Blocking;

impl Store for Blocking {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, _: &PutBatch) -> Result<(), StoreError> {
        thread::sleep(10 * SECOND);
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        MemoryStore::new().get(selector).await
    }
}

pub(super) fn store_that_blocks() -> Outcome {
    // Of two threads, which the store blocks.
    let runtime = runtime()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (server, addr) = runtime.block_on(async {
        let server = Server::bind("127.0.0.1:0").await?.store(Blocking);
        let server = server.limits(grace(Limits::default(), 2 * SECOND));
        let addr = server.local_addr();
        Ok::<_, Failure>((server, addr))
    })?;
    let peers = thread::spawn(move || {
        let connect = |_| {
            let mut io = TcpStream::connect(addr)?;
            io.write_all(b"put a 1 1\n")?;
            Ok(io)
        };
        let peers: std::io::Result<Vec<_>> = (0..13).map(connect).collect();
        thread::sleep(SECOND / 2);
        drop(stop);
        (peers, Instant::now())
    });
    runtime.block_on(server.serve_until(async { _ = stopped.await }));
    let (peers, begin) = peers.join().map_err(|_| "the peers panicked")?;
    peers?;
    let time = begin.elapsed().as_secs_f64();
    println!("stops in {time:.1} s with a grace of 2 s");
    // Threads of the store still block.
    std::process::exit(0)
}

pub(super) fn line_without_an_end() -> Outcome {
    let mut io = TcpStream::connect(memory()?)?;
    let (piece, begin, mut sent) = (vec![b'a'; 1 << 20], Instant::now(), 0);
    while let Ok(len @ 1..) = io.write(&piece) {
        sent += len;
        if begin.elapsed() > 60 * SECOND {
            break;
        }
    }
    Ok(format!("{:.2} GB taken in {:.2} s", sent as f64 / 1e9, begin.elapsed().as_secs_f64()))
}

pub(super) fn line_of_60_mib() -> Outcome {
    let limits = Limits::default().max_line_bytes(64 << 20);
    let mut io = TcpStream::connect(serve_in_thread(MemoryStore::new(), limits)?.0)?;
    let mut line = vec![b'a'; 60 << 20];
    line.push(b'\n');
    let begin = Instant::now();
    io.write_all(&line)?;
    io.read_exact(&mut [0; 6])?;
    Ok(format!("{:.1} s", begin.elapsed().as_secs_f64()))
}

pub(super) fn what_is_told() -> Outcome {
    let lines = Lines::start();
    let limits = idle_after(Limits::default(), 2 * SECOND);
    let (addr, stats) = serve_in_thread(MemoryStore::new(), limits)?;
    let leading = talk(addr, " put a 1 1\n", SECOND / 2)?;
    talk(addr, "got a\n", SECOND / 2)?;
    let refused = lines.with("got a");
    drop({
        let mut io = TcpStream::connect(addr)?;
        io.write_all(b"put b 1 1")?;
        io
    });
    thread::sleep(SECOND / 2);
    let cut = lines.with("put b 1 1");
    let mut io = TcpStream::connect(addr)?;
    let begin = Instant::now();
    while begin.elapsed() < 6 * SECOND && io.write_all(b"\n").is_ok() {
        thread::sleep(SECOND / 10);
    }
    let blank = begin.elapsed().as_secs_f64();
    let runtime = runtime()?;
    let (failed, families) = runtime.block_on(async {
        let own = rcgen::generate_simple_self_signed(["localhost".into()])?;
        let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem())?;
        let server = Server::bind("localhost:0").await?.tls(acceptor);
        let addr = server.local_addr();
        let families = listening(&server);
        let counters = failures(&server);
        tokio::spawn(server.serve_until(std::future::pending::<()>()));
        talk(addr, "put a 1 1\n", SECOND / 2)?;
        sleep(SECOND / 2).await;
        Ok::<_, Failure>((counters(), families))
    })?;
    let names = runtime.block_on(lookup_host("localhost:0"))?.count();
    let told = lines.with("TLS handshake failed");
    let _ = stats;
    Ok(format!(
        "leading blank: {}; refused line: {refused} log lines; failed handshake: {told} log lines, {failed}; line without an end: {cut} log lines; blank lines with an idle timeout of 2 s: open for {blank:.1} s; `localhost`: {families} of {names} addresses",
        if leading.starts_with("ok") { "accepted" } else { "refused" }
    ))
}
