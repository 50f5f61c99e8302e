//! Foreign code that runs while a batch is recalled, and uses the reporter.

#[cfg(feature = "tower")]
use std::thread;
use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Wake, Waker},
    time::Duration,
};

#[cfg(feature = "tower")]
use tokio::runtime;
use tokio::time;
use tokio_test::task;
#[cfg(feature = "tower")]
use tower_service::Service;

use super::*;
use crate::{
    Reporter,
    reporter::{
        attempts::MAX_BATCH,
        test_server::{TestServer, accounted},
    },
};

/// The future of a batch, which is answered at once, or never; and which looks, when it is polled and
/// dropped, whether a lock is held.
struct Call {
    dispatcher: Arc<Dispatcher>,
    is_answered: bool,
    was_locked: Arc<AtomicBool>,
}

impl Call {
    fn check(&self) {
        self.was_locked.fetch_or(!self.dispatcher.is_unlocked(), Ordering::Relaxed);
    }
}

impl Future for Call {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        self.check();
        if self.is_answered { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.check();
    }
}

/// A reporter without a task that sends, and three samples of it in flight.
fn in_flight() -> (Reporter, StartedBatch) {
    let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
    let reporter = Reporter::new(client);
    for second in 0..3 {
        reporter.record_at("a", 0.5, second);
    }
    let batch = reporter.shared().dispatcher.start_batch(false, MAX_BATCH).unwrap();
    (reporter, batch)
}

fn call(reporter: &Reporter, is_answered: bool) -> (Call, Arc<AtomicBool>) {
    let was_locked = Arc::new(AtomicBool::new(false));
    let dispatcher = Arc::clone(&reporter.shared().dispatcher);
    (Call { dispatcher, is_answered, was_locked: Arc::clone(&was_locked) }, was_locked)
}

#[tokio::test]
async fn batch_is_polled_and_dropped_without_a_lock() {
    for (is_answered, acknowledged) in [(true, 3), (false, 0)] {
        let (reporter, batch) = in_flight();
        let dispatcher = &reporter.shared().dispatcher;
        let (call, was_locked) = call(&reporter, is_answered);
        {
            let mut ended = task::spawn(dispatcher.ended(batch.id, call));
            let outcome = ended.poll();
            assert_eq!(outcome.is_ready(), is_answered);
            assert_eq!(dispatcher.recall(), !is_answered);
        }
        assert!(!was_locked.load(Ordering::Relaxed));
        let stats = accounted(&reporter);
        assert_eq!((stats.acknowledged, stats.waiting), (acknowledged, 3 - acknowledged));
    }
}

#[tokio::test]
async fn recalled_batch_ends_as_recalled_and_sends_nothing() {
    let (reporter, batch) = in_flight();
    let dispatcher = &reporter.shared().dispatcher;
    assert!(dispatcher.recall());
    assert!(!dispatcher.recall());
    // Its task is late, and begins to send only now.
    let outcome = dispatcher.batch_outcome(&reporter.shared().client, batch).await;
    assert!(matches!(outcome, SendOutcome::Recalled));
    assert_eq!(accounted(&reporter).waiting, 3);
}

#[tokio::test(start_paused = true)]
async fn recall_withdraws_unsent_samples_while_future_lives() {
    let server = TestServer::default();
    server.set_away(true);
    let client = server.builder().connect_lazy().unwrap();
    let reporter = Reporter::new(client.clone());
    for second in 0..100 {
        reporter.record_at("a", 0.5, second);
    }
    time::sleep(Duration::from_millis(50)).await;
    assert!(client.stats().queued > 0);
    // The task that sends still has the future of the batch.
    let dispatcher = &reporter.shared().dispatcher;
    assert!(dispatcher.pause_sender());
    let stats = client.stats();
    assert_eq!((stats.queued, stats.cancelled), (0, stats.accepted), "{stats:?}");
    assert_eq!(accounted(&reporter).waiting, 100);
    server.set_away(false);
    time::sleep(Duration::from_secs(60)).await;
    assert!(server.puts().is_empty());
    dispatcher.resume_sender();
    reporter.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 100);
}

/// Runs this when a task of foreign code is woken, until it has not panicked.
#[cfg(feature = "tower")]
struct OnWake<F>(F, AtomicBool);

#[cfg(feature = "tower")]
impl<F: Fn() + Send + Sync> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        if !self.1.load(Ordering::Relaxed) {
            (self.0)();
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Recalls a batch while a service of another executor waits for the room that the batch takes, so that
/// the service is woken amid the recall, and does this with the reporter.
#[cfg(feature = "tower")]
async fn recall_waking(act: impl Fn(&Reporter) + Send + Sync + 'static) -> (Reporter, TestServer) {
    let server = TestServer::default();
    server.set_away(true);
    let client = server.builder().max_buffered_bytes(0).connect_lazy().unwrap();
    let reporter = Reporter::new(client.clone());
    let long = "a".repeat(500);
    for second in 0..500 {
        reporter.record_at(&long, 0.5, second);
    }
    time::sleep(Duration::from_millis(50)).await;
    let acting = reporter.clone();
    let on_wake = Arc::new(OnWake(
        move || {
            assert!(acting.shared().dispatcher.is_unlocked(), "woken under a lock");
            act(&acting);
        },
        AtomicBool::new(false),
    ));
    let waker = Waker::from(Arc::clone(&on_wake));
    let mut service = client.service();
    assert!(service.poll_ready(&mut Context::from_waker(&waker)).is_pending());
    assert!(reporter.shared().dispatcher.recall());
    // A panic of a waker is caught.
    assert!(on_wake.1.load(Ordering::Relaxed), "not woken, or under a lock");
    (reporter, server)
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn waker_that_drops_a_guard_amid_recall_does_not_block() {
    let (reporter, server) =
        recall_waking(|reporter| drop(reporter.flush_on_drop(Duration::ZERO))).await;
    server.set_away(false);
    reporter.flush(Duration::from_secs(60)).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 500);
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn waker_that_closes_amid_recall_does_not_block() {
    let (reporter, _server) = recall_waking(|reporter| {
        let reporter = reporter.clone();
        let closing = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(reporter.close(Duration::ZERO)).unwrap_err().dropped
        });
        assert_eq!(closing.join().unwrap(), 500);
    })
    .await;
    assert_eq!(accounted(&reporter).dropped.closed, 500);
}

/// A sender that is woken, at once, wherever that happens.
struct Eager {
    dispatcher: Arc<Dispatcher>,
    has_sent: AtomicBool,
}

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        let batch = self.dispatcher.start_batch(false, MAX_BATCH);
        self.has_sent.store(batch.is_some(), Ordering::Relaxed);
    }
}

// FAULTS A3
#[tokio::test]
async fn batch_recalled_at_the_end_is_not_sent_again() {
    let (reporter, batch) = in_flight();
    let dispatcher = &reporter.shared().dispatcher;
    let eager =
        Arc::new(Eager { dispatcher: Arc::clone(dispatcher), has_sent: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&eager));
    assert!(dispatcher.in_flight().set_waker(batch.id, &waker).is_ok());
    let _ = dispatcher.outbox().close(tokio::time::Instant::now());
    assert_eq!(dispatcher.discard_all(), 3);
    assert!(!eager.has_sent.load(Ordering::Relaxed));
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.closed), (0, 3));
}
