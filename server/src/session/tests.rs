//! Sessions over a pipe, in paused time.

use std::{sync::Mutex, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::stats::ServerCounters;
use metrics_client::{Key, Point};

use std::io;

use super::{store::ACK, *};
use crate::{
    session::deadline::SECOND_LOOK,
    store::{Block, MemorySnapshot, MemoryStore, Snapshot, StoreError},
};

mod frozen;
mod peers;
mod refusals;
mod store;

const SECOND: Duration = Duration::from_secs(1);

/// Collects what this thread logs at `info`.
struct Logged {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
    /// With one subscriber only, tracing caches an event as disabled if a test on another thread reaches
    /// it first.
    _another: tracing::Dispatch,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn start() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            lines,
            _guard: tracing::subscriber::set_default(subscriber),
            _another: tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()),
        }
    }

    /// Returns the lines that contain `text`.
    fn with(&self, text: &str) -> Vec<String> {
        let lines = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
        lines.lines().filter(|line| line.contains(text)).map(String::from).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session with the peer's end of its pipe.
struct Talk {
    peer: DuplexStream,
    stop: CancellationToken,
    session: JoinHandle<()>,
}

impl Talk {
    fn with(store: impl Store, limits: Limits, pipe_bytes: usize) -> Self {
        Self::among(&Arc::new(SessionShared::new(store, limits, Arc::default())), pipe_bytes)
    }

    fn among(shared: &Arc<SessionShared<impl Store>>, pipe_bytes: usize) -> Self {
        let (peer, io) = duplex(pipe_bytes);
        let stop = CancellationToken::new();
        let shared = Arc::clone(shared);
        let session = tokio::spawn(run(io, None, shared, Usage::default(), stop.clone()));
        Self { peer, stop, session }
    }

    fn new() -> Self {
        Self::with(MemoryStore::new(), Limits::default(), 64 * 1024)
    }

    async fn send(&mut self, bytes: &str) {
        self.peer.write_all(bytes.as_bytes()).await.unwrap();
    }

    #[track_caller]
    fn expect(&mut self, answer: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut got = vec![0; answer.len()];
            self.peer.read_exact(&mut got).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&got), answer, "{caller}");
        }
    }

    /// Reads until the session closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.peer.read_to_end(&mut rest).await.unwrap();
        String::from_utf8(rest).unwrap()
    }
}

/// Returns a store with `count` points of one key.
async fn store_of(count: i64) -> MemoryStore {
    let store = MemoryStore::new();
    let mut puts = PutBatch::new();
    for at in 0..count {
        puts.push(&Key::new("key").unwrap(), Point::new(0.5, at));
    }
    store.apply(&puts).await.unwrap();
    store
}

#[tokio::test(start_paused = true)]
async fn line_timeout_covers_the_whole_line() {
    let mut talk = Talk::new();
    let begin = Instant::now();
    talk.send("put a 1 1\nput b").await;
    talk.expect("ok\n\n").await;
    // Each byte comes well within any limit; the line does not.
    while talk.peer.write_all(b"b").await.is_ok() {
        sleep(SECOND).await;
    }
    assert_eq!(talk.rest().await, "");
    let elapsed = begin.elapsed();
    assert!((30 * SECOND..32 * SECOND).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn line_timeout_restarts_with_each_line() {
    let mut talk = Talk::new();
    talk.send("put").await;
    for at in 0..20 {
        sleep(20 * SECOND).await;
        talk.send(&format!(" a 1 {at}\nput")).await;
        talk.expect("ok\n\n").await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_closes_a_silent_connection() {
    let mut talk = Talk::new();
    for _ in 0..3 {
        sleep(599 * SECOND).await;
        talk.send("get a\n").await;
        talk.expect("ok\n\n").await;
    }
    let begin = Instant::now();
    assert_eq!(talk.rest().await, "");
    assert_eq!(begin.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn write_timeout_closes_if_nothing_is_read() {
    let mut talk = Talk::with(store_of(1000).await, Limits::default(), 1024);
    let begin = Instant::now();
    talk.send("get *\n").await;
    (&mut talk.session).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 30);
    assert!(!talk.rest().await.ends_with("\n\n"), "the answer must not look complete");
}

#[tokio::test(start_paused = true)]
async fn write_timeout_closes_if_single_bytes_are_read() {
    let mut talk = Talk::with(store_of(1000).await, Limits::default(), 1024);
    let begin = Instant::now();
    talk.send("get *\n").await;
    while !talk.session.is_finished() {
        talk.peer.read_u8().await.unwrap();
        sleep(SECOND).await;
    }
    assert!(begin.elapsed() < 32 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn oldest_unread_answer_is_evicted() {
    // Room for two that wait with 128 KiB of answers, in twice as much memory at most.
    let limits = Limits::default().max_total_unsent_bytes(600 * 1024);
    let shared = Arc::new(SessionShared::new(store_of(20_000).await, limits, Arc::default()));
    let mut talks = Vec::new();
    for _ in 0..2 {
        let mut talk = Talk::among(&shared, 1024);
        talk.send("get *\n").await;
        sleep(SECOND).await;
        talks.push(talk);
    }
    let [mut first, mut second] = <[Talk; 2]>::try_from(talks).ok().unwrap();
    assert!(!first.session.is_finished());
    let mut third = Talk::among(&shared, 1024);
    third.send("get *\nget none\n").await;
    sleep(SECOND).await;
    assert!(first.session.is_finished() && !second.session.is_finished());
    assert!(!first.rest().await.contains("\n\n"), "the answer must not look complete");
    for talk in [&mut second, &mut third] {
        talk.peer.shutdown().await.unwrap();
        assert!(talk.rest().await.contains("key 0.5 19999\n\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn contended_session_answers_in_order() {
    let shared =
        Arc::new(SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    shared.scheduler.fill_queue(shared::CONTENTION_THRESHOLD + 1);
    let mut talk = Talk::among(&shared, 256 * 1024);
    // More than one read, cut amid lines.
    let puts: String = (0..8000).map(|at| format!("put some.key 1.5 {at}\n")).collect();
    talk.send(&puts).await;
    talk.send("get none\nbad\n").await;
    talk.expect(&("ok\n\n".repeat(8001) + "error\nwrong command\n\n")).await;
    talk.send("get some.key\n").await;
    let all = (0..8000).map(|at| format!("some.key 1.5 {at}\n")).collect::<String>();
    talk.expect(&format!("ok\n{all}\n")).await;
}

#[tokio::test(start_paused = true)]
async fn slow_steady_reader_gets_a_large_answer() {
    let mut talk = Talk::with(store_of(20_000).await, Limits::default(), 16 * 1024);
    talk.send("get *\nget none\n").await;
    let mut got = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    while !got.ends_with(b"\n\nok\n\n") {
        sleep(2 * SECOND).await;
        let read = talk.peer.read(&mut piece).await.unwrap();
        assert_ne!(read, 0, "dropped after {} bytes", got.len());
        got.extend_from_slice(&piece[..read]);
    }
    assert_eq!(got.iter().filter(|&&byte| byte == b'\n').count(), 20_000 + 4);
}

#[tokio::test(start_paused = true)]
async fn reading_stops_at_the_unsent_limit() {
    for (request, answer) in [("put a 1 1\n", ACK), ("bad\n", WRONG_COMMAND)] {
        let limits = Limits::default().max_unsent_bytes(4096);
        let mut talk = Talk::with(MemoryStore::new(), limits, 1024);
        let mut sent = 0;
        while let Ok(result) = timeout(SECOND, talk.peer.write_all(request.as_bytes())).await {
            result.unwrap();
            sent += 1;
            // The answers to one read beyond the limit, and what fits the pipes.
            let unread = sent * answer.len();
            assert!(unread < 4096 + 8 * 1024, "{unread} bytes of answers unread");
        }
        // Reading resumes when they are read.
        let mut answers = vec![0; sent * answer.len()];
        talk.peer.read_exact(&mut answers).await.unwrap();
        assert!(answers.ends_with(answer));
    }
}

#[tokio::test(start_paused = true)]
async fn error_answers_to_one_batch_are_bounded() {
    let (count, limit, pipe) = (1000, 4096, 16 * 1024);
    let answer = format!("error\n{}\n\n", "x".repeat(200));
    let store = Broken::new(MemoryStore::new(), &vec![Fail::ApplyAtLength; count]);
    let counters = Arc::<ServerCounters>::default();
    let limits = Limits::default().max_unsent_bytes(limit);
    let shared = Arc::new(SessionShared::new(store, limits, Arc::clone(&counters)));
    let mut talk = Talk::among(&shared, pipe);
    talk.send(&"put a 1 1\n".repeat(count)).await;
    sleep(SECOND).await;
    let made = answer.len() * usize::try_from(counters.failed.get()).unwrap();
    assert!((1..=limit + pipe + answer.len()).contains(&made), "{made} unread bytes");
    talk.expect(&answer.repeat(count)).await;
}

#[tokio::test(start_paused = true)]
async fn peer_that_only_writes_does_not_deadlock() {
    let mut talk = Talk::with(MemoryStore::new(), Limits::default(), 1024);
    for at in 0..10_000 {
        talk.send(&format!("put a 1 {at}\n")).await;
    }
    talk.expect(&"ok\n\n".repeat(10_000)).await;
}

#[tokio::test(start_paused = true)]
async fn endless_line_is_discarded_for_a_bounded_time() {
    let mut talk = Talk::new();
    let begin = Instant::now();
    talk.send("put a 1 1\nput ").await;
    talk.send(&"x".repeat(5000)).await;
    talk.expect("ok\n\nerror\nwrong command\n\n").await;
    while talk.peer.write_all(b"xxxxxxxxx").await.is_ok() {
        sleep(SECOND / 10).await;
    }
    assert_eq!(talk.rest().await, "");
    assert!(begin.elapsed() < 31 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabyte_line_loses_no_answer() {
    let mut talk = Talk::new();
    let piece = vec![b'x'; 100_000];
    for _ in 0..1000 {
        talk.peer.write_all(&piece).await.unwrap();
    }
    assert_eq!(talk.rest().await, "error\nwrong command\n\n");
}

#[tokio::test(start_paused = true)]
async fn line_limit_is_exact() {
    let limits = Limits::default().max_line_bytes(20);
    let mut talk = Talk::with(MemoryStore::new(), limits, 1024);
    talk.send("put a 1 00000000001\n").await;
    talk.expect("ok\n\n").await;
    talk.send("put a 1 000000000001\nget a\n").await;
    assert_eq!(talk.rest().await, "error\nwrong command\n\n");
}

#[tokio::test(start_paused = true)]
async fn stop_answers_what_was_read() {
    let mut talk = Talk::with(store_of(1000).await, Limits::default(), 1024);
    talk.send("get *\nput key 0.5 -1\nput").await;
    talk.expect("ok\nkey 0.5 0\n").await;
    talk.stop.cancel();
    let rest = talk.rest().await;
    assert!(rest.ends_with("key 0.5 999\n\nok\n\n"), "{:?}", &rest[rest.len() - 40..]);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_an_idle_session() {
    let mut talk = Talk::new();
    talk.send("get a\n").await;
    talk.expect("ok\n\n").await;
    let begin = Instant::now();
    talk.stop.cancel();
    talk.session.await.unwrap();
    assert!(begin.elapsed() <= SECOND + SECOND_LOOK);
}

#[tokio::test]
async fn stop_ends_a_session_with_a_busy_peer() {
    let Talk { peer, stop, session } = Talk::new();
    let (mut answers, mut requests) = tokio::io::split(peer);
    let flood =
        tokio::spawn(async move { while requests.write_all(b"put a 1 1\n").await.is_ok() {} });
    answers.read_exact(&mut [0; 4000]).await.unwrap();
    stop.cancel();
    let mut rest = Vec::new();
    answers.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"ok\n\n"));
    flood.abort();
    drop(answers);
    session.await.unwrap();
}

#[tokio::test]
async fn stop_is_checked_before_reading() {
    let stop = CancellationToken::new();
    stop.cancel();
    let counters = Arc::new(ServerCounters::default());
    let shared = SessionShared::new(MemoryStore::new(), Limits::default(), Arc::clone(&counters));
    // This peer is always ready, so the session never waits.
    let requests = b"put a 1 1\n".repeat(100_000);
    let io = tokio::io::join(&requests[..], tokio::io::sink());
    run(io, None, Arc::new(shared), Usage::default(), stop).await;
    assert_eq!(crate::stats::StatsHandle(counters).stats().puts, 0);
}

#[tokio::test(start_paused = true)]
async fn half_closed_peer_gets_its_answers() {
    let mut talk = Talk::new();
    talk.send("put a 1 1\nget a\nput a 2").await;
    talk.peer.shutdown().await.unwrap();
    assert_eq!(talk.rest().await, "ok\n\nok\na 1.0 1\n\n");
}

/// Fails as configured.
struct Broken {
    memory: MemoryStore,
    fails: Mutex<Vec<Fail>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fail {
    Apply,
    /// With a long message.
    ApplyAtLength,
    Get,
    /// After this many blocks.
    Block(usize),
}

impl Broken {
    /// Fails in these ways, one for each call, the last one first.
    fn new(memory: MemoryStore, fails: &[Fail]) -> Self {
        Self { memory, fails: Mutex::new(fails.to_vec()) }
    }

    fn next(&self) -> Option<Fail> {
        self.fails.lock().unwrap().pop()
    }
}

impl Store for Broken {
    type Snapshot = BrokenSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        match self.next() {
            Some(Fail::Apply) => Err(StoreError::new("disk\nfull").with_source("no space left")),
            Some(Fail::ApplyAtLength) => Err(StoreError::new("x".repeat(200))),
            _ => self.memory.apply(puts).await,
        }
    }

    async fn get(&self, selector: &Selector) -> Result<BrokenSnapshot, StoreError> {
        let blocks = match self.next() {
            Some(Fail::Get) => return Err(StoreError::new("cannot read")),
            Some(Fail::Block(blocks)) => Some(blocks),
            _ => None,
        };
        Ok(BrokenSnapshot { memory: self.memory.get(selector).await?, blocks })
    }
}

struct BrokenSnapshot {
    memory: MemorySnapshot,
    blocks: Option<usize>,
}

impl Snapshot for BrokenSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        match &mut self.blocks {
            Some(0) => return Err(StoreError::new("bad block")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.memory.next_block().await
    }
}

#[tokio::test(start_paused = true)]
async fn store_error_is_answered_and_the_session_goes_on() {
    let store = Broken::new(MemoryStore::new(), &[Fail::Block(0), Fail::Get, Fail::Apply]);
    let mut talk = Talk::with(store, Limits::default(), 64 * 1024);
    talk.send("put a 1 1\nput a 1 2\nget a\nget a\nput a 3 3\nget a\n").await;
    talk.expect("error\ndisk full\n\nerror\ndisk full\n\n").await;
    talk.expect("error\ncannot read\n\n").await;
    talk.expect("error\nbad block\n\n").await;
    talk.expect("ok\n\nok\na 3.0 3\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn interrupted_answer_does_not_look_complete() {
    let store = Broken::new(store_of(20_000).await, &[Fail::Block(30)]);
    let mut talk = Talk::with(store, Limits::default(), 64 * 1024);
    talk.send("get *\nget *\n").await;
    let rest = talk.rest().await;
    assert!(
        rest.starts_with("ok\nkey 0.5 0\n") && !rest.contains("\n\n") && !rest.contains("error")
    );
}
