//! Responses that break the protocol or bend it.

use std::time::Duration;

use metrics_client::{Delivery, Error, Point, client::Pipelining, error::ConnectionError};
use tokio::join;

use crate::peer::MockNetwork;

#[tokio::test(start_paused = true)]
async fn extra_blank_line_is_skipped() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("put a 1.0 1\n", "ok\n\n\n").await;
        peer.answer("get a\n", "ok\na 1.0 1\n\n\n").await;
        peer.answer("put a 2.0 2\n", "ok\n\n\n").await;
    };
    let calls = async {
        client.put_at("a", 1.0, 1).await.unwrap();
        assert_eq!(client.get("a").await.unwrap().point_count(), 1);
        client.put_at("a", 2.0, 2).await.unwrap();
    };
    join!(calls, server);
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn rows_are_grouped_sorted_and_deduplicated() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let answer = "ok\na 3 3\nb nan 1 \na 1e-05 1\na inf 2\na 10.0 3\n\n";
    let (metrics, ()) = join!(client.get_all(), peer.answer("get *\n", answer));
    let metrics = metrics.unwrap();
    assert_eq!(
        metrics.points("a"),
        [Point::new(1e-5, 1), Point::new(f64::INFINITY, 2), Point::new(10.0, 3)]
    );
    assert!(metrics.points("b")[0].value.is_nan());
}

#[tokio::test(start_paused = true)]
async fn error_without_text_is_an_error() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let (put, ()) = join!(client.put_at("a", 1.0, 1), peer.answer("put a 1.0 1\n", "error\n\n"));
    let error = put.unwrap_err();
    assert_eq!(error.to_string(), "request rejected by the server: no reason given");
}

#[tokio::test(start_paused = true)]
async fn response_split_at_any_byte_is_one_response() {
    let answer = "ok\na 1.5 10\na 2.5 20\n\n";
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    for split in 0..=answer.len() {
        let server = async {
            peer.expect("get a\n").await;
            peer.send(&answer[..split]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            peer.send(&answer[split..]).await;
        };
        let (metrics, ()) = join!(client.get("a"), server);
        assert_eq!(metrics.unwrap().points("a"), [Point::new(1.5, 10), Point::new(2.5, 20)]);
    }
}

/// The client must not use a connection on which this came when nothing was asked.
async fn assert_dropped_for(unasked: &str) {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let (put, ()) = join!(client.put_at("a", 1.0, 1), peer.answer("put a 1.0 1\n", "ok\n\n"));
    put.unwrap();
    peer.send(unasked).await;
    peer.expect_end().await;
    let mut peer = network.accept().await;
    let (get, ()) = join!(client.get("b"), peer.answer("get b\n", "ok\nb 2.0 2\n\n"));
    assert_eq!(get.unwrap().points("b"), [Point::new(2.0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn unsolicited_response_ends_the_connection() {
    assert_dropped_for("ok\n\n").await;
    assert_dropped_for("ok\na 1.0 1\n\n").await;
    assert_dropped_for("error\nlate\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn partial_unsolicited_response_ends_the_connection() {
    assert_dropped_for("o").await;
    assert_dropped_for("ok\n").await;
    assert_dropped_for("garbage").await;
}

#[tokio::test(start_paused = true)]
async fn two_responses_to_one_request_end_the_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("put a 1.0 1\n", "ok\n\nok\n\n").await;
        peer.expect_end().await;
    };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    network.accept().await;
}

/// A server that takes a segment for a request answers each of two: the second answer would be the next
/// caller's.
#[tokio::test(start_paused = true)]
async fn response_to_a_partial_request_ends_the_connection() {
    let (mut network, builder) = MockNetwork::with_buffer(8);
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("put a 1.", "ok\n\n").await;
        peer.expect_end().await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 2.0, 2), server);
    for error in [a.unwrap_err(), b.unwrap_err()] {
        let Error::Connection { source: fault, delivery, .. } = error else { panic!("{error:?}") };
        assert!(matches!(*fault, ConnectionError::Unsolicited));
        assert_eq!(delivery, Delivery::Unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn data_in_response_to_a_put_ends_the_connection() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        // The responses are shifted by one: no call may get the response of another.
        peer.expect("put a 1.0 1\nget b\n").await;
        peer.send("ok\nb 2.0 2\n\nok\n\n").await;
        peer.expect_end().await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.get("b"), server);
    for error in [a.unwrap_err(), b.unwrap_err()] {
        let Error::Connection { source: fault, .. } = error else { panic!("{error:?}") };
        assert!(matches!(*fault, ConnectionError::UnexpectedData));
    }
}

// FAULTS C1
#[tokio::test(start_paused = true)]
async fn record_of_another_key_ends_the_connection() {
    for answer in ["ok\nb 2.0 2\n\n", "ok\na 2.0 2\nb 2.0 2\n\n"] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
        let mut peer = network.accept().await;
        let server = async {
            peer.expect("get a\nget b\n").await;
            peer.send(answer).await;
            peer.expect_end().await;
        };
        let (a, b, ()) = join!(client.get("a"), client.get("b"), server);
        for error in [a.unwrap_err(), b.unwrap_err()] {
            let Error::Connection { source: fault, .. } = error else { panic!("{error:?}") };
            assert!(matches!(*fault, ConnectionError::DataForAnotherKey), "{fault:?}");
            assert!(fault.is_protocol_violation());
        }
    }
}
