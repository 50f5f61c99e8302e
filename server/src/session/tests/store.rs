//! A store that fails: for a while, for one put, or without ever answering.

use std::future::pending;

use super::*;
use crate::stats::StatsHandle;

/// A store with a configurable mode for puts and one for gets.
#[derive(Clone)]
struct Faulty {
    memory: Arc<MemoryStore>,
    puts: Arc<Mutex<Mode>>,
    gets: Arc<Mutex<Mode>>,
    /// The number of applied batches.
    batches: Arc<Mutex<u32>>,
    /// The length of the last batch.
    last_len: Arc<Mutex<usize>>,
}

#[derive(Clone, Copy)]
enum Mode {
    Works,
    Fails,
    /// It fails transiently.
    Away,
    /// It rejects puts of the key `no`, and fails transiently for those of `later`.
    Picks,
    Hangs,
}

impl Faulty {
    fn new() -> Self {
        Self {
            memory: Arc::default(),
            puts: Arc::new(Mutex::new(Mode::Works)),
            gets: Arc::new(Mutex::new(Mode::Works)),
            batches: Arc::default(),
            last_len: Arc::default(),
        }
    }

    fn puts(&self, mode: Mode) {
        *self.puts.lock().unwrap() = mode;
    }

    fn gets(&self, mode: Mode) {
        *self.gets.lock().unwrap() = mode;
    }

    /// Starts a session on it.
    fn talk(&self, limits: Limits) -> (Talk, StatsHandle) {
        let counters = Arc::<ServerCounters>::default();
        let shared = Arc::new(SessionShared::new(self.clone(), limits, Arc::clone(&counters)));
        (Talk::among(&shared, 64 * 1024), StatsHandle(counters))
    }
}

impl Store for Faulty {
    type Snapshot = HangingSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        *self.batches.lock().unwrap() += 1;
        *self.last_len.lock().unwrap() = puts.len();
        let mode = *self.puts.lock().unwrap();
        match mode {
            Mode::Works => self.memory.apply(puts).await,
            Mode::Fails => Err(StoreError::new("store full")),
            Mode::Away => Err(StoreError::transient("disk full").with_source("no space left")),
            Mode::Hangs => pending().await,
            Mode::Picks => {
                let mut applied = PutBatch::new();
                let mut failed = Vec::new();
                for (at, (key, point)) in puts.iter().enumerate() {
                    match key {
                        "no" => failed.push((at, StoreError::new("no such tenant"))),
                        "later" => failed.push((at, StoreError::transient("over the rate"))),
                        _ => applied.push(&Key::new(key).unwrap(), point),
                    }
                }
                self.memory.apply(&applied).await?;
                Err(StoreError::of_puts(failed))
            }
        }
    }

    async fn get(&self, selector: &Selector) -> Result<HangingSnapshot, StoreError> {
        let mode = *self.gets.lock().unwrap();
        match mode {
            Mode::Works => Ok(HangingSnapshot(Some(self.memory.get(selector).await?))),
            Mode::Fails => Err(StoreError::new("cannot read")),
            Mode::Away => Err(StoreError::transient("cannot read now")),
            Mode::Hangs => pending().await,
            Mode::Picks => Ok(HangingSnapshot(None)),
        }
    }
}

struct HangingSnapshot(Option<MemorySnapshot>);

impl Snapshot for HangingSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        match &mut self.0 {
            Some(memory) => memory.next_block().await,
            None => pending().await,
        }
    }
}

// FAULTS S5
#[tokio::test(start_paused = true)]
async fn transient_put_failure_ends_connection_unanswered() {
    let store = Faulty::new();
    let (mut talk, monitor) = store.talk(Limits::default());
    talk.send("put a 1 1\n").await;
    talk.expect("ok\n\n").await;
    store.puts(Mode::Away);
    // Requests before it are answered, requests behind it are not carried out.
    talk.send("bad\nget a\nput a 2 2\nput a 3 3\nget a\nput a 4 4\n").await;
    assert_eq!(talk.rest().await, "error\nwrong command\n\nok\na 1.0 1\n\n");
    assert_eq!(*store.batches.lock().unwrap(), 2);
    let stats = monitor.stats();
    assert_eq!((stats.puts, stats.gets, stats.failed), (1, 1, 1));

    store.puts(Mode::Works);
    let (mut talk, _) = store.talk(Limits::default());
    talk.send("put a 2 2\nget a\n").await;
    talk.expect("ok\n\nok\na 1.0 1\na 2.0 2\n\n").await;
}

// FAULTS S5
#[tokio::test(start_paused = true)]
async fn transient_get_failure_ends_connection_unanswered() {
    let store = Faulty::new();
    store.gets(Mode::Away);
    let (mut talk, monitor) = store.talk(Limits::default());
    talk.send("put a 1 1\nget a\nput a 2 2\n").await;
    assert_eq!(talk.rest().await, "ok\n\n");
    assert_eq!((monitor.stats().puts, monitor.stats().failed), (1, 1));
}

// FAULTS S10
#[tokio::test(start_paused = true)]
async fn rejected_put_does_not_fail_its_batch() {
    let logged = Logged::start();
    let store = Faulty::new();
    store.puts(Mode::Picks);
    let (mut talk, monitor) = store.talk(Limits::default());
    talk.send("put a 1 1\nput no 1 1\nput b 1 1\nput no 2 2\n").await;
    let refused = "error\nno such tenant\n\n";
    talk.expect(&format!("ok\n\n{refused}ok\n\n{refused}")).await;
    talk.send("get *\n").await;
    talk.expect("ok\na 1.0 1\nb 1.0 1\n\n").await;
    assert_eq!((monitor.stats().puts, monitor.stats().failed), (2, 2));
    // The store works.
    assert_eq!(logged.with("store rejected a request").len(), 2);
    assert_eq!(logged.with("store failed").len(), 0);
}

// FAULTS S10
#[tokio::test(start_paused = true)]
async fn answers_before_a_transient_put_are_sent() {
    let store = Faulty::new();
    store.puts(Mode::Picks);
    let (mut talk, monitor) = store.talk(Limits::default());
    talk.send("put a 1 1\nput later 1 1\nput b 1 1\n").await;
    assert_eq!(talk.rest().await, "ok\n\n");
    assert_eq!((monitor.stats().puts, monitor.stats().failed), (1, 1));
}

// FAULTS S7
#[tokio::test(start_paused = true)]
async fn store_timeout_ends_the_connection() {
    let limits = Limits::default().store_timeout(7 * SECOND);
    type Set = fn(&Faulty);
    let hangs: [(Set, &str); 3] = [
        (|store| store.puts(Mode::Hangs), "put a 1 1\n"),
        (|store| store.gets(Mode::Hangs), "get a\n"),
        (|store| store.gets(Mode::Picks), "get a\n"),
    ];
    for (hang, request) in hangs {
        let store = Faulty::new();
        hang(&store);
        let (mut talk, monitor) = store.talk(limits);
        let begin = Instant::now();
        talk.send(request).await;
        // The session does not notice that the peer has disconnected while the store works.
        drop(talk.peer);
        talk.session.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 7, "{request:?}");
        assert_eq!(monitor.stats().failed, 1);
    }
}

// FAULTS S2
#[tokio::test(start_paused = true)]
async fn failing_store_is_logged_once_a_minute() {
    let logged = Logged::start();
    let store = Faulty::new();
    let (mut talk, _) = store.talk(Limits::default());
    store.puts(Mode::Fails);
    for _ in 0..300 {
        talk.send("put a 1 1\nget a\n").await;
        talk.expect("error\nstore full\n\nok\n\n").await;
        sleep(SECOND).await;
    }
    let lines = logged.with("store failed");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[0].contains("operation=\"puts\" error=store full"), "{lines:#?}");
    assert_eq!(logged.with("store recovered").len(), 0);

    store.gets(Mode::Fails);
    store.puts(Mode::Works);
    talk.send("get a\nput a 1 1\nget a\n").await;
    talk.expect("error\ncannot read\n\nok\n\nerror\ncannot read\n\n").await;
    let lines = logged.with("store recovered");
    assert!(matches!(&lines[..], [line] if line.contains("operation=\"puts\"")), "{lines:#?}");
    let lines = logged.with("store failed");
    assert!(lines.len() == 6 && lines[5].contains("operation=\"gets\""), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_send_small_batches_to_a_busy_store() {
    let store = Faulty::new();
    store.puts(Mode::Hangs);
    let limits = Limits::default().store_timeout(7 * SECOND);
    let shared = Arc::new(SessionShared::new(store.clone(), limits, Arc::default()));
    let puts = "put a 1 1\n".repeat(800);
    let mut lens = Vec::new();
    let mut talks = Vec::new();
    for _ in 0..400 {
        let mut talk = Talk::among(&shared, 64 * 1024);
        talk.send(&puts).await;
        while *store.batches.lock().unwrap() <= lens.len() as u32 {
            yield_now().await;
        }
        lens.push(*store.last_len.lock().unwrap());
        talks.push(talk);
    }
    // Until batches take 4 MiB together.
    let large = lens.iter().take_while(|&&len| len == 800).count();
    assert!((100..200).contains(&large), "{large}");
    assert!(lens[large..].iter().all(|&len| len == 256), "{lens:?}");
    assert!(shared.is_contended());
    for talk in talks {
        assert_eq!(talk.session.await.ok(), Some(()));
    }
    assert!(!shared.is_contended());
    // Each put of a busy store is answered.
    store.puts(Mode::Works);
    let mut talk = Talk::among(&shared, 64 * 1024);
    let _held = shared.count_unapplied(64 * 1024 * 1024);
    talk.send(&puts).await;
    talk.expect(&"ok\n\n".repeat(800)).await;
    assert_eq!(*store.last_len.lock().unwrap(), 800 - 3 * 256);
}
