//! Servers that close each connection after a response, or reject connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics_client::{Error, client::Pipelining, error::ConnectionError};
use tokio::{join, task::JoinSet, time::Instant};

use crate::peer::MockNetwork;

// FAULTS C10
#[tokio::test(start_paused = true)]
async fn error_then_close_rejects_the_connection() {
    for waits_for_request in [false, true] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.connect_lazy().unwrap();
        let server = async {
            for _ in 0..3 {
                let mut peer = network.accept().await;
                if waits_for_request {
                    peer.read_some().await;
                }
                peer.send("error\ntoo many connections\n\n").await;
                // The end comes a moment later.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let mut peer = network.accept().await;
            loop {
                let requests = peer.read_some().await;
                peer.send(&"ok\n\n".repeat(requests.lines().count())).await;
            }
        };
        tokio::select! {
            put = client.put_at("a", 1.0, 1) => put.unwrap(),
            () = server => unreachable!("it serves for ever"),
        }
        assert_eq!(client.stats().rejected, 0);
    }
}

// FAULTS C10
#[tokio::test(start_paused = true)]
async fn rejected_connections_are_the_cause_of_a_timeout() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect_lazy().unwrap();
    let dials = AtomicUsize::new(0);
    let server = async {
        loop {
            network.accept().await.send("error\ntoo many connections\n\n").await;
            dials.fetch_add(1, Ordering::Relaxed);
        }
    };
    let error = tokio::select! {
        put = client.put_at("a", 1.0, 1) => put.unwrap_err(),
        () = server => unreachable!("it serves for ever"),
    };
    assert!(error.is_retryable());
    let Error::Timeout { source: Some(fault), .. } = error else { panic!("{error:?}") };
    assert!(
        matches!(&*fault, ConnectionError::Rejected { message, .. }
            if &**message == "too many connections"),
        "{fault:?}"
    );
    assert!(!fault.is_protocol_violation());
    // With backoff.
    assert!(dials.load(Ordering::Relaxed) < 30);
}

// FAULTS C10: the same answer from a server that closes after each, which means the request.
#[tokio::test(start_paused = true)]
async fn error_of_a_close_after_each_server_is_final() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let start = Instant::now();
    let server = async {
        loop {
            let mut peer = network.accept().await;
            let is_bad = peer.read_some().await.contains("bad");
            peer.send(if is_bad { "error\nno\n\n" } else { "ok\n\n" }).await;
        }
    };
    let calls = async {
        let (a, bad, b) = join!(
            client.put_at("a", 1.0, 1),
            client.put_at("bad", 1.0, 1),
            client.put_at("b", 1.0, 1),
        );
        a.unwrap();
        assert!(matches!(bad, Err(Error::Rejected { .. })), "{bad:?}");
        b.unwrap();
    };
    tokio::select! {
        () = calls => assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed()),
        () = server => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn error_without_close_rejects_the_request() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let start = Instant::now();
    let (put, ()) =
        join!(client.put_at("a", 1.0, 1), peer.answer("put a 1.0 1\n", "error\nno\n\n"));
    assert!(matches!(put, Err(Error::Rejected { .. })), "{put:?}");
    assert!(start.elapsed() < Duration::from_millis(55), "{:?}", start.elapsed());
    // No time is lost where more answers follow, nor later on.
    let start = Instant::now();
    let (put, ()) =
        join!(client.put_at("a", 1.0, 1), peer.answer("put a 1.0 1\n", "error\nno\n\n"));
    assert!(matches!(put, Err(Error::Rejected { .. })), "{put:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// FAULTS C10
#[tokio::test(start_paused = true)]
async fn rejected_connection_of_a_stream_is_retried() {
    for ends in [true, false] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.connect_lazy().unwrap();
        let server = async {
            let mut peer = network.accept().await;
            peer.answer("get *\n", "error\ntoo many connections\n\n").await;
            if ends { None } else { Some(peer) }
        };
        let (stream, _peer) = join!(client.stream("*"), server);
        let error = stream.unwrap().next().await.unwrap().unwrap_err();
        match error {
            Error::Connection { source: fault, .. } if ends => {
                assert!(matches!(*fault, ConnectionError::Rejected { .. }), "{fault:?}");
            }
            Error::Rejected { message, .. } if !ends => {
                assert_eq!(&*message, "too many connections");
            }
            error => panic!("{error:?}"),
        }
    }
}

// FAULTS C11
#[tokio::test(start_paused = true)]
async fn close_after_each_answer_costs_no_backoff() {
    for pipelining in [Pipelining::Off, Pipelining::Auto] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.pipelining(pipelining).connect().await.unwrap();
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for at in 0..8 {
            let client = client.clone();
            calls.spawn(async move {
                for second in 0..100 {
                    client.put_at(format!("k{at}"), 1.0, second).await.unwrap();
                }
            });
        }
        let dials = Arc::new(AtomicUsize::new(0));
        let dialled = Arc::clone(&dials);
        let server = async move {
            let mut connections = JoinSet::new();
            loop {
                let mut peer = network.accept().await;
                dialled.fetch_add(1, Ordering::Relaxed);
                connections.spawn(async move {
                    if !peer.read_some().await.is_empty() {
                        peer.send("ok\n\n").await;
                    }
                });
            }
        };
        tokio::select! {
            _ = calls.join_all() => {}
            () = server => unreachable!("it serves for ever"),
        }
        assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
        // One for each answer, and one for the probe.
        let dials = dials.load(Ordering::Relaxed);
        assert!(dials <= 803, "{dials}");
    }
}
