//! Recorded samples arrive.

use std::time::{Duration, SystemTime};

use metrics_client::{Key, Reporter, Sample, client::WhenFull};
use tokio::{join, task, time};

use super::{LONG, SECOND, accounted, reporting};
use crate::peer::with_timeout;

#[tokio::test(start_paused = true)]
async fn recorded_samples_are_sent() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    reporter.record_at("palm.cpu", 23.7, 1150864247);
    assert_eq!(accounted(&reporter).waiting, 1);
    peer.answer("put palm.cpu 23.7 1150864247\n", "ok\n\n").await;
    with_timeout(reporter.flush(LONG)).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.acknowledged, stats.waiting), (1, 1, 0));
    assert_eq!(stats.waiting_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn timestamp_is_the_second_of_recording() {
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    let before = seconds();
    reporter.record("a", 1.0);
    reporter.series("b").unwrap().record(2.0);
    let after = seconds();
    // It is sent much later, by the reporter's clock.
    time::sleep(LONG).await;
    let requests = peer.read_some().await;
    for (request, begins) in requests.lines().zip(["put a 1.0 ", "put b 2.0 "]) {
        let timestamp = request.strip_prefix(begins).unwrap().parse().unwrap();
        assert!((before..=after).contains(&timestamp), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn linger_sends_samples_together() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.linger(Duration::from_millis(50))).await;
    let handle = reporter.series("a").unwrap();
    assert_eq!(handle.key(), "a");
    // After a silence, the first leaves at once.
    handle.record_at(1.0, 1);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    time::sleep(Duration::from_millis(10)).await;
    handle.record_at(2.0, 2);
    peer.expect_silence(Duration::from_millis(30)).await;
    reporter.record_at("b", 3.0, 3);
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!(peer.read_some().await, "put a 2.0 2\nput b 3.0 3\n");
}

#[tokio::test(start_paused = true)]
async fn linger_ends_when_the_queue_is_half_full() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.linger(LONG).capacity(4)).await;
    reporter.record_at("a", 1.0, 1);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    time::sleep(SECOND).await;
    reporter.record_at("a", 2.0, 2);
    peer.expect_silence(SECOND).await;
    let recorded = time::Instant::now();
    reporter.record_at("a", 3.0, 3);
    assert_eq!(peer.read_some().await, "put a 2.0 2\nput a 3.0 3\n");
    assert!(recorded.elapsed() < SECOND, "{:?}", recorded.elapsed());
}

#[tokio::test(start_paused = true)]
async fn first_sample_after_silence_is_sent_at_once() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 0..3 {
        time::sleep(LONG).await;
        let recorded = time::Instant::now();
        reporter.record_at("a", 0.5, second);
        peer.answer(&format!("put a 0.5 {second}\n"), "ok\n\n").await;
        assert!(recorded.elapsed() < Duration::from_millis(5), "{:?}", recorded.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn flush_does_not_wait_for_the_linger() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter.linger(LONG)).await;
    reporter.record_at("a", 1.0, 1);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    time::sleep(SECOND).await;
    reporter.record_at("a", 2.0, 2);
    let (flushed, ()) = join!(reporter.flush(SECOND), peer.answer("put a 2.0 2\n", "ok\n\n"));
    flushed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn flush_ignores_what_is_recorded_later() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    reporter.record_at("a", 1.0, 1);
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        reporter.record_at("a", 2.0, 2);
        peer.send("ok\n\n").await;
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    flushed.unwrap();
    assert_eq!(accounted(&reporter).waiting, 1);
}

#[tokio::test(start_paused = true)]
async fn flush_timeout_reports_what_is_queued() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    reporter.flush(SECOND).await.unwrap();
    reporter.record_at("a", 1.0, 1);
    reporter.record_at("b", 1.0, 1);
    let unsent = with_timeout(reporter.flush(SECOND)).await.unwrap_err();
    assert_eq!((unsent.waiting, unsent.dropped, unsent.rejected), (2, 0, 0));
    assert_eq!(accounted(&reporter).waiting, 2);
    peer.answer("put a 1.0 1\nput b 1.0 1\n", "ok\n\nok\n\n").await;
    reporter.flush(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn invalid_samples_are_dropped_by_reason() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    reporter.record("a b", 1.0);
    reporter.record("a\nput b 1.0 1", 1.0);
    reporter.record("a", f64::NAN);
    reporter.series("b").unwrap().record(f64::INFINITY);
    assert!(reporter.series("*").is_err());
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.waiting), (4, 0));
    assert_eq!((stats.dropped.invalid_key, stats.dropped.not_finite), (2, 2));
    peer.expect_silence(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_sample_does_not_block_others() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for key in ["a", "no", "b", "no", "c"] {
        reporter.record_at(key, 1.0, 1);
    }
    let server = async {
        peer.expect("put a 1.0 1\nput no 1.0 1\nput b 1.0 1\nput no 1.0 1\nput c 1.0 1\n").await;
        peer.send("ok\n\nerror\nno\n\nok\n\nerror\nno\n\nok\n\n").await;
        // A refusal is final.
        peer.expect_silence(SECOND).await;
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    let unsent = flushed.unwrap_err();
    assert_eq!((unsent.waiting, unsent.dropped, unsent.rejected), (0, 0, 2));
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.rejected, stats.waiting), (3, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn self_metrics_are_reported() {
    let tell =
        |reporter: metrics_client::reporter::ReporterBuilder| reporter.self_metrics("me").unwrap();
    let (_network, reporter, mut peer) = reporting(tell).await;
    reporter.record_at("a", 1.0, 1);
    reporter.record("a b", 1.0);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    time::sleep(10 * SECOND).await;
    let requests = peer.read_some().await;
    let sent: Vec<_> =
        requests.lines().map(|request| request.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(
        sent,
        [
            "put me.recorded 2.0",
            "put me.acknowledged 1.0",
            "put me.coalesced 0.0",
            "put me.rejected 0.0",
            "put me.waiting 0.0",
            "put me.dropped.invalid_key 1.0",
            "put me.dropped.not_finite 0.0",
            "put me.dropped.queue_full 0.0",
            "put me.dropped.closed 0.0",
            "put me.dropped.poison 0.0",
            "put me.dropped.attempts 0.0",
        ]
    );
    assert_eq!(accounted(&reporter).recorded, 13);
}

#[tokio::test]
async fn self_metrics_have_their_keys() {
    let (ours, _theirs) = tokio::io::duplex(64);
    let client = metrics_client::MetricsClient::from_io(ours);
    assert!(Reporter::builder(client.clone()).self_metrics("a b").is_err());
    let longest = "k".repeat(Key::MAX_LEN);
    assert!(Reporter::builder(client).self_metrics(longest).is_err());
}

/// Nothing but the recording runs on this runtime for a while: it must neither wait nor lose anything.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn record_in_a_loop_that_never_yields() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.capacity(1000).when_full(WhenFull::DropOldest)).await;
    for second in 0..100_000 {
        reporter.record_at("a", 1.0, second);
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (1000, 99_000));
    let server = async {
        for second in 99_000..100_000 {
            let sample = Sample::new("a", 1.0, second).unwrap();
            peer.answer(&format!("put {sample}\n"), "ok\n\n").await;
        }
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    flushed.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 1000);
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_sends_the_queue() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter.linger(LONG)).await;
    let handle = reporter.series("a").unwrap();
    handle.record_at(1.0, 1);
    drop(reporter);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    task::yield_now().await;
    handle.record_at(2.0, 2);
    drop(handle);
    peer.answer("put a 2.0 2\n", "ok\n\n").await;
    peer.expect_end().await;
}
