//! What hostile HTTP clients cost: memory of the server, and puts over the protocol, in bounded time.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime,
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Outcome,
    load::{Load, fill_lines},
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::{Lines, name},
};

/// An attack: its name, and what each attacker does.
type Attack = (&'static str, fn(usize) -> Script);

/// What an attacker does.
struct Script {
    request: Vec<u8>,
    /// True to send the last byte of the request again and again, slowly.
    is_endless: bool,
    /// True to read nothing of the answer.
    reads_nothing: bool,
}

fn script(request: impl Into<Vec<u8>>) -> Script {
    Script { request: request.into(), is_endless: false, reads_nothing: false }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}").into()
}

const ATTACKS: [Attack; 6] = [
    ("streams of live points", |_| script(get("/api/v1/live?match=*"))),
    ("heads that do not end", |_| Script {
        is_endless: true,
        ..script(&b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a"[..])
    }),
    ("bodies that do not end", |_| Script {
        is_endless: true,
        ..script(
            &b"POST /render HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\na"[..],
        )
    }),
    ("answers that are not read", |_| Script {
        reads_nothing: true,
        ..script(get("/api/v1/points?match=*"))
    }),
    ("moving averages of everything over a year", |_| {
        script(post("/render", "target=movingAverage(rack*.cpu.user,'1y')&from=-1y"))
    }),
    ("targets nested deep, pipelined", |_| {
        let nested = format!("target={}{}{}", "sum(".repeat(30), name(1), ")".repeat(30));
        script(post("/render", &nested).repeat(20))
    }),
];

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    // Each attacker has a socket; with fewer descriptors, fewer attack.
    _ = rlimit::increase_nofile_limit(u64::MAX);
    let attackers = options.choose(20, 1_000, 10_000);
    let time = Duration::from_millis(options.choose(200, 2_000, 5_000));
    let seconds = options.choose(10, 1_000, 1_000);
    for (name, script) in ATTACKS {
        let peer = Peer::memory_with_http()?;
        fill_lines(peer.addr(), &mut Lines::new(0..1_000), seconds)?;
        let mut load = Load::connect(peer.addr(), 4, 10)?;
        let alone = load.run(time)?;
        let before = peer.memory_bytes()?.0;
        let siege = Siege::begin(peer.http_addr(), attackers, script)?;
        let under_attack = load.run(time)?;
        let (open, refused) =
            (siege.open.load(Ordering::Relaxed), siege.refused.load(Ordering::Relaxed));
        drop(siege);
        let grown = peer.memory_bytes()?.1.saturating_sub(before) as f64 / f64::from(1 << 20);
        let what = format!("puts beside {attackers} {name}");
        let row = Row::new(what, Unit::Rate, under_attack).against("alone", alone);
        report.push(row.bar(Bar::RatioAtLeast(0.05)));
        let row = Row::new("their memory, at most", Unit::MiB, grown);
        report.push(row.bar(Bar::AtMost(768.0)));
        report.note(format!(
            "{name}: {open} connections were open at the end, {refused} were answered or ended."
        ));
    }
    Ok(())
}

/// Attackers on a thread of their own; they end when dropped.
struct Siege {
    open: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Siege {
    fn begin(addr: SocketAddr, count: usize, script: fn(usize) -> Script) -> Outcome<Self> {
        let (end, ended) = oneshot::channel();
        let (open, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&open), Arc::clone(&refused));
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (began, has_begun) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut attackers = JoinSet::new();
                for index in 0..count {
                    let (open, refused) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
                    let script = script(index);
                    attackers.spawn(async move {
                        open.fetch_add(1, Ordering::Relaxed);
                        // An end of any kind counts.
                        _ = attack(addr, index, script).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                        refused.fetch_add(1, Ordering::Relaxed);
                    });
                    if index % 50 == 49 {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                began.send(()).ok();
                ended.await.ok();
            });
        });
        let siege = Self { open, refused, end: Some(end), thread: Some(thread) };
        has_begun.recv()?;
        Ok(siege)
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("attacking does not panic");
        }
    }
}

async fn attack(addr: SocketAddr, index: usize, script: Script) -> io::Result<()> {
    // From ten addresses of the loopback network.
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 1, 1 + (index % 10) as u8], 0).into())?;
    let mut stream: TcpStream = socket.connect(addr).await?;
    stream.write_all(&script.request).await?;
    if script.is_endless {
        loop {
            sleep(Duration::from_millis(100)).await;
            stream.write_all(b"a").await?;
        }
    }
    if script.reads_nothing {
        sleep(Duration::from_secs(3_600)).await;
    }
    let mut block = [0; 4096];
    while stream.read(&mut block).await? > 0 {}
    Ok(())
}
