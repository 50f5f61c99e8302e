//! A request at which the server closes the connection.

use std::time::Duration;

use metrics_client::{
    Delivery, Error, MetricsClient, Sample, client::Pipelining, error::ConnectionError,
};
use tokio::{join, task::JoinSet, time::Instant};

use crate::peer::Network;

/// What "soon" is: seven connections, of which no more than two have to wait, 50 and 100 ms at most.
const SOON: Duration = Duration::from_millis(200);

/// What a server does at requests.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Answer,
    AnswerAndClose,
    Close,
}

/// Serves all connections, and answers requests one by one.
async fn serve(network: &mut Network, act: impl Fn(&str) -> Act + Clone + Send + 'static) {
    let mut connections = JoinSet::new();
    loop {
        let mut peer = network.accept().await;
        let act = act.clone();
        connections.spawn(async move {
            let mut read = String::new();
            loop {
                let Some(end) = read.find('\n') else {
                    match peer.read_some().await {
                        bytes if bytes.is_empty() => return,
                        bytes => read += &bytes,
                    }
                    continue;
                };
                let line = read.drain(..=end).collect::<String>();
                let act = act(&line);
                if act != Act::Close {
                    peer.send("ok\n\n").await;
                }
                if act != Act::Answer {
                    return;
                }
            }
        });
    }
}

/// Closes at a request that contains `poison`.
fn fears_poison(request: &str) -> Act {
    if request.contains("poison") { Act::Close } else { Act::Answer }
}

fn is_closed_on_request(error: &Error) -> bool {
    matches!(error, Error::Connection { fault, delivery: Delivery::Unknown }
        if matches!(**fault, ConnectionError::ClosedOnRequest))
        && error.is_closed_on_request()
        && !error.is_retryable()
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn get_that_ends_connections_fails_alone() {
    for pipelining in [Pipelining::Off, Pipelining::On, Pipelining::Auto] {
        let (mut network, builder) = Network::new();
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
            () = serve(&mut network, fears_poison) => unreachable!("it serves for ever"),
            _ = calls.join_all() => {}
        }
        assert!(start.elapsed() < SOON, "{pipelining:?}: {:?}", start.elapsed());
    }
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn put_all_isolates_samples_that_end_connections() {
    for (pipelining, poison) in [
        (Pipelining::Off, vec![7]),
        (Pipelining::On, vec![0]),
        (Pipelining::On, vec![700]),
        (Pipelining::Auto, vec![3, 4, 5, 6, 7, 8, 500]),
        (Pipelining::On, vec![999]),
    ] {
        let (mut network, builder) = Network::new();
        let client = builder.pipelining(pipelining).connect().await.unwrap();
        let samples = (0..1000).map(|at| {
            let key = if poison.contains(&at) { format!("poison.{at}") } else { format!("k{at}") };
            Sample::new(key, 1.0, at as i64).unwrap()
        });
        let samples = samples.collect::<Vec<_>>();
        let start = Instant::now();
        let batch = tokio::select! {
            () = serve(&mut network, fears_poison) => unreachable!("it serves for ever"),
            result = client.put_all(&samples) => match result {
                Err(Error::Batch(batch)) => batch,
                other => panic!("{other:?}"),
            },
        };
        // The last sample has no other behind it that could show that puts are stored.
        let closed_on = if poison == [999] { vec![] } else { poison.clone() };
        assert_eq!(batch.closed_on, closed_on, "{pipelining:?} {poison:?}: {batch:?}");
        assert_eq!(batch.acknowledged, 1000 - poison.len());
        assert_eq!((batch.first_failed, batch.rejected), (poison[0], 0));
        if closed_on.is_empty() {
            assert!(matches!(batch.error, Error::Timeout { .. }), "{batch:?}");
        } else {
            assert_eq!(batch.settled, 1000);
            assert!(is_closed_on_request(&batch.error));
            assert!(!Error::Batch(batch).is_retryable());
            assert!(start.elapsed() < SOON * poison.len() as u32 * 2, "{:?}", start.elapsed());
        }
    }
}

// FAULTS C12: a server that loses the answers that it owes when it closes.
#[tokio::test(start_paused = true)]
async fn hangup_search_skips_requests_with_lost_answers() {
    let (mut network, builder) = Network::new();
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
    assert!(start.elapsed() < SOON * 2, "{:?}", start.elapsed());
}

// FAULTS C12: restarting, a balancer without backends, a server whose disk is full.
#[tokio::test(start_paused = true)]
async fn hangup_on_every_request_is_only_a_delay() {
    for answers_gets in [false, true] {
        let (mut network, builder) = Network::new();
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
        let server = move |request: &str| {
            let works = start.elapsed() > Duration::from_secs(3);
            let answers = works || (answers_gets && request.starts_with("get"));
            if answers { Act::Answer } else { Act::Close }
        };
        tokio::select! {
            () = serve(&mut network, server) => unreachable!("it serves for ever"),
            outcomes = puts(client.clone()) => {
                assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            }
        }
    }
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn hangup_search_with_a_close_after_each_answer() {
    let (mut network, builder) = Network::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let start = Instant::now();
    let server = |request: &str| match fears_poison(request) {
        Act::Answer => Act::AnswerAndClose,
        act => act,
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
        () = serve(&mut network, server) => unreachable!("it serves for ever"),
        () = calls => assert!(start.elapsed() < SOON * 2, "{:?}", start.elapsed()),
    }
}

// FAULTS C12
#[tokio::test(start_paused = true)]
async fn completed_put_is_not_sent_ahead() {
    let (mut network, builder) = Network::new();
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
    let (mut network, builder) = Network::new();
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
