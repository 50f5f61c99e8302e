//! A request at which the server closes the connection.

use std::time::Duration;

use metrics_client::{Delivery, Error, MetricsClient, client::Pipelining, error::ConnectionError};
use tokio::{join, task::JoinSet, time::Instant};

use crate::{
    mock_server::{self, OK, Reply},
    peer::MockNetwork,
};

/// What "soon" is: seven connections, of which no more than two have to wait, 50 and 100 ms at most.
pub(super) const SEARCH_TIME: Duration = Duration::from_millis(200);

/// Closes at a request that contains `poison`.
pub(super) fn closes_on_poison(request: &str) -> Reply {
    if request.contains("poison") { Reply::Close } else { OK }
}

pub(super) fn is_closed_on_request(error: &Error) -> bool {
    matches!(error, Error::Connection { source: fault, delivery: Delivery::Unknown, .. }
        if matches!(**fault, ConnectionError::ClosedOnRequest))
        && error.is_closed_on_request()
        && !error.is_retryable()
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn get_that_ends_connections_fails_alone() {
    for pipelining in [Pipelining::Off, Pipelining::On, Pipelining::Auto] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.pipelining(pipelining).connect().await.unwrap();
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for at in 0..100 {
            let client = client.clone();
            calls.spawn(async move {
                client.put_at("a", 1.0, at).await.unwrap();
                if at == 50 {
                    let error = client.get("poison").await.unwrap_err();
                    assert!(is_closed_on_request(&error), "{error:?}");
                }
                client.put_at("b", 1.0, at).await.unwrap();
            });
        }
        tokio::select! {
            () = mock_server::serve(&mut network, |_, request| closes_on_poison(request)) => unreachable!("it serves for ever"),
            _ = calls.join_all() => {}
        }
        assert!(start.elapsed() < SEARCH_TIME, "{pipelining:?}: {:?}", start.elapsed());
    }
}

// FAULTS C12: a server that loses the answers that it owes when it closes.
#[tokio::test(start_paused = true)]
async fn hangup_search_skips_requests_with_lost_answers() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for at in 0..500 {
        let client = client.clone();
        calls.spawn(async move {
            let key = if at == 333 { "poison".to_string() } else { format!("k{at}") };
            match client.put_at(&key, 1.0, at).await {
                Ok(()) => assert_ne!(at, 333),
                Err(error) => assert!(at == 333 && is_closed_on_request(&error), "{at}: {error:?}"),
            }
        });
    }
    let server = async {
        loop {
            let mut peer = network.accept().await;
            loop {
                let requests = peer.read_some().await;
                if requests.is_empty() || requests.contains("poison") {
                    break;
                }
                peer.send(&"ok\n\n".repeat(requests.lines().count())).await;
            }
        }
    };
    tokio::select! {
        () = server => unreachable!("it serves for ever"),
        _ = calls.join_all() => {}
    }
    assert!(start.elapsed() < SEARCH_TIME * 2, "{:?}", start.elapsed());
}

// FAULTS C12: restarting, a balancer without backends, a server whose disk is full.
#[tokio::test(start_paused = true)]
async fn hangup_on_every_request_is_only_a_delay() {
    for answers_gets in [false, true] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.request_timeout(Duration::from_secs(60)).connect().await.unwrap();
        let puts = |client: MetricsClient| async move {
            let mut calls = JoinSet::new();
            for at in 0..10 {
                let client = client.clone();
                calls.spawn(async move { client.put_at(format!("k{at}"), 1.0, 1).await });
            }
            calls.join_all().await
        };
        let start = Instant::now();
        let server = move |_, request: &str| {
            let works = start.elapsed() > Duration::from_secs(3);
            let answers = works || (answers_gets && request.starts_with("get"));
            if answers { OK } else { Reply::Close }
        };
        tokio::select! {
            () = mock_server::serve(&mut network, server) => unreachable!("it serves for ever"),
            outcomes = puts(client.clone()) => {
                assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            }
        }
    }
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn hangup_search_with_a_close_after_each_answer() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let start = Instant::now();
    let server = |_, request: &str| match closes_on_poison(request) {
        Reply::Close => Reply::Close,
        _ => Reply::TextAndClose("ok\n\n"),
    };
    let calls = async {
        let (get, put, a, b) = join!(
            client.get("poison"),
            client.put_at("poison", 1.0, 1),
            client.put_at("a", 1.0, 1),
            client.put_at("b", 1.0, 1),
        );
        assert!(is_closed_on_request(&get.unwrap_err()));
        assert!(is_closed_on_request(&put.unwrap_err()));
        a.unwrap();
        b.unwrap();
    };
    tokio::select! {
        () = mock_server::serve(&mut network, server) => unreachable!("it serves for ever"),
        () = calls => assert!(start.elapsed() < SEARCH_TIME * 2, "{:?}", start.elapsed()),
    }
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn completed_put_is_not_sent_ahead() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let put = |key: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.put_at(key, 1.0, 1).await })
    };
    let _suspect = put("a");
    let witness = put("b");
    for _ in 0..2 {
        network.accept().await.expect("put a 1.0 1\n").await;
    }
    let mut peer = network.accept().await;
    assert!(peer.read_some().await.starts_with("get hangup-probe."));
    peer.send("ok\n\n").await;
    peer.expect("put b 1.0 1\n").await;
    witness.abort();
    assert!(witness.await.unwrap_err().is_cancelled());
    drop(peer);
    let asked = network.accept().await.read_some().await;
    assert!(asked.starts_with("get hangup-probe."), "{asked}");
}

// FAULTS C12: a server that fails at random.
#[tokio::test(start_paused = true)]
async fn hangup_search_restarts_after_a_random_failure() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let put = |key: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.put_at(key, 1.0, 1).await })
    };
    let (suspect, witness) = (put("a"), put("b"));
    for _ in 0..2 {
        network.accept().await.expect("put a 1.0 1\n").await;
    }
    for at in 0..8 {
        let mut peer = network.accept().await;
        assert!(peer.read_some().await.starts_with("get hangup-probe."));
        if at == 4 {
            continue;
        }
        peer.send("ok\n\n").await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
        peer.expect("put a 1.0 1\n").await;
    }
    let mut peer = network.accept().await;
    assert!(peer.read_some().await.starts_with("get hangup-probe."));
    peer.send("ok\n\n").await;
    peer.answer("put b 1.0 1\n", "ok\n\n").await;
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    peer.answer("put b 1.0 1\n", "ok\n\n").await;
    suspect.await.unwrap().unwrap();
    witness.await.unwrap().unwrap();
}
