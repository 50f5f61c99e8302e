//! Closing with a limit, pings, and what a client says of its connection.

use std::{io, time::Duration};

use futures_core::FusedStream;
use metrics_client::{
    Delivery, Error, MetricsClient,
    client::{ConnectionState, SampleStream, connector_fn},
};
use tokio::{io::DuplexStream, join, time::Instant};

use crate::peer::{MockNetwork, with_timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn close_within_serves_accepted_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer.expect_end().await;
    };
    let (put, closed, ()) = with_timeout(async {
        join!(client.put_at("a", 1.0, 1), client.close_within(SECOND), server)
    })
    .await;
    put.unwrap();
    closed.unwrap();
    assert_eq!(client.state(), ConnectionState::Closed);
}

#[tokio::test(start_paused = true)]
async fn close_within_fails_requests_at_its_limit() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let began = Instant::now();
    let calls = async {
        join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), client.close_within(SECOND))
    };
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        peer.expect_end().await;
    };
    let ((sent, unsent, closed), ()) = with_timeout(async { join!(calls, server) }).await;
    assert!(matches!(sent, Err(Error::Closed { delivery: Delivery::Unknown, .. })), "{sent:?}");
    assert!(matches!(unsent, Err(Error::Closed { delivery: Delivery::NotSent, .. })), "{unsent:?}");
    assert!(matches!(closed, Err(Error::Closed { .. })), "{closed:?}");
    assert_eq!(began.elapsed(), SECOND);
    client.close().await.unwrap_err();
    let stats = client.stats();
    assert_eq!((stats.failed, stats.in_flight, stats.queued), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn close_within_ends_a_dial() {
    let client = MetricsClient::builder("nowhere")
        .connector(connector_fn(|_| std::future::pending::<io::Result<DuplexStream>>()))
        .connect_lazy()
        .unwrap();
    let (put, closed) = with_timeout(async {
        join!(client.put_at("a", 1.0, 1), client.close_within(Duration::from_millis(10)))
    })
    .await;
    assert!(matches!(put, Err(Error::Closed { delivery: Delivery::NotSent, .. })), "{put:?}");
    closed.unwrap_err();
    let mut states = client.watch_state();
    with_timeout(states.wait_for(|state| state == ConnectionState::Closed)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ping_asks_for_a_key_that_is_not_stored() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect_lazy().unwrap();
    assert!(!client.is_connected());
    let server = async {
        let mut peer = network.accept().await;
        peer.answer("get metrics-client.ping\n", "ok\n\n").await;
        peer
    };
    let (ping, mut peer) = with_timeout(async { join!(client.ping(), server) }).await;
    ping.unwrap();
    assert!(client.is_connected());

    let server = async {
        peer.expect("get metrics-client.ping\n").await;
        drop(peer);
        let mut peer = network.accept().await;
        peer.answer("get metrics-client.ping\n", "error\nno\n\n").await;
        // Not the end of the connection, so the message is about the request.
        peer.expect_silence(SECOND).await;
    };
    let (ping, ()) = with_timeout(async { join!(client.ping(), server) }).await;
    assert!(matches!(ping, Err(Error::Rejected { .. })), "{ping:?}");
}

#[tokio::test(start_paused = true)]
async fn sample_stream_is_fused_and_sync() {
    fn is_sync<T: Send + Sync>(_: &T) {}

    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let server = async {
        network.accept().await.answer("get a\n", "ok\na 1.0 1\n\n").await;
    };
    let read = async {
        let mut samples: SampleStream = client.stream("a").await.unwrap();
        is_sync(&samples);
        assert!(!samples.is_terminated());
        samples.next().await.unwrap().unwrap();
        assert!(samples.next().await.is_none());
        assert!(samples.is_terminated());
        assert!(samples.next().await.is_none());
    };
    with_timeout(async { join!(read, server) }).await;
}
