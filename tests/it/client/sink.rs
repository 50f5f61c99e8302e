//! Samples from streams and through sinks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, stream};
use metrics_client::{
    Delivery, Error, MetricsClient, Sample,
    client::{Pipelining, connector_fn},
    error::BatchError,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    join,
    sync::mpsc,
};

use crate::peer::{MockNetwork, with_timeout};

fn sample(key: &str, second: i64) -> Sample {
    Sample::new(key, 0.5, second).unwrap()
}

fn batch_error(outcome: Result<(), Error>) -> Arc<BatchError> {
    match outcome {
        Err(Error::Batch(error)) => error,
        outcome => panic!("expected a batch error, got {outcome:?}"),
    }
}

/// Returns a client whose server stores everything but keys that begin with `no`, and counts what it stores.
fn serving(connections: usize) -> (MetricsClient, Arc<AtomicUsize>) {
    let stored = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&stored);
    let connector = connector_fn(move |_| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(theirs, Arc::clone(&count)));
        async { Ok(ours) }
    });
    let builder = MetricsClient::builder("a pipe").connector(connector);
    let builder = builder.pipelining(Pipelining::On).max_connections(connections);
    (builder.connect_lazy().unwrap(), stored)
}

async fn serve(io: DuplexStream, stored: Arc<AtomicUsize>) {
    let (reader, mut writer) = tokio::io::split(io);
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while let Ok(1..) = reader.read_line(&mut line).await {
        let response = if line.starts_with("put no") { "error\nno\n\n" } else { "ok\n\n" };
        stored.fetch_add(usize::from(response == "ok\n\n"), Ordering::Relaxed);
        line.clear();
        if writer.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn put_stream_stores_samples_in_order() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let samples = stream::iter([sample("a", 1), sample("b", 2), sample("a", 3)]);
    let server = peer.answer("put a 0.5 1\nput b 0.5 2\nput a 0.5 3\n", "ok\n\nok\n\nok\n\n");
    let (stored, ()) = join!(client.put_stream(samples), server);
    stored.unwrap();
}

#[tokio::test(start_paused = true)]
async fn put_stream_sends_while_the_stream_waits() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let (sender, mut receiver) = mpsc::channel(8);
    let samples = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let server = async {
        for second in 0..3 {
            sender.send(sample("a", second)).await.unwrap();
            peer.answer(&format!("put a 0.5 {second}\n"), "ok\n\n").await;
        }
        drop(sender);
    };
    let (stored, ()) = with_timeout(async { join!(client.put_stream(samples), server) }).await;
    stored.unwrap();
}

#[tokio::test(start_paused = true)]
async fn put_stream_counts_rejections_over_many_rounds() {
    for connections in [1, 3] {
        let (client, stored) = serving(connections);
        let samples = (0..150_000).map(|index| match index % 3 {
            0 if index >= 9 => sample("no", index),
            _ => sample(["a", "b", "c", "d"][index as usize % 4], index),
        });
        let error = batch_error(client.put_stream(stream::iter(samples)).await);
        assert_eq!((error.total(), error.rejected_before_resume()), (150_000, 49_997));
        assert_eq!((error.first_error().0, error.resume_from()), (9, 150_000));
        assert_eq!(error.acknowledged(), 100_003);
        assert_eq!(stored.load(Ordering::Relaxed), 100_003);
        assert!(!Error::Batch(error).is_retryable());
    }
}

#[tokio::test(start_paused = true)]
async fn put_stream_applies_backpressure() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let _silent = network.accept().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let samples = stream::repeat_with(move || {
        count.fetch_add(1, Ordering::Relaxed);
        sample("a", 1)
    });
    let error = batch_error(with_timeout(client.put_stream(samples)).await);
    assert_eq!((error.acknowledged(), error.first_error().0, error.resume_from()), (0, 0, 0));
    assert_eq!(error.total(), taken.load(Ordering::Relaxed));
    assert!(error.total() < 2000, "{} samples were taken", error.total());
    assert!(matches!(error.first_error().1, Error::Timeout { .. }), "{error:?}");
    assert!(Error::Batch(error).is_retryable());
}

#[tokio::test(start_paused = true)]
async fn put_stream_ends_at_a_value_that_is_not_finite() {
    for connections in [1, 3] {
        let (client, stored) = serving(connections);
        let samples = (0..100).map(|index| {
            let mut sample = sample(["a", "b", "c"][index as usize % 3], index);
            if index == 60 {
                sample.point.value = f64::NAN;
            }
            sample
        });
        let error = batch_error(client.put_stream(stream::iter(samples)).await);
        assert!(matches!(error.first_error().1, Error::NonFiniteValue(_)), "{error:?}");
        assert_eq!((error.first_error().0, error.total()), (60, 61));
        assert_eq!(error.acknowledged(), stored.load(Ordering::Relaxed));
        assert!(error.resume_from() <= 60);
        client.put_at("a", 1.0, 1).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn put_stream_of_nothing_is_stored() {
    let (client, _) = serving(1);
    client.put_stream(stream::empty()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn put_stream_fails_when_the_client_is_closed() {
    for connections in [1, 3] {
        let (client, _) = serving(connections);
        client.close().await.unwrap();
        let error = batch_error(client.put_stream(stream::iter([sample("a", 1)])).await);
        assert!(matches!(error.first_error().1, Error::Closed { .. }), "{error:?}");
        assert_eq!((error.first_error().0, error.resume_from(), error.total()), (0, 0, 1));
        assert_eq!(Error::Batch(error).delivery(), Delivery::NotSent);
    }
}

#[tokio::test(start_paused = true)]
async fn sink_flush_waits_for_every_response() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let mut sink = client.sink();
    for second in 0..3 {
        sink.feed(sample("a", second)).await.unwrap();
    }
    peer.expect_silence(Duration::from_secs(1)).await;
    let server = peer.answer("put a 0.5 0\nput a 0.5 1\nput a 0.5 2\n", "ok\n\nok\n\nok\n\n");
    let (flushed, ()) = join!(sink.flush(), server);
    flushed.unwrap();
    let server = peer.answer("put a 0.5 3\n", "ok\n\n");
    let (sent, ()) = join!(sink.send(sample("a", 3)), server);
    sent.unwrap();
    assert_eq!(client.stats().acknowledged, 4);
}

#[tokio::test(start_paused = true)]
async fn sink_can_be_used_after_an_error() {
    for connections in [1, 3] {
        let (client, stored) = serving(connections);
        let mut sink = client.sink();
        for key in ["a", "no", "b"] {
            sink.feed(sample(key, 1)).await.unwrap();
        }
        let error = batch_error(sink.flush().await);
        assert_eq!(
            (error.first_error().0, error.total(), error.rejected_before_resume()),
            (1, 3, 1)
        );
        assert_eq!((error.acknowledged(), error.resume_from()), (2, 3));

        let mut invalid = sample("a", 1);
        invalid.point.value = f64::INFINITY;
        assert!(matches!(sink.feed(invalid).await, Err(Error::NonFiniteValue(_))));
        sink.send(sample("c", 2)).await.unwrap();
        sink.close().await.unwrap();
        assert_eq!(stored.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_sink_cancels_unsent_samples() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let mut sink = client.sink();
    for second in 0..8 {
        sink.feed(sample("a", second)).await.unwrap();
    }
    tokio::select! {
        flushed = sink.flush() => panic!("nothing was answered: {flushed:?}"),
        () = peer.expect("put a 0.5 0\n") => {}
    }
    drop(sink);
    peer.send("ok\n\n").await;
    peer.expect_silence(Duration::from_secs(1)).await;
    let stats = client.stats();
    assert_eq!((stats.queued, stats.in_flight), (0, 0));
}
