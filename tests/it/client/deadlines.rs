//! Timeouts cover the wait queue, the connect, the write and the response.

use std::{error::Error as _, time::Duration};

use metrics_client::{
    Delivery, Error, Sample,
    client::{ConnectionState, Pipelining},
};
use tokio::{join, time::Instant};

use crate::peer::{MockNetwork, with_timeout};

/// The default timeout of a request.
const LIMIT: Duration = Duration::from_secs(5);

/// The timer's resolution.
const TICK: Duration = Duration::from_millis(2);

#[track_caller]
fn assert_timeout(result: Result<(), Error>, since: Instant, expected: Delivery) -> Error {
    let waited = since.elapsed();
    assert!(waited >= LIMIT && waited <= LIMIT + TICK, "{waited:?}");
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert_eq!(error.delivery(), expected);
    assert!(error.is_retryable());
    error
}

#[tokio::test(start_paused = true)]
async fn request_timeout_without_a_response() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _peer = network.accept().await;
    let start = Instant::now();
    assert_timeout(with_timeout(client.put("a", 1.0)).await, start, Delivery::Unknown);
}

#[tokio::test(start_paused = true)]
async fn request_timeout_behind_max_in_flight() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let _peer = network.accept().await;
    let start = Instant::now();
    let (a, b) = join!(with_timeout(client.put("a", 1.0)), with_timeout(client.put("b", 1.0)));
    assert_timeout(a, start, Delivery::Unknown);
    assert_timeout(b, start, Delivery::NotSent);
}

#[tokio::test(start_paused = true)]
async fn request_timeout_during_connect() {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.connect_lazy().unwrap();
    let start = Instant::now();
    assert_timeout(with_timeout(client.put("a", 1.0)).await, start, Delivery::NotSent);
}

#[tokio::test(start_paused = true)]
async fn connection_refused_is_the_cause_of_a_timeout() {
    let (network, builder) = MockNetwork::new();
    network.refuse(1_000_000);
    let client = builder.connect_lazy().unwrap();
    let start = Instant::now();
    let error = assert_timeout(with_timeout(client.put("a", 1.0)).await, start, Delivery::NotSent);
    let cause = error.source().unwrap();
    assert_eq!(cause.to_string(), "cannot connect to peer");
    assert_eq!(cause.source().unwrap().to_string(), "connection refused");
}

#[tokio::test(start_paused = true)]
async fn request_timeout_when_the_server_does_not_read() {
    let (mut network, builder) = MockNetwork::with_buffer(8);
    let client = builder.connect().await.unwrap();
    let _peer = network.accept().await;
    let start = Instant::now();
    assert_timeout(
        with_timeout(client.put("a.rather.long.key", 1.0)).await,
        start,
        Delivery::Unknown,
    );
}

#[tokio::test(start_paused = true)]
async fn request_timeout_in_the_wait_queue() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_buffered_bytes(1).connect().await.unwrap();
    let _peer = network.accept().await;
    let start = Instant::now();
    let put = |key| with_timeout(client.put(key, 1.0));
    let (a, b, c) = join!(put("a"), put("b"), put("c"));
    assert_timeout(a, start, Delivery::Unknown);
    assert_timeout(b, start, Delivery::NotSent);
    assert_timeout(c, start, Delivery::NotSent);
}

#[tokio::test(start_paused = true)]
async fn request_timeout_is_not_extended_by_partial_data() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let start = Instant::now();
    let server = async {
        peer.expect("get a\n").await;
        peer.send("ok\n").await;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            peer.send("a 1.0 1\n").await;
        }
    };
    let get = async { client.get("a").await.map(drop) };
    tokio::select! {
        result = get => drop(assert_timeout(result, start, Delivery::Unknown)),
        () = server => unreachable!("it sends for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn stall_timeout_replaces_the_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let mut silent = network.accept().await;
    let start = Instant::now();
    with_timeout(client.put_at("a", 1.0, 1)).await.unwrap_err();
    silent.expect("put a 1.0 1\n").await;
    silent.expect_end().await;
    let waited = start.elapsed();
    assert!(waited >= 2 * LIMIT && waited <= 2 * LIMIT + TICK, "{waited:?}");
    let server = async {
        let mut peer = network.accept().await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
        peer
    };
    let (put, _peer) = join!(client.put_at("b", 1.0, 1), server);
    put.unwrap();
    assert_eq!(client.state(), ConnectionState::Connected);
}

#[tokio::test(start_paused = true)]
async fn duration_max_means_no_timeout() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder
        .request_timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .stall_timeout(Duration::MAX)
        .connect()
        .await
        .unwrap();
    let mut peer = network.accept().await;
    let (put, ()) = join!(client.put_at("a", 1.0, 1), peer.answer("put a 1.0 1\n", "ok\n\n"));
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_timeout_limits_the_calls_of_its_handle() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _peer = network.accept().await;
    let hasty = client.with_timeout(Duration::from_millis(100));
    let start = Instant::now();
    let (usual, short, get, batch) = join!(
        with_timeout(client.put("a", 1.0)),
        async { (hasty.put("b", 1.0).await, start.elapsed()) },
        async { (hasty.get("b").await, start.elapsed()) },
        async { (hasty.put_all([Sample::new("c", 1.0, 1).unwrap()]).await, start.elapsed()) },
    );
    assert_timeout(usual, start, Delivery::Unknown);
    for (name, result, waited) in
        [("put", short.0, short.1), ("get", get.0.map(drop), get.1), ("put_all", batch.0, batch.1)]
    {
        assert!(waited >= Duration::from_millis(100), "{name}: {waited:?}");
        assert!(waited <= Duration::from_millis(100) + TICK, "{name}: {waited:?}");
        assert!(result.unwrap_err().is_timeout(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn longer_with_timeout_outlives_other_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.stall_timeout(Duration::from_secs(120)).connect().await.unwrap();
    let mut peer = network.accept().await;
    let start = Instant::now();
    let patient = client.with_timeout(Duration::from_secs(60));
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        peer.send("ok\n\n").await;
    };
    let (long, usual, ()) =
        join!(patient.put_at("a", 1.0, 1), with_timeout(client.put_at("b", 1.0, 1)), server);
    long.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(30));
    assert!(matches!(usual, Err(Error::Timeout { timeout: LIMIT, .. })), "{usual:?}");
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn service_keeps_the_timeout_of_its_client() {
    use metrics_client::codec::Request;
    use tower::{Service, ServiceExt};

    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _peer = network.accept().await;
    let mut service = client.with_timeout(Duration::from_millis(100)).service();
    let start = Instant::now();
    let call = service.ready().await.unwrap().call(Request::get("a").unwrap());
    assert!(call.await.unwrap_err().is_timeout());
    assert!(start.elapsed() <= Duration::from_millis(100) + TICK);
}
