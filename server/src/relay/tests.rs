//! A relay with a scripted destination, a file system that fails on demand, and paused time.

use std::{path::Path, sync::Arc, time::Duration};

use metrics_client::{Key, Point};
use metrics_wal::testing::FaultyFs;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    Relay, RelayStats, Rename, Rules,
    sink::{SendFailure, Sent, Sink},
    spool::Spool,
    worker::WorkerSettings,
};
use crate::store::PutBatch;

mod faults;
mod model;
mod order;

const SECOND: Duration = Duration::from_secs(1);

/// A key, a second and a value.
type PutRow = (String, i64, f64);

/// Passes what it sends to the test, which answers.
struct ScriptedSink(mpsc::UnboundedSender<SinkRequest>);

/// Points that arrived at the destination.
struct SinkRequest {
    rows: Vec<PutRow>,
    reply: oneshot::Sender<Sent>,
}

impl Sink for ScriptedSink {
    async fn send(&mut self, puts: &PutBatch) -> Sent {
        let rows =
            puts.iter().map(|(key, Point { value, timestamp })| (key.to_owned(), timestamp, value));
        let (reply, answer) = oneshot::channel();
        let request = SinkRequest { rows: rows.collect(), reply };
        let failure = || Sent { failure: Some(SendFailure::new("gone")), ..Sent::default() };
        if self.0.send(request).is_err() {
            return failure();
        }
        answer.await.unwrap_or_else(|_| failure())
    }
}

impl SinkRequest {
    fn values(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.2).collect()
    }

    fn answer(self, sent: Sent) -> Vec<PutRow> {
        // The relay may have ended.
        let _ = self.reply.send(sent);
        self.rows
    }

    fn accept(self) -> Vec<PutRow> {
        let settled = self.rows.len();
        self.answer(Sent { settled, ..Sent::default() })
    }

    /// Fails behind the first points.
    fn fail_after(self, settled: usize) -> Vec<PutRow> {
        let failure = Some(SendFailure::new("try again"));
        self.answer(Sent { settled, failure, ..Sent::default() })
    }
}

/// A relay and its destination.
struct RunningRelay {
    relay: Relay,
    requests: mpsc::UnboundedReceiver<SinkRequest>,
    push: Push,
}

type Push = Box<dyn Fn(&Arc<PutBatch>)>;

/// How a relay of a test is configured.
#[derive(Clone)]
struct Setup {
    rules: Rules,
    spill_after: Duration,
    max_queue_bytes: usize,
    max_spool_bytes: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            rules: Rules::new(),
            spill_after: SECOND,
            max_queue_bytes: 1 << 20,
            max_spool_bytes: 1 << 30,
        }
    }
}

impl Setup {
    fn start(self, fs: &FaultyFs) -> RunningRelay {
        let spool = Spool::open(fs.clone(), Path::new("/spool"), self.max_spool_bytes).unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let settings = WorkerSettings {
            rules: self.rules,
            spill_after: self.spill_after,
            spill_bytes: self.max_queue_bytes / 2,
        };
        let sink = ScriptedSink(sender);
        let relay = Relay::start("r".into(), settings, self.max_queue_bytes, sink, spool);
        let push = Box::new(relay.observer());
        RunningRelay { relay, requests, push }
    }
}

impl RunningRelay {
    fn new(fs: &FaultyFs) -> Self {
        Setup::default().start(fs)
    }

    /// Applies puts of one key, one for each value, in the second of the value.
    fn put(&self, key: &str, values: impl IntoIterator<Item = i64>) {
        let rows = values.into_iter().map(|value| (key, value, value as f64));
        self.put_rows(rows);
    }

    fn put_rows<'a>(&self, rows: impl IntoIterator<Item = (&'a str, i64, f64)>) {
        let mut puts = PutBatch::new();
        for (key, second, value) in rows {
            puts.push(&Key::new(key).unwrap(), Point::new(value, second));
        }
        (self.push)(&Arc::new(puts));
    }

    /// Waits for a request. Time passes if the relay waits.
    async fn request(&mut self) -> SinkRequest {
        let request = timeout(60 * SECOND, self.requests.recv()).await;
        request.unwrap_or_else(|_| panic!("no request: {:?}", self.stats())).unwrap()
    }

    /// Checks that there is no request for some time.
    async fn expect_no_request(&mut self, time: Duration) {
        if let Ok(Some(request)) = timeout(time, self.requests.recv()).await {
            panic!("{:?}", request.rows);
        }
    }

    /// Returns the counters, which have to add up.
    fn stats(&self) -> RelayStats {
        let stats = self.relay.stats();
        assert!(stats.is_balanced(), "{stats:?}");
        stats
    }

    /// Lets the relay work for some time, while the destination does not answer.
    async fn wait(&self, time: Duration) {
        let step = Duration::from_millis(10);
        for _ in 0..time.as_millis() / step.as_millis() {
            sleep(step).await;
            self.stats();
        }
    }

    /// Waits until the counters fulfil a condition.
    async fn until(&self, what: &str, is_done: impl Fn(&RelayStats) -> bool) {
        for _ in 0..10_000 {
            if is_done(&self.stats()) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", self.stats());
    }

    /// Accepts requests until nothing is left. Returns what arrived.
    async fn accept_all(&mut self) -> Vec<PutRow> {
        let mut rows = Vec::new();
        for _ in 0..10_000 {
            let stats = self.stats();
            if stats.waiting + stats.spooled == 0 {
                return rows;
            }
            let request = timeout(Duration::from_millis(10), self.requests.recv()).await;
            if let Ok(Some(request)) = request {
                rows.extend(request.accept());
            }
        }
        panic!("points are left: {:?}", self.stats());
    }
}

#[tokio::test(start_paused = true)]
async fn points_are_delivered_without_the_disk() {
    let fs = FaultyFs::new();
    let mut running = RunningRelay::new(&fs);
    sleep(SECOND).await;
    let before = fs.operations();
    for value in 0..100 {
        running.put("palm.cpu", [value]);
    }
    let request = running.request().await;
    assert_eq!(request.values(), (0..100).map(f64::from).collect::<Vec<_>>());
    assert_eq!((running.stats().waiting, running.stats().applied), (100, 100));
    request.accept();
    running.until("delivered", |stats| stats.delivered == 100).await;
    assert_eq!(running.stats().queue_bytes, 0);
    assert_eq!(fs.operations(), before);
}

#[tokio::test(start_paused = true)]
async fn many_points_go_in_several_requests() {
    let mut running = RunningRelay::new(&FaultyFs::new());
    running.put("palm.cpu", 0..10_000);
    let mut lens = Vec::new();
    for _ in 0..3 {
        lens.push(running.request().await.accept().len());
    }
    assert_eq!(lens, [4096, 4096, 1808]);
}

#[tokio::test(start_paused = true)]
async fn rejected_points_are_not_sent_again() {
    let mut running = RunningRelay::new(&FaultyFs::new());
    running.put("palm.cpu", 0..10);
    let request = running.request().await;
    let sent = Sent {
        settled: 6,
        rejected: 2,
        unrepresentable: 1,
        rejection: Some("no such tenant".into()),
        failure: Some(SendFailure::new("reset")),
    };
    request.answer(sent);
    let request = running.request().await;
    let stats = running.stats();
    assert_eq!((stats.delivered, stats.rejected, stats.dropped.unrepresentable), (3, 2, 1));
    assert_eq!((stats.waiting, stats.failures, stats.is_up), (4, 1, false));
    assert_eq!(request.values(), [6.0, 7.0, 8.0, 9.0]);
    request.accept();
    running.until("delivered", |stats| stats.delivered == 7 && stats.is_up).await;
}

#[tokio::test(start_paused = true)]
async fn rules_select_and_rename() {
    let rules = Rules::new()
        .only(["palm.*"])
        .except(["*.debug"])
        .rename(Rename::new("palm.bad", "*").unwrap())
        .rename(Rename::new("palm.*", "site1.$1").unwrap());
    let mut running = Setup { rules, ..Setup::default() }.start(&FaultyFs::new());
    for key in ["palm.cpu", "palm.debug", "palm.bad", "eardrum.cpu"] {
        running.put(key, 0..3);
    }
    running.put_rows([("palm.cpu", 1, f64::NAN)]);
    let rows = running.request().await.accept();
    assert!(rows.iter().all(|row| row.0 == "site1.cpu") && rows.len() == 3, "{rows:?}");
    running.until("delivered", |stats| stats.delivered == 3).await;
    let stats = running.stats();
    assert_eq!((stats.filtered, stats.dropped.invalid_key), (6, 3));
    assert_eq!(stats.dropped.unrepresentable, 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    let mut running = RunningRelay::new(&FaultyFs::new());
    running.put("palm.cpu", [1]);
    let failure = SendFailure { message: "busy".into(), retry_after: Some(30 * SECOND) };
    running.request().await.answer(Sent { failure: Some(failure), ..Sent::default() });
    running.expect_no_request(29 * SECOND).await;
    assert!(running.stats().lag > 29 * SECOND);
    assert_eq!(running.request().await.accept().len(), 1);
    running.until("delivered", |stats| stats.lag.is_zero()).await;
}

#[tokio::test(start_paused = true)]
async fn failed_requests_are_repeated_ever_more_slowly() {
    let mut running = RunningRelay::new(&FaultyFs::new());
    running.put("palm.cpu", [1]);
    let mut count = 0;
    let _ = timeout(60 * SECOND, async {
        loop {
            running.request().await.fail_after(0);
            count += 1;
        }
    })
    .await;
    assert!((10..40).contains(&count), "{count}");
    assert!(running.stats().failures >= 10);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_is_in_memory() {
    let fs = FaultyFs::new();
    let mut running = RunningRelay::new(&fs);
    running.put("palm.cpu", 0..5000);
    let closing = running.relay.close();
    let answering = async {
        let mut points = 0;
        while points < 5000 {
            points += running.requests.recv().await.unwrap().accept().len();
        }
    };
    tokio::join!(closing, answering);
    let stats = running.stats();
    assert_eq!((stats.delivered, stats.waiting, stats.spooled), (5000, 0, 0));
    running.put("palm.cpu", [1]);
    assert_eq!(running.stats().dropped.closed, 1);
}

#[tokio::test(start_paused = true)]
async fn closing_sends_what_came_during_the_first_read() {
    // The disk answers from a thread of its own, sometimes at once.
    for _ in 0..50 {
        let mut running = RunningRelay::new(&FaultyFs::new());
        // The worker has found nothing in its queue, and reads the spool.
        tokio::task::yield_now().await;
        running.put("a", [1]);
        let RunningRelay { relay, requests, .. } = &mut running;
        let accept = async { requests.recv().await.unwrap().accept() };
        let ((), rows) = tokio::join!(relay.close(), accept);
        assert_eq!((rows.len(), relay.stats().delivered), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn closing_stores_what_a_destination_does_not_take() {
    for is_failing in [false, true] {
        let fs = FaultyFs::new();
        let mut running = RunningRelay::new(&fs);
        running.put("palm.cpu", 0..5000);
        let request = running.request().await;
        let hanging = if is_failing {
            request.fail_after(10);
            None
        } else {
            Some(request)
        };
        let begin = tokio::time::Instant::now();
        running.relay.close().await;
        // The one that does not answer is waited for.
        assert_eq!(begin.elapsed() < SECOND, is_failing);
        let left = if is_failing { 4990 } else { 5000 };
        assert_eq!((running.stats().waiting, running.stats().spooled), (0, left));
        drop(hanging);
        let mut again = RunningRelay::new(&fs);
        assert_eq!((again.stats().recovered, again.stats().spooled), (left, left));
        let rows = again.accept_all().await;
        assert_eq!(rows.len() as u64, left);
        assert_eq!(rows.last().map(|row| row.1), Some(4999));
    }
}
