//! A get of any size, sample by sample.

use std::time::Duration;

use metrics_client::{Error, MetricsClient};
use tokio::join;

use crate::peer::{Network, soon};

#[tokio::test(start_paused = true)]
async fn samples_come_over_a_connection_of_their_own_as_they_are_sent() {
    let (mut network, builder) = Network::new();
    let client = builder.connect().await.unwrap();
    let mut main = network.accept().await;
    let mut samples = client.stream("*").await.unwrap();
    let mut beside = network.accept().await;
    beside.answer("get *\n", "ok\nb 2.0 2\na 1.0 1\nb 2.5 2\n").await;
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(samples.next().await.unwrap().unwrap().to_string());
    }
    assert_eq!(got, ["b 2.0 2", "a 1.0 1", "b 2.5 2"]);
    // Nothing waits for the stream meanwhile.
    let (put, ()) = join!(client.put_at("a", 1.0, 1), main.answer("put a 1.0 1\n", "ok\n\n"));
    put.unwrap();
    beside.send("\n").await;
    assert!(samples.next().await.is_none());
    assert!(samples.next().await.is_none());
    beside.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_is_an_error_and_then_over() {
    let (mut network, builder) = Network::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let endless = format!("ok\na 1.0 1\n{}", "x".repeat(10_000));
    for (answer, message) in [
        ("ok\na 1.0 1\n", "the connection ended before the answer came"),
        (&*endless, "the connection ended before the answer came"),
        ("ok\na 1.0 1\nb 1.0\n\n", "the server's answer cannot be read"),
    ] {
        let mut samples = client.stream("*").await.unwrap();
        network.accept().await.answer("get *\n", answer).await;
        samples.next().await.unwrap().unwrap();
        assert_eq!(samples.next().await.unwrap().unwrap_err().to_string(), message);
        assert!(samples.next().await.is_none());
    }
    let mut samples = client.stream("*").await.unwrap();
    let mut beside = network.accept().await;
    beside.answer("get *\n", "error\nno\n\n").await;
    assert!(matches!(samples.next().await, Some(Err(Error::Rejected { .. }))));
    assert!(samples.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_stream_and_slowness_does_not() {
    let (mut network, builder) = Network::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let mut samples = client.stream("a").await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.answer("get a\n", "ok\n").await;
        for i in 0..10 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            peer.send(&format!("a 1.0 {i}\n")).await;
        }
    };
    let reader = async {
        for _ in 0..10 {
            samples.next().await.unwrap().unwrap();
        }
        assert!(matches!(soon(samples.next()).await, Some(Err(Error::Timeout { .. }))));
    };
    join!(server, reader);
}

#[tokio::test(start_paused = true)]
async fn a_client_on_a_given_stream_cannot_make_another() {
    let (ours, _theirs) = tokio::io::duplex(64);
    let client = MetricsClient::from_io(ours);
    assert!(matches!(client.stream("*").await, Err(Error::CannotDial)));
}
