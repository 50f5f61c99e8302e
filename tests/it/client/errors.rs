//! Errors: every request has one outcome.

use std::{
    error::Error as _,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_test::task::panic_waker;
use metrics_client::{
    Delivery, Error, MetricsClient, Sample,
    client::{Address, ConnectionState, Connector, Pipelining, ReconnectPolicy},
    error::ConnectionError,
};
use tokio::{io::DuplexStream, join};

use crate::peer::{MockNetwork, with_timeout};

#[tokio::test(start_paused = true)]
async fn rejection_is_final_and_keeps_the_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("put a 1.0 1\n", "error\nwrong command\n\n").await;
        peer.answer("get a\n", "ok\n\n").await;
    };
    let calls = async {
        let error = client.put_at("a", 1.0, 1).await.unwrap_err();
        assert_eq!(error.to_string(), "request rejected by the server: wrong command");
        assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Rejected, false));
        assert!(client.get("a").await.unwrap().is_empty());
    };
    join!(calls, server);
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn protocol_error_is_shared_by_all_callers() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("put a 1.0 1\nget b\n").await;
        peer.send("HTTP/1.1 400 Bad Request\r\n").await;
        peer.expect_end().await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.get("b"), server);
    let (Err(Error::Connection { source: a, .. }), Err(Error::Connection { source: b, .. })) =
        (&a, &b)
    else {
        panic!("{a:?}, {b:?}")
    };
    assert!(Arc::ptr_eq(a, b));
    assert!(a.is_protocol_violation());
    // And the client goes on with another connection.
    let mut peer = network.accept().await;
    let (put, ()) = join!(client.put_at("c", 1.0, 1), peer.answer("put c 1.0 1\n", "ok\n\n"));
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn malformed_record_fails_its_get_only() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("get a\nget b\n").await;
        peer.send("ok\na one 1\n\nok\nb 2.0 2\n\n").await;
    };
    let (a, b, ()) = join!(client.get("a"), client.get("b"), server);
    let error = a.unwrap_err();
    assert!(matches!(error, Error::InvalidResponse(_)));
    assert_eq!(
        error.source().unwrap().to_string(),
        "invalid record \"a one 1\": expected `key value timestamp`"
    );
    assert_eq!(b.unwrap().point_count(), 1);
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn lost_connection_without_reconnect_closes_client() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.reconnect(ReconnectPolicy::never()).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async move {
        peer.expect("put a 1.0 1\n").await;
        drop(peer);
    };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    let Err(Error::Connection { source: fault, delivery, .. }) = put else { panic!("{put:?}") };
    assert!(matches!(*fault, ConnectionError::Closed));
    assert_eq!(delivery, Delivery::Unknown);
    assert_eq!(client.state(), ConnectionState::Closed);
    assert!(matches!(client.put("a", 1.0).await, Err(Error::Closed { .. })));
}

struct Panicking;

impl Connector for Panicking {
    type Io = DuplexStream;

    async fn connect(&self, _: &Address) -> std::io::Result<DuplexStream> {
        panic!("a connector's bug; this message is part of the test")
    }
}

#[tokio::test(start_paused = true)]
async fn driver_panic_fails_every_call() {
    let client = MetricsClient::builder("nowhere").connector(Panicking).connect_lazy().unwrap();
    let (a, b) = join!(with_timeout(client.put("a", 1.0)), with_timeout(client.get("b")));
    assert!(matches!(a, Err(Error::Closed { delivery: Delivery::NotSent, .. })), "{a:?}");
    assert!(matches!(b, Err(Error::Closed { .. })));
    assert!(matches!(client.put("c", 1.0).await, Err(Error::Closed { .. })));
    with_timeout(client.close()).await.unwrap();
}

// FAULTS C4
#[tokio::test(start_paused = true)]
async fn panicking_waker_does_not_block_other_callers() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let put = |key| client.put_at(key, 1.0, 1);
    let mut bad = pin!(put("bad"));
    let bad_waker = panic_waker();
    let mut on_bad_waker = Context::from_waker(&bad_waker);
    assert!(bad.as_mut().poll(&mut on_bad_waker).is_pending());
    let server = async {
        peer.expect("put bad 1.0 1\nput last 1.0 1\n").await;
        peer.send("ok\n\nok\n\n").await;
        peer.answer("put next 1.0 1\n", "ok\n\n").await;
    };
    let others = async {
        with_timeout(put("last")).await.unwrap();
        with_timeout(put("next")).await.unwrap();
    };
    join!(others, server);
    assert!(matches!(bad.poll(&mut on_bad_waker), Poll::Ready(Ok(()))));
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[test]
fn runtime_shutdown_fails_every_call() {
    let runtime = |paused| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(paused).build().unwrap()
    };
    let (home, away) = (runtime(false), runtime(true));
    let (client, io) = home.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64);
        (MetricsClient::from_io(ours), theirs)
    });
    away.block_on(async {
        let ending = async { home.shutdown_background() };
        let (put, ()) = join!(with_timeout(client.put("a", 1.0)), ending);
        assert!(matches!(put, Err(Error::RuntimeGone { .. })), "{put:?}");
    });
    drop(io);
}

// FAULTS C19
#[test]
fn call_without_its_runtime_is_an_error() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = runtime();
    for (connections, panics) in [(1, false), (1, true), (4, false), (4, true)] {
        let first = runtime();
        let client = first.block_on(async {
            MetricsClient::builder("127.0.0.1:1")
                .max_connections(connections)
                .connect_lazy()
                .unwrap()
        });
        // As where a test fails and others have the client in a `static`.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _first = first;
            assert!(!panics, "this message is part of the test");
        }));
        assert_eq!(ended.is_err(), panics);
        second.block_on(async {
            let samples = [Sample::new("a", 1.0, 1).unwrap()];
            let batch = match client.put_all(&samples).await {
                Err(Error::Batch(batch)) => Err(batch.first_error().1.clone()),
                outcome => outcome,
            };
            let outcomes = [
                client.put("a", 1.0).await,
                client.get("a").await.map(drop),
                client.get_all().await.map(drop),
                client.stream("*").await.map(drop),
                batch,
            ];
            for outcome in outcomes {
                let error = outcome.unwrap_err();
                assert!(matches!(error, Error::RuntimeGone { .. }), "{error:?}");
                assert_eq!(error.to_string(), "the client's runtime has ended");
                assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, false));
            }
            assert_eq!(client.state(), ConnectionState::Closed);
            client.close().await.unwrap();
        });
    }
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_completes_accepted_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("a", 1.0, 1).await }
    });
    drop(client);
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    put.await.unwrap().unwrap();
    peer.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn close_reports_unanswered_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _peer = network.accept().await;
    let (put, closed) = join!(client.put("a", 1.0), client.close());
    assert!(matches!(put, Err(Error::Timeout { .. })));
    assert!(matches!(closed, Err(Error::Timeout { .. })));
}

#[tokio::test(start_paused = true)]
async fn close_of_a_client_that_never_connected() {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let idle = builder.clone().connect_lazy().unwrap();
    idle.close().await.unwrap();
    let dialling = builder.connect_lazy().unwrap();
    let (put, closed) = join!(dialling.put("a", 1.0), dialling.close());
    put.unwrap_err();
    closed.unwrap_err();
}
