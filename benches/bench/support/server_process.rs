//! The server of a bench, in a process of its own.
//!
//! What serves the clients must not share their process: its threads would count as theirs, and its
//! allocations would wait for theirs. So the bench program starts itself once more, in a behavior. Where
//! the client is what is measured, the peer is as bare as one can be, blocking and without a parser.
//! It ends when its standard input does: also when the bench program is killed.

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use metrics_server::{Server, store::DiskStore, tls::TlsAcceptor};
use tokio::{runtime::Runtime, sync::oneshot};

use super::{values, workload};

/// What a peer answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behavior {
    /// `ok`, once for each line.
    Acknowledge,
    /// `ok`, once for each read and after a while: all that most servers can do.
    OneAtATime,
    /// `+OK`, once for each Redis command.
    Redis,
    /// To `get *` a prepared answer of [`workload::RECORDS`] records, to any other line `ok`.
    Retrieve,
    /// To `get *` a prepared answer of [`workload::stored_seconds`], to any other line `ok`.
    RetrieveMany,
    /// Whatever a [`Server`] with a `MemoryStore` (or a [`DiskStore`]) does, on a runtime as Tokio makes it by itself.
    Store,
    /// The same, with a log like that of a program. Prints the number of its lines when it ends.
    Logged,
    /// The same over TLS, with [`CERTIFICATE`].
    LoggedTls,
    /// Whatever `redis-server` does, as Debian packages it, if it keeps everything in memory.
    RedisServer,
}

impl Behavior {
    const ALL: [Self; 9] = [
        Self::Acknowledge,
        Self::OneAtATime,
        Self::Redis,
        Self::Retrieve,
        Self::RetrieveMany,
        Self::Store,
        Self::Logged,
        Self::LoggedTls,
        Self::RedisServer,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::OneAtATime => "one at a time",
            Self::Redis => "redis",
            Self::Retrieve => "retrieve",
            Self::RetrieveMany => "retrieve many",
            Self::Store => "store",
            Self::Logged => "logged",
            Self::LoggedTls => "logged, with TLS",
            Self::RedisServer => "redis-server",
        }
    }
}

/// A running peer; it ends when dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    process: Child,
    output: Option<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl ServerProcess {
    /// Starts this program once more, in `behavior`, with the same arguments, and waits until it listens.
    pub(crate) fn start(behavior: Behavior) -> io::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env(BEHAVIOR, behavior.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = process.stdout.take().map(BufReader::new);
        let mut port = String::new();
        if let Some(output) = &mut output {
            output.read_line(&mut port)?;
        }
        let port = port.trim().parse().map_err(|_| io::Error::other("the peer named no port"))?;
        Ok(Self { process, output, addr: (Ipv4Addr::LOCALHOST, port).into() })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the process, and returns its last output.
    pub(crate) fn end(mut self) -> io::Result<String> {
        drop(self.process.stdin.take());
        let mut last = String::new();
        if let Some(output) = &mut self.output {
            output.read_to_string(&mut last)?;
        }
        Ok(last)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nothing is left to do for a peer that cannot be waited for.
        self.process.wait().ok();
    }
}

/// Serves until standard input ends, if this process was started for it, and says whether it was:
/// the first thing that the `main` of a bench does.
pub(crate) fn serve_if_asked() -> Result<bool, Box<dyn Error>> {
    let Ok(name) = env::var(BEHAVIOR) else {
        return Ok(false);
    };
    let behavior = Behavior::ALL.into_iter().find(|behavior| behavior.name() == name);
    serve(behavior.ok_or("no such behavior")?)?;
    Ok(true)
}

/// The environment variable that makes a bench program a peer.
const BEHAVIOR: &str = "METRICS_BENCH_SERVER";

fn serve(behavior: Behavior) -> Result<(), Box<dyn Error>> {
    match behavior {
        Behavior::Acknowledge => listen(|stream| acknowledge(stream, b'\n', b"ok\n\n")),
        Behavior::OneAtATime => listen(think),
        // A command begins with a star, and no argument here holds another one.
        Behavior::Redis => listen(|stream| acknowledge(stream, b'*', b"+OK\r\n")),
        Behavior::Retrieve => {
            let answer: Arc<[u8]> = workload::answer(values::reading)?.into();
            listen(move |stream| retrieve(stream, &answer))
        }
        Behavior::RetrieveMany => {
            let answer = Arc::new(workload::stored_answer(values::reading)?);
            listen(move |stream| retrieve(stream, &answer))
        }
        Behavior::Store => store(None),
        Behavior::Logged => logged(None),
        Behavior::LoggedTls => logged(Some(TlsAcceptor::new(CERTIFICATE, KEY)?)),
        Behavior::RedisServer => redis_server(),
    }?;
    Ok(())
}

/// Lets `answer` serve each connection, on a thread of its own.
fn listen(answer: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            // A connection that fails is one that the client has closed.
            thread::spawn(move || answer(stream));
        }
    });
    wait_for_end()
}

/// Returns true if `METRICS_TEST_STORE` is `disk`.
pub(crate) fn is_store_on_disk() -> bool {
    env::var("METRICS_TEST_STORE").is_ok_and(|store| store == "disk")
}

/// Serves a store in memory, or on disk if `METRICS_TEST_STORE` is `disk`.
fn store(tls: Option<TlsAcceptor>) -> io::Result<()> {
    Runtime::new()?.block_on(async {
        let mut server = Server::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if let Some(acceptor) = tls {
            server = server.tls(acceptor);
        }
        println!("{}", server.local_addr().port());
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let ended = wait_for_end();
            drop(stop);
            ended
        });
        let stopped = async { _ = stopped.await };
        if is_store_on_disk() {
            let dir = tempfile::tempdir()?;
            let store = DiskStore::open(dir.path()).await.map_err(io::Error::other)?;
            server.store(store).serve_until(stopped).await;
        } else {
            server.serve_until(stopped).await;
        }
        Ok(())
    })
}

fn logged(tls: Option<TlsAcceptor>) -> io::Result<()> {
    let lines = LineCounter::default();
    let log = lines.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).init();
    store(tls)?;
    println!("{}", lines.0.load(Ordering::Relaxed));
    Ok(())
}

/// A certificate for `localhost` with the most costly key that is in common use, valid for a hundred
/// years; no secret, and good for nothing else.
pub(crate) const CERTIFICATE: &str = include_str!("localhost.pem");
const KEY: &str = include_str!("localhost.key.pem");

/// Counts lines, and keeps none.
#[derive(Clone, Default)]
struct LineCounter(Arc<AtomicUsize>);

impl Write for LineCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(memchr::memchr_iter(b'\n', bytes).count(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts a server of another make, and ends it when this process is to end.
fn redis_server() -> io::Result<()> {
    // Free now; should another program take it, the server says so and ends.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut server = Command::new(REDIS_SERVER)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    // Kept to the end, so that the server can write its log.
    let mut log = server.stdout.take().map(BufReader::new).ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    while !line.contains("Ready to accept connections") {
        line.clear();
        if log.read_line(&mut line)? == 0 {
            return Err(io::Error::other("redis-server ended before it listened"));
        }
    }
    println!("{port}");
    let ended = wait_for_end();
    server.kill()?;
    server.wait()?;
    ended
}

/// The command of Debian's package of that name.
pub(crate) const REDIS_SERVER: &str = "redis-server";

fn wait_for_end() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// Answers each `mark` in what it reads with `answer`: one write for one read.
fn acknowledge(mut stream: TcpStream, mark: u8, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut block = vec![0; BLOCK];
    let answers = answer.repeat(BLOCK);
    loop {
        let len = stream.read(&mut block)?;
        if len == 0 {
            return Ok(());
        }
        let asked = memchr::memchr_iter(mark, &block[..len]).count();
        stream.write_all(&answers[..asked * answer.len()])?;
    }
}

/// Answers `ok` to whatever one read brings, after a while.
fn think(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 4096];
    while stream.read(&mut request)? > 0 {
        thread::sleep(THINKING);
        stream.write_all(b"ok\n\n")?;
    }
    Ok(())
}

/// About what a row takes in a database on the same machine that need not wait for a disk.
const THINKING: Duration = Duration::from_micros(200);

/// How much is read at once.
const BLOCK: usize = 64 * 1024;

/// Answers `get *` with `answer`, and any other line with `ok`.
fn retrieve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for line in BufReader::new(stream.try_clone()?).split(b'\n') {
        stream.write_all(if line? == b"get *" { answer } else { b"ok\n\n" })?;
    }
    Ok(())
}
