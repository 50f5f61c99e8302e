//! `try_record`, which returns why a sample was dropped, and `record_all`.

use metrics_client::{Sample, client::WhenFull, reporter::DropReason};

use super::{LONG, SECOND, accounted, reporting};

#[tokio::test(start_paused = true)]
async fn try_record_returns_the_reason_of_a_drop() {
    let (_network, reporter, mut peer) =
        reporting(|reporter| reporter.capacity(2).when_full(WhenFull::Fail)).await;
    let handle = reporter.series("a").unwrap();
    assert_eq!(reporter.try_record("a b", 1.0), Err(DropReason::InvalidKey));
    assert_eq!(reporter.try_record("a", f64::NAN), Err(DropReason::NonFiniteValue));
    assert_eq!(handle.try_record(f64::INFINITY), Err(DropReason::NonFiniteValue));
    assert_eq!(reporter.try_record_at("a", 1.0, 1), Ok(()));
    assert_eq!(reporter.try_record_at("a", 2.0, 2), Ok(()));
    assert_eq!(reporter.try_record_at("a", 3.0, 3), Err(DropReason::QueueFull));
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    peer.answer("put a 2.0 2\n", "ok\n\n").await;
    reporter.close(LONG).await.unwrap();
    assert_eq!(handle.try_record(4.0), Err(DropReason::Closed));
    let stats = accounted(&reporter);
    let dropped = stats.dropped;
    assert_eq!((stats.recorded, stats.acknowledged), (7, 2));
    assert_eq!((dropped.invalid_key, dropped.not_finite), (1, 2));
    assert_eq!((dropped.queue_full, dropped.closed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn try_record_accepts_where_the_oldest_is_dropped() {
    let (_network, reporter, _peer) = reporting(|reporter| reporter.capacity(2)).await;
    for second in 0..5 {
        assert_eq!(reporter.try_record_at("a", 1.0, second), Ok(()));
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.waiting, stats.dropped.queue_full), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn record_all_records_in_order_and_counts_each() {
    let (_network, reporter, mut peer) = reporting(|reporter| reporter).await;
    let mut samples: Vec<_> = (0..3).map(|second| Sample::new("a", 0.5, second).unwrap()).collect();
    samples[1].point.value = f64::NAN;
    reporter.record_all(&samples);
    reporter.record_all(vec![Sample::new("b", 1.5, 7).unwrap()]);
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.waiting, stats.dropped.not_finite), (4, 3, 1));
    peer.answer("put a 0.5 0\nput a 0.5 2\nput b 1.5 7\n", "ok\n\nok\n\nok\n\n").await;
    reporter.flush(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn record_all_takes_an_iterator_that_records() {
    let (_network, reporter, _peer) = reporting(|reporter| reporter).await;
    let samples = (0..1000).map(|second| {
        reporter.record_at("inner", 1.0, second);
        Sample::new("outer", 1.0, second).unwrap()
    });
    reporter.record_all(samples);
    assert_eq!(accounted(&reporter).recorded, 2000);
}
