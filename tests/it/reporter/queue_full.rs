//! What happens to samples when the queue is full.

use metrics_client::{client::WhenFull, reporter::ReporterBuilder};
use tokio::join;

use super::{LONG, SECOND, accounted, reporting};
use crate::peer::with_timeout;

fn three(policy: WhenFull) -> impl FnOnce(ReporterBuilder) -> ReporterBuilder {
    move |reporter| reporter.capacity(3).when_full(policy)
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_drops_the_oldest() {
    let (_network, reporter, mut peer) = reporting(three(WhenFull::DropOldest)).await;
    for second in 1..=5 {
        reporter.record_at("a", 0.5, second);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (3, 2));
    let server = peer.answer("put a 0.5 3\nput a 0.5 4\n", "ok\n\nok\n\n");
    let ((), ()) = join!(server, async {
        reporter.flush(SECOND).await.unwrap_err();
    });
    peer.answer("put a 0.5 5\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 3);
}

#[tokio::test(start_paused = true)]
async fn drop_newest_drops_the_newest() {
    let (_network, reporter, mut peer) = reporting(three(WhenFull::Fail)).await;
    for second in 1..=5 {
        reporter.record_at("a", 0.5, second);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (3, 2));
    peer.answer("put a 0.5 1\nput a 0.5 2\n", "ok\n\nok\n\n").await;
    peer.answer("put a 0.5 3\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn last_value_of_a_key_and_second_is_sent() {
    let (_network, reporter, mut peer) = reporting(three(WhenFull::Coalesce)).await;
    for (key, value, second) in [
        ("a", 1.0, 1),
        ("b", 2.0, 1),
        ("a", 3.0, 1),
        ("a", 4.0, 2),
        // The queue is full, and yet these are accepted.
        ("b", 5.0, 1),
        ("a", 6.0, 1),
        // The oldest has to go.
        ("c", 7.0, 1),
    ] {
        reporter.record_at(key, value, second);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.coalesced, stats.dropped.queue_full), (3, 3, 1));
    peer.answer("put b 5.0 1\nput a 4.0 2\n", "ok\n\nok\n\n").await;
    peer.answer("put c 7.0 1\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
}

/// A value in flight that must be retried does not replace a newer one.
#[tokio::test(start_paused = true)]
async fn superseded_value_is_not_retried() {
    let (mut network, reporter, mut peer) = reporting(three(WhenFull::Coalesce)).await;
    reporter.record_at("a", 1.0, 1);
    peer.expect("put a 1.0 1\n").await;
    reporter.record_at("a", 2.0, 1);
    assert_eq!(accounted(&reporter).waiting, 2);
    // An answer that breaks the protocol makes the client give up what is in flight.
    peer.send("what\n\n").await;
    let mut peer = network.accept().await;
    peer.answer("put a 2.0 1\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.coalesced), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn queue_bytes_are_bounded_and_include_keys() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter.max_bytes(10_000)).await;
    let long = "k".repeat(1000);
    for second in 0..100 {
        reporter.record_at(&long, 0.5, second);
        assert!(accounted(&reporter).waiting_bytes <= 10_000);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (9, 91));
    // One that is too large by itself cannot push out the others.
    let (_network, tiny, _peer) = reporting(|reporter| reporter.max_bytes(100)).await;
    tiny.record_at("a", 0.5, 1);
    tiny.record_at(&long, 0.5, 1);
    let stats = accounted(&tiny);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (1, 1));
    let _ = with_timeout(peer.read_some()).await;
}

/// What is being sent cannot make room, so it is at most half.
#[tokio::test(start_paused = true)]
async fn drop_oldest_accepts_while_a_batch_is_sent() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.capacity(4).when_full(WhenFull::DropOldest)).await;
    for second in 1..=4 {
        reporter.record_at("a", 0.5, second);
    }
    peer.expect("put a 0.5 1\nput a 0.5 2\n").await;
    for second in 5..=9 {
        reporter.record_at("a", 0.5, second);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (4, 5));
    peer.send("ok\n\nok\n\n").await;
    peer.answer("put a 0.5 8\nput a 0.5 9\n", "ok\n\nok\n\n").await;
}
