//! Outages of the server.

use std::time::Duration;

use metrics_client::{Reporter, Sample, client::WhenFull};
use tokio::{join, time};

use super::{LONG, SECOND, accounted, connected, reporting};
use crate::peer::MockNetwork;

#[tokio::test(start_paused = true)]
async fn unacked_samples_are_resent_in_order_and_first() {
    let (mut network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 1..=3 {
        reporter.record_at("a", 0.5, second);
    }
    peer.expect("put a 0.5 1\nput a 0.5 2\nput a 0.5 3\n").await;
    reporter.record_at("a", 0.5, 4);
    peer.send("ok\n\n").await;
    network.black_hole();
    drop(peer);
    time::sleep(60 * SECOND).await;
    let stats = accounted(&reporter);
    // The one that was acknowledged is known to be.
    assert_eq!((stats.acknowledged, stats.waiting), (1, 3));
    network.refuse(0);
    let mut peer = network.accept().await;
    for second in 2..=4 {
        peer.answer(&format!("put a 0.5 {second}\n"), "ok\n\n").await;
    }
    reporter.flush(LONG).await.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 4);
}

#[tokio::test(start_paused = true)]
async fn rejection_before_a_failure_is_counted_once() {
    let (mut network, reporter, mut peer) = reporting(|reporter| reporter).await;
    for second in 1..=4 {
        reporter.record_at("a", 0.5, second);
    }
    peer.expect("put a 0.5 1\nput a 0.5 2\nput a 0.5 3\nput a 0.5 4\n").await;
    peer.send("ok\n\nerror\nno\n\nok\n\n").await;
    network.black_hole();
    drop(peer);
    time::sleep(60 * SECOND).await;
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.rejected, stats.waiting), (2, 1, 1));
    network.refuse(0);
    network.accept().await.answer("put a 0.5 4\n", "ok\n\n").await;
    reporter.flush(LONG).await.unwrap();
    let stats = accounted(&reporter);
    assert_eq!((stats.acknowledged, stats.rejected), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn protocol_errors_back_off() {
    let (mut network, reporter, mut peer) = reporting(|reporter| reporter).await;
    reporter.record_at("a", 1.0, 1);
    let start = time::Instant::now();
    let mut connections = 0;
    while start.elapsed() < 60 * SECOND {
        peer.expect("put a 1.0 1\n").await;
        peer.send("what\n\n").await;
        peer = network.accept().await;
        connections += 1;
        assert_eq!(accounted(&reporter).waiting, 1);
    }
    assert!(connections < 100, "{connections}");
}

/// A minute without a server, at 100,000 samples a second.
#[tokio::test(start_paused = true)]
async fn outage_of_a_minute_is_bounded_and_adds_up() {
    const CAPACITY: u64 = 50_000;
    let (mut network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.pipelining(metrics_client::client::Pipelining::On).connect_lazy().unwrap();
    let reporter = Reporter::builder(client)
        .capacity(CAPACITY as usize)
        .when_full(WhenFull::DropOldest)
        .start();
    let handles: Vec<_> =
        (0..100).map(|host| reporter.series(format!("rack{host:03}.cpu")).unwrap()).collect();
    let recorded = 60 * 100_000;
    for number in 0..recorded {
        handles[number % handles.len()].record_at(0.5, number as i64);
        if number % 1000 == 999 {
            time::sleep(Duration::from_millis(10)).await;
            let stats = accounted(&reporter);
            assert!(stats.waiting <= CAPACITY, "{stats:?}");
        }
    }
    let stats = accounted(&reporter);
    assert_eq!((stats.recorded, stats.waiting), (recorded as u64, CAPACITY));
    assert_eq!(stats.dropped.queue_full, recorded as u64 - CAPACITY);

    // And when the server is back, what waits arrives.
    network.refuse(0);
    let mut peer = network.accept().await;
    let server = async {
        let mut requests = 0;
        while requests < CAPACITY {
            let some = peer.read_some().await;
            let count = some.bytes().filter(|&byte| byte == b'\n').count();
            peer.send(&"ok\n\n".repeat(count)).await;
            requests += count as u64;
        }
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    flushed.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, CAPACITY);
}

#[tokio::test(start_paused = true)]
async fn slow_server_gets_no_duplicates() {
    let (_network, client, mut peer) = connected().await;
    let reporter = Reporter::new(client);
    for second in 0..3000 {
        reporter.record_at("a", 0.5, second);
    }
    let server = async {
        for second in 0..3000 {
            let sample = Sample::new("a", 0.5, second).unwrap();
            peer.expect(&format!("put {sample}\n")).await;
            time::sleep(Duration::from_millis(10)).await;
            peer.send("ok\n\n").await;
        }
    };
    let (flushed, ()) = join!(reporter.flush(LONG), server);
    flushed.unwrap();
    assert_eq!(accounted(&reporter).acknowledged, 3000);
}
