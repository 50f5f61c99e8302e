//! A get of any size, sample by sample.

use std::time::Duration;

use metrics_client::{Error, MetricsClient, Point, error::ConnectionError};
use tokio::join;

use crate::peer::{MockNetwork, with_timeout};

#[tokio::test(start_paused = true)]
async fn stream_has_its_own_connection() {
    let (mut network, builder) = MockNetwork::new();
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
    // No other call waits for the stream.
    let (put, ()) = join!(client.put_at("a", 1.0, 1), main.answer("put a 1.0 1\n", "ok\n\n"));
    put.unwrap();
    beside.send("\n").await;
    assert!(samples.next().await.is_none());
    assert!(samples.next().await.is_none());
    beside.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn stream_cut_off_is_an_error_and_then_ends() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let endless = format!("ok\na 1.0 1\n{}", "x".repeat(10_000));
    for (answer, message) in [
        ("ok\na 1.0 1\n", "connection lost before the response arrived"),
        (&*endless, "connection lost before the response arrived"),
        ("ok\na 1.0 1\nb 1.0\n\n", "invalid response from the server"),
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
async fn stream_read_timeout_allows_slow_data() {
    let (mut network, builder) = MockNetwork::new();
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
        assert!(matches!(with_timeout(samples.next()).await, Some(Err(Error::Timeout { .. }))));
    };
    join!(server, reader);
}

#[tokio::test(start_paused = true)]
async fn stream_on_a_given_connection_is_an_error() {
    let (ours, _theirs) = tokio::io::duplex(64);
    let client = MetricsClient::from_io(ours);
    assert!(matches!(client.stream("*").await, Err(Error::CannotDial)));
}

/// How often the other tasks of the runtime have their turn until this is over.
async fn turns_of_others(during: impl Future<Output = ()>) -> usize {
    let mut turns = 0;
    let others = async {
        loop {
            tokio::task::yield_now().await;
            turns += 1;
        }
    };
    tokio::select! {
        biased;
        () = others => {}
        () = during => {}
    }
    turns
}

// FAULTS C14
#[tokio::test(start_paused = true)]
async fn stream_yields_to_other_tasks() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let mut samples = client.stream("*").await.unwrap();
    let answer = format!("ok\n{}\n", "a 1.0 1\n".repeat(10_000));
    network.accept().await.answer("get *\n", &answer).await;
    let reader = tokio::spawn(async move {
        let mut count = 0;
        while let Some(sample) = samples.next().await {
            sample.unwrap();
            count += 1;
        }
        count
    });
    let turns = turns_of_others(async { assert_eq!(reader.await.unwrap(), 10_000) }).await;
    // Tokio lets a task do 128 things before others have their turn.
    assert!(turns >= 10_000 / 128, "{turns}");
}

// FAULTS C14
#[tokio::test(start_paused = true)]
async fn long_response_is_read_in_steps() {
    let (mut network, builder) = MockNetwork::with_buffer(16 * 1024 * 1024);
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let answer = format!("ok\n{}\n", "a 1.0 1\n".repeat(1024 * 1024));
    let get = tokio::spawn(async move { client.get("a").await.map(drop) });
    peer.answer("get a\n", &answer).await;
    let turns = turns_of_others(async { get.await.unwrap().unwrap() }).await;
    // 8 MiB, of which 256 KiB are read in one.
    assert!(turns >= 32, "{turns}");
}

// FAULTS C3
#[tokio::test(start_paused = true)]
async fn late_timer_is_not_a_stream_timeout() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let mut samples = client.stream("a").await.unwrap();
    let mut peer = network.accept().await;
    peer.expect("get a\n").await;
    let mut next = Box::pin(samples.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    tokio::time::advance(Duration::from_secs(60)).await;
    // The timer has run out, and is asked before the IO driver tells of what has come.
    assert!(futures_util::poll!(&mut next).is_pending());
    peer.send("ok\na 1.0 1\n").await;
    assert_eq!(with_timeout(next).await.unwrap().unwrap().to_string(), "a 1.0 1");
}

// FAULTS C14
#[tokio::test(start_paused = true)]
async fn long_unsorted_response_is_sorted_in_steps() {
    let (mut network, builder) = MockNetwork::with_buffer(16 * 1024 * 1024);
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    // Each second twice, in an order without runs.
    let second = |place: usize| place * 7919 % 250_000;
    let rows = (0..500_000).map(|place| format!("a {place} {}\n", second(place)));
    let answer = format!("ok\n{}\n", rows.collect::<String>());
    let get = tokio::spawn(async move { client.get("a").await.unwrap() });
    peer.answer("get a\n", &answer).await;
    let mut metrics = None;
    let turns = turns_of_others(async { metrics = Some(get.await.unwrap()) }).await;
    let metrics = metrics.unwrap();
    let points = metrics.points("a");
    assert!(points.iter().map(|point| point.timestamp).eq(0..250_000));
    let is_last = |point: &Point| point.value >= 250_000.0;
    assert!(points.iter().all(is_last));
    // Of these some 30 are for reading, and the rest for 500,000 points in seven rounds.
    assert!(turns >= 60, "{turns}");
}

// FAULTS C1
#[tokio::test(start_paused = true)]
async fn stream_of_a_key_fails_at_a_record_of_another() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let _main = network.accept().await;
    let mut samples = client.stream("a").await.unwrap();
    network.accept().await.answer("get a\n", "ok\na 1.0 1\nb 1.0 1\na 2.0 2\n\n").await;
    assert_eq!(samples.next().await.unwrap().unwrap().to_string(), "a 1.0 1");
    let Some(Err(Error::Connection { source: fault, .. })) = samples.next().await else {
        panic!("a record of another key must end the stream")
    };
    assert!(matches!(*fault, ConnectionError::DataForAnotherKey));
    assert!(samples.next().await.is_none());
}
