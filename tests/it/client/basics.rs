//! Each kind of call, as a conversation.

use metrics_client::{MetricsClient, Point, Sample, client::Pipelining};
use tokio::join;

use crate::peer::MockNetwork;

#[tokio::test(start_paused = true)]
async fn put_returns_when_acknowledged() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;

    let put = client.put_at("palm.cpu", 23.7, 1150864247);
    let server = peer.answer("put palm.cpu 23.7 1150864247\n", "ok\n\n");
    let (put, ()) = join!(put, server);
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn get_returns_points() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;

    let get = client.get("palm.cpu");
    let server =
        peer.answer("get palm.cpu\n", "ok\npalm.cpu 2.0 1150864247\npalm.cpu 0.5 1150864248\n\n");
    let (metrics, ()) = join!(get, server);
    assert_eq!(
        metrics.unwrap().points("palm.cpu"),
        [Point::new(2.0, 1150864247), Point::new(0.5, 1150864248)]
    );
}

#[tokio::test(start_paused = true)]
async fn clones_share_a_connection_and_a_segment() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    let clone = client.clone();
    let puts = async { join!(client.put_at("a", 1.0, 1), clone.put_at("b", 2.0, 2)) };
    let server = async {
        assert_eq!(peer.read_some().await, "put a 1.0 1\nput b 2.0 2\n");
        peer.send("ok\n\nok\n\n").await;
    };
    let ((a, b), ()) = join!(puts, server);
    a.unwrap();
    b.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_flight_is_unlimited_by_default() {
    let (mut network, builder) = MockNetwork::new();
    let client =
        builder.pipelining(Pipelining::On).max_in_flight(usize::MAX).connect().await.unwrap();
    let mut peer = network.accept().await;
    let samples = [Sample::new("k", 1.0, 1).unwrap()];
    let (result, ()) = join!(client.put_all(samples), peer.answer("put k 1.0 1\n", "ok\n\n"));
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_completes_accepted_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;

    let server = async {
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer.answer("put a 2.0 2\n", "ok\n\n").await;
        peer.expect_end().await;
    };
    let (a, b, closed, ()) =
        join!(client.put_at("a", 1.0, 1), client.put_at("a", 2.0, 2), client.close(), server);
    a.unwrap();
    b.unwrap();
    closed.unwrap();
    assert!(matches!(client.put("a", 1.0).await, Err(metrics_client::Error::Closed { .. })));
}

#[tokio::test]
async fn given_stream_serves_requests() {
    let (ours, mut theirs) = tokio::io::duplex(64);
    let client = MetricsClient::from_io(ours);
    let server = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut got = [0; 12];
        theirs.read_exact(&mut got).await.unwrap();
        theirs.write_all(b"ok\n\n").await.unwrap();
        got
    };
    let (put, got) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert_eq!(&got, b"put a 1.0 1\n");
}
