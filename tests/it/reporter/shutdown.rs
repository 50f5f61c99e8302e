//! The end of a reporter.

use metrics_client::Error;
use tokio::join;

use super::{LONG, SECOND, accounted, reporting};
use crate::peer::with_timeout;

#[tokio::test(start_paused = true)]
async fn close_sends_the_queue_and_accepts_no_more() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter.linger(LONG)).await;
    reporter.record_at("a", 1.0, 1);
    let (closed, ()) = join!(reporter.close(LONG), async {
        peer.expect("put a 1.0 1\n").await;
        reporter.record_at("a", 2.0, 2);
        peer.send("ok\n\n").await;
    });
    closed.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.dropped.closed, stats.waiting), (1, 1, 0));
    reporter.flush(SECOND).await.unwrap();
    with_timeout(reporter.close(SECOND)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_timeout_reports_unsent_samples() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 1..=3 {
        reporter.record_at("a", 0.5, second);
    }
    let unsent = with_timeout(reporter.close(SECOND)).await.unwrap_err();
    assert_eq!((unsent.waiting, unsent.dropped, unsent.rejected), (0, 3, 0));
    let stats = accounted(&reporter);
    assert_eq!((stats.dropped.closed, stats.waiting, stats.waiting_bytes), (3, 0, 0));
    let _ = peer.read_some().await;
}

#[tokio::test(start_paused = true)]
async fn close_retries_until_its_timeout() {
    let (mut network, builder) = crate::peer::MockNetwork::new();
    network.black_hole();
    let reporter = metrics_client::Reporter::new(builder.connect_lazy().unwrap());
    reporter.record_at("a", 1.0, 1);
    let server = async {
        // Several attempts fail in this time.
        tokio::time::sleep(30 * SECOND).await;
        network.refuse(0);
        network.accept().await.answer("put a 1.0 1\n", "ok\n\n").await;
    };
    let (closed, ()) = join!(reporter.close(LONG), server);
    closed.unwrap();
}

/// They would be dropped, and counted and logged as if the program had recorded them too late.
#[tokio::test(start_paused = true)]
async fn self_metrics_are_recorded_once_at_close() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.self_metrics("me").unwrap()).await;
    let guard = reporter.flush_on_drop(SECOND);
    let (closed, ()) = join!(reporter.close(LONG), async {
        let mut requests = String::new();
        while requests.lines().count() < 11 || !requests.ends_with('\n') {
            requests += &peer.read_some().await;
        }
        peer.send(&"ok\n\n".repeat(11)).await;
    });
    closed.unwrap();
    reporter.close(SECOND).await.unwrap();
    drop(guard);
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.acknowledged, stats.dropped.total()), (11, 11, 0));
}

#[tokio::test(start_paused = true)]
async fn close_error_has_its_cause() {
    let (network, builder) = crate::peer::MockNetwork::new();
    network.black_hole();
    let reporter = metrics_client::Reporter::new(builder.connect_lazy().unwrap());
    reporter.record_at("a", 1.0, 1);
    let unsent = with_timeout(reporter.close(10 * SECOND)).await.unwrap_err();
    assert!(matches!(unsent.cause, Some(Error::Batch(_))), "{unsent:?}");
    assert_eq!(unsent.to_string(), "flush incomplete: 0 queued, 1 dropped, 0 rejected");
}

#[tokio::test(start_paused = true)]
async fn flush_returns_when_the_client_is_closed() {
    let (_network, client, _peer) = super::connected().await;
    let reporter = metrics_client::Reporter::new(client.clone());
    client.close().await.unwrap();
    reporter.record_at("a", 1.0, 1);
    let start = tokio::time::Instant::now();
    let unsent = reporter.flush(LONG).await.unwrap_err();
    assert_eq!(unsent.waiting, 1);
    assert!(start.elapsed() < SECOND);
    accounted(&reporter);
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_during_an_outage_ends_task() {
    let (network, builder) = crate::peer::MockNetwork::new();
    network.refuse(usize::MAX - 1);
    let reporter = metrics_client::Reporter::new(builder.connect_lazy().unwrap());
    reporter.record_at("a", 1.0, 1);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 2);
    drop(reporter);
    tokio::time::sleep(LONG).await;
    assert_eq!(tasks(), 0);
}

// FAULTS A20
#[tokio::test(start_paused = true)]
async fn close_timeout_keeps_earlier_acks() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 1..=4 {
        reporter.record_at("a", 0.5, second);
    }
    let (closed, ()) = join!(reporter.close(SECOND), async {
        peer.expect("put a 0.5 1\nput a 0.5 2\nput a 0.5 3\nput a 0.5 4\n").await;
        peer.send("ok\n\nerror\nno\n\nok\n\n").await;
    });
    let unsent = closed.unwrap_err();
    assert_eq!((unsent.waiting, unsent.dropped, unsent.rejected), (0, 1, 1), "{unsent}");
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.rejected, stats.dropped.closed), (2, 1, 1));
}

// FAULTS A3
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_close() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 0..5000 {
        reporter.record_at("a", 0.5, second);
    }
    let server = async {
        for second in 0..10 {
            peer.expect(&format!("put a 0.5 {second}\n")).await;
            tokio::time::sleep(SECOND / 10).await;
            peer.send("ok\n\n").await;
        }
    };
    let (closed, ()) = join!(reporter.close(SECOND), server);
    closed.unwrap_err();
    let stats = accounted(&reporter);
    assert_eq!(stats.waiting, 0);
    // What the connection had taken before may still be there to be read.
    while let Ok(some) = tokio::time::timeout(SECOND / 100, peer.read_some()).await {
        peer.send(&"ok\n\n".repeat(some.lines().count())).await;
    }
    peer.expect_silence(60 * SECOND).await;
    assert_eq!(accounted(&reporter), stats);
}
