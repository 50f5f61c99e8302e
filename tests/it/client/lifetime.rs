//! Connections that work are replaced when they are old, and closed when they are idle.

use std::time::Duration;

use metrics_client::{
    Error,
    client::{ConnectionState, Pipelining, ReconnectPolicy},
};
use tokio::time;

use crate::peer::{MockNetwork, with_timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn max_lifetime_drains_the_connection_before_it_is_replaced() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::On).max_lifetime(10 * SECOND);
    let client = builder.connect().await.unwrap();
    let mut old = network.accept().await;
    // The limit is drawn between 8 and 10 seconds.
    time::sleep(7 * SECOND).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("a", 1.0, 1).await }
    });
    old.expect("put a 1.0 1\n").await;
    time::sleep(4 * SECOND).await;
    let second = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("a", 2.0, 1).await }
    });
    // It is over, and takes nothing new, but the response that is due.
    old.expect_silence(SECOND / 2).await;
    old.send("ok\n\n").await;
    with_timeout(first).await.unwrap().unwrap();
    old.expect_end().await;
    network.accept().await.answer("put a 2.0 1\n", "ok\n\n").await;
    with_timeout(second).await.unwrap().unwrap();
    let stats = client.stats();
    assert_eq!((stats.acknowledged, stats.retried, stats.reconnects), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn max_lifetime_of_an_idle_connection_makes_no_other() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.max_lifetime(SECOND).connect().await.unwrap();
    network.accept().await.expect_end().await;
    assert_eq!(client.state(), ConnectionState::Disconnected);
    let put = async { client.put_at("a", 1.0, 1).await.unwrap() };
    let answer = async { network.accept().await.answer("put a 1.0 1\n", "ok\n\n").await };
    tokio::join!(put, answer);
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_closes_a_connection_without_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.idle_timeout(2 * SECOND).connect().await.unwrap();
    let mut peer = network.accept().await;
    for at in 0..5 {
        let request = format!("put a 1.0 {at}\n");
        let put = async { client.put_at("a", 1.0, at).await.unwrap() };
        tokio::join!(put, peer.answer(&request, "ok\n\n"));
        time::sleep(SECOND).await;
    }
    assert_eq!((client.state(), client.stats().reconnects), (ConnectionState::Connected, 0));
    time::sleep(SECOND).await;
    peer.expect_end().await;
    assert_eq!(client.state(), ConnectionState::Disconnected);
    let put = async { client.put_at("a", 2.0, 1).await.unwrap() };
    let answer = async { network.accept().await.answer("put a 2.0 1\n", "ok\n\n").await };
    tokio::join!(put, answer);
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_does_not_close_a_client_that_never_reconnects() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.reconnect(ReconnectPolicy::never());
    let builder = builder.idle_timeout(SECOND).max_lifetime(SECOND);
    let client = builder.connect().await.unwrap();
    network.accept().await.expect_silence(10 * SECOND).await;
    assert_eq!(client.state(), ConnectionState::Connected);
}

#[tokio::test(start_paused = true)]
async fn max_attempts_close_the_client() {
    let (network, builder) = MockNetwork::new();
    network.refuse(100);
    let policy = ReconnectPolicy::backoff(SECOND, SECOND).max_attempts(3);
    let builder = builder.reconnect(policy).request_timeout(100 * SECOND);
    let client = builder.connect_lazy().unwrap();
    let error = with_timeout(client.put_at("a", 1.0, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error:?}");
    assert_eq!((client.state(), network.refusals_left()), (ConnectionState::Closed, 97));
}
