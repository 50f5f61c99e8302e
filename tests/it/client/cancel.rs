//! Cancelled calls do not affect other calls.

use std::time::Duration;

use metrics_client::{Point, client::Pipelining};
use tokio::{join, time};

use crate::peer::MockNetwork;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn cancelled_put_does_not_shift_responses() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    // Sent, then dropped: its answer must not go to the get behind it.
    assert!(time::timeout(SECOND, client.put_at("a", 1.0, 1)).await.is_err());
    let server = async {
        peer.expect("put a 1.0 1\nget b\n").await;
        peer.send("error\nnot yours\n\n").await;
        peer.send("ok\nb 2.0 2\n\n").await;
    };
    let (metrics, ()) = join!(client.get("b"), server);
    assert_eq!(metrics.unwrap().points("b"), [Point::new(2.0, 2)]);
    assert_eq!(client.stats().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn cancelled_put_is_not_sent() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let mut peer = network.accept().await;

    let server = async {
        peer.expect("put a 1.0 1\n").await;
        // The second times out while the first is in flight.
        peer.expect_silence(2 * SECOND).await;
        peer.send("ok\n\n").await;
        peer.answer("put c 3.0 3\n", "ok\n\n").await;
    };
    let withdrawn = time::timeout(SECOND, client.put_at("b", 2.0, 2));
    let (a, b, c, ()) =
        join!(client.put_at("a", 1.0, 1), withdrawn, client.put_at("c", 3.0, 3), server);
    a.unwrap();
    assert!(b.is_err());
    c.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cancelled_request_holds_its_slot_until_answered() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let mut peer = network.accept().await;

    assert!(time::timeout(SECOND, client.put_at("a", 1.0, 1)).await.is_err());
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        peer.expect_silence(SECOND).await;
        peer.send("ok\n\n").await;
        peer.answer("put b 2.0 2\n", "ok\n\n").await;
    };
    let (b, ()) = join!(client.put_at("b", 2.0, 2), server);
    b.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cancelled_put_is_not_retried_after_reconnect() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    let server = async {
        peer.expect("put a 1.0 1\nput b 2.0 2\n").await;
        peer.expect_silence(2 * SECOND).await;
        drop(peer);
        network.accept().await.answer("put b 2.0 2\n", "ok\n\n").await;
    };
    let dropped = time::timeout(SECOND, client.put_at("a", 1.0, 1));
    let (a, b, ()) = join!(dropped, client.put_at("b", 2.0, 2), server);
    assert!(a.is_err());
    b.unwrap();
}
