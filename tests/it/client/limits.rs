//! Limits: queues and memory are bounded.

use std::time::Duration;

use metrics_client::{
    Delivery, Error, Sample,
    client::{Pipelining, WhenFull},
};
use tokio::{join, time::Instant};

use crate::peer::MockNetwork;

#[tokio::test(start_paused = true)]
async fn full_queue_fails_calls_with_overflow_fail() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder
        .pipelining(Pipelining::Off)
        .max_buffered_bytes(24)
        .when_full(WhenFull::Fail)
        .connect()
        .await
        .unwrap();
    let mut peer = network.accept().await;
    let server = async {
        for key in ["a", "b", "c"] {
            peer.answer(&format!("put {key} 1.0 1\n"), "ok\n\n").await;
        }
    };
    let fourth = async {
        // All three are with the client by now: one in flight, two of 12 bytes waiting.
        let error = client.put_at("d", 1.0, 1).await.unwrap_err();
        assert!(matches!(error, Error::QueueFull { limit: 24, .. }), "{error:?}");
        assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, true));
    };
    let first = client.put_at("a", 1.0, 1);
    tokio::pin!(first);
    let sent = async {
        tokio::select! {
            biased;
            _ = &mut first => unreachable!("no response was sent"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    };
    sent.await;
    let (first, b, c, (), ()) =
        join!(first, client.put_at("b", 1.0, 1), client.put_at("c", 1.0, 1), fourth, server);
    for put in [first, b, c] {
        put.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn wait_queue_is_first_in_first_out() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).max_buffered_bytes(1).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        for key in ["a", "b", "c", "d", "e"] {
            peer.answer(&format!("put {key} 1.0 1\n"), "ok\n\n").await;
        }
    };
    let (a, b, c, d, e, ()) = join!(
        client.put_at("a", 1.0, 1),
        client.put_at("b", 1.0, 1),
        client.put_at("c", 1.0, 1),
        client.put_at("d", 1.0, 1),
        client.put_at("e", 1.0, 1),
        server
    );
    for put in [a, b, c, d, e] {
        put.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn max_in_flight_is_never_exceeded() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).max_in_flight(3).connect().await.unwrap();
    let mut peer = network.accept().await;
    let samples = (0..5).map(|i| Sample::new("k", 1.0, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        peer.expect("put k 1.0 0\nput k 1.0 1\nput k 1.0 2\n").await;
        peer.expect_silence(Duration::from_secs(1)).await;
        peer.send("ok\n\n").await;
        peer.expect("put k 1.0 3\n").await;
        peer.expect_silence(Duration::from_secs(1)).await;
        peer.send("ok\n\nok\n\nok\n\n").await;
        peer.answer("put k 1.0 4\n", "ok\n\n").await;
    };
    let (all, ()) = join!(client.put_all(&samples), server);
    all.unwrap();
}

// FAULTS C7
#[tokio::test(start_paused = true)]
async fn oversized_response_fails_its_call_only() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::On).resend_unacknowledged(false);
    let client = builder.max_response_bytes(16).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("get a\nput b 1.0 1\nput c 1.0 1\n").await;
        peer.send("ok\na 1.0 1\na 1.0 2\n").await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        peer.send("a 1.0 3\n\nok\n\nerror\nthis is a long story\nof which little is kept\n\n")
            .await;
        peer.answer("put d 1.0 1\n", "ok\n\n").await;
    };
    let calls = async {
        let (get, b, c) =
            join!(client.get("a"), client.put_at("b", 1.0, 1), client.put_at("c", 1.0, 1));
        let error = get.unwrap_err();
        assert!(matches!(error, Error::ResponseTooLarge { limit: 16, .. }), "{error:?}");
        assert_eq!(error.to_string(), "response exceeds max_response_bytes (16); use `stream`");
        assert!(!error.is_retryable());
        b.unwrap();
        let Err(Error::Rejected { message, .. }) = c else { panic!("{c:?}") };
        assert_eq!(&*message, "this is a");
        client.put_at("d", 1.0, 1).await.unwrap();
    };
    join!(calls, server);
    network.expect_no_dial(Duration::from_secs(60)).await;
}

// FAULTS C7
#[tokio::test(start_paused = true)]
async fn oversized_response_delays_others_by_a_second() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).max_response_bytes(16).connect().await.unwrap();
    let mut peer = network.accept().await;
    let start = Instant::now();
    let server = async {
        peer.expect("get a\nput b 1.0 1\n").await;
        peer.send("ok\n").await;
        let endless = async {
            loop {
                peer.send("a 1.0 1\n").await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = endless => unreachable!("it sends for ever"),
            mut peer = network.accept() => peer.answer("put b 1.0 1\n", "ok\n\n").await,
        }
    };
    let (get, b, ()) = join!(client.get("a"), client.put_at("b", 1.0, 1), server);
    assert!(matches!(get, Err(Error::ResponseTooLarge { limit: 16, .. })), "{get:?}");
    b.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn invalid_request_fails_before_anything_is_sent() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;

    for key in ["", "a b", "a\nput b 1 1", "*"] {
        let error = client.put(key, 1.0).await.unwrap_err();
        assert!(matches!(error, Error::InvalidKey(_)), "{error:?}");
        assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, false));
    }
    let error = client.put("palm.cpu", f64::NAN).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid value NaN of key \"palm.cpu\": not finite");
    assert!(matches!(client.get("a b").await, Err(Error::InvalidKey(_))));
    let samples = [Sample::new("a", 1.0, 1).unwrap(), Sample::new("b", f64::INFINITY, 1).unwrap()];
    assert!(matches!(client.put_all(samples).await, Err(Error::NonFiniteValue(_))));

    peer.expect_silence(Duration::from_secs(60)).await;
    assert_eq!(client.stats().accepted, 0);
}
