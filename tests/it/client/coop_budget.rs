//! A call that fails at once takes part in Tokio's cooperative budget: a task that calls again and again
//! lets others run.

use std::time::Duration;

use metrics_client::{
    Error, MetricsClient, Sample,
    client::{ConnectionState, WhenFull},
};

use crate::peer::MockNetwork;

/// Calls until another task of the thread has run, and fails if none ever does.
async fn lets_others_run(what: &str, mut call: impl AsyncFnMut()) {
    let other = tokio::spawn(async {});
    for _ in 0..1000 {
        if other.is_finished() {
            return;
        }
        call().await;
    }
    panic!("{what}: no other task runs");
}

async fn closed() -> MetricsClient {
    let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
    client.close().await.unwrap();
    client
}

fn is_closed<T>(outcome: Result<T, Error>) {
    match outcome.map(drop).unwrap_err() {
        Error::Closed { .. } => {}
        Error::Batch(batch) if matches!(batch.first_error().1, Error::Closed { .. }) => {}
        error => panic!("{error:?}"),
    }
}

// FAULTS C20
#[tokio::test(start_paused = true)]
async fn calls_of_a_closed_client_yield() {
    let client = closed().await;
    let samples = [Sample::new("a", 1.0, 1).unwrap()];
    lets_others_run("put", async || is_closed(client.put("a", 1.0).await)).await;
    lets_others_run("get", async || is_closed(client.get("a").await)).await;
    lets_others_run("put_all", async || is_closed(client.put_all(&samples).await)).await;
    lets_others_run("stream", async || is_closed(client.stream("*").await)).await;
    lets_others_run("close", async || client.close().await.unwrap()).await;
    let mut states = client.watch_state();
    lets_others_run("changed", async || assert_eq!(states.changed().await, None)).await;
    let closed = Some(ConnectionState::Closed);
    lets_others_run("wait_for", async || assert_eq!(states.wait_for(|_| true).await, closed)).await;
}

// FAULTS C20
#[tokio::test(start_paused = true)]
async fn invalid_calls_yield() {
    let (_network, builder) = MockNetwork::new();
    let client = builder.connect_lazy().unwrap();
    let invalid = [Sample {
        point: metrics_client::Point { timestamp: 1, value: f64::NAN },
        ..Sample::new("a", 1.0, 1).unwrap()
    }];
    lets_others_run("a key", async || drop(client.put("a b", 1.0).await.unwrap_err())).await;
    lets_others_run("a value", async || drop(client.put("a", f64::NAN).await.unwrap_err())).await;
    lets_others_run("a get", async || drop(client.get("a b").await.unwrap_err())).await;
    lets_others_run("a batch", async || drop(client.put_all(&invalid).await.unwrap_err())).await;
    lets_others_run("no batch", async || client.put_all::<[Sample; 0]>([]).await.unwrap()).await;
    lets_others_run("a stream", async || drop(client.stream("a b").await.unwrap_err())).await;
    lets_others_run("an address", async || {
        MetricsClient::connect("127.0.0.1").await.unwrap_err();
    })
    .await;
    let given = MetricsClient::from_io(tokio::io::duplex(64).0);
    lets_others_run("no dialer", async || drop(given.stream("*").await.unwrap_err())).await;
}

// FAULTS C20
#[tokio::test(start_paused = true)]
async fn calls_that_find_a_full_queue_yield() {
    let (network, builder) = MockNetwork::new();
    network.black_hole();
    let client = builder.max_buffered_bytes(1).when_full(WhenFull::Fail).connect_lazy().unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", 1.0).await }
    });
    tokio::task::yield_now().await;
    lets_others_run("put", async || {
        let error = client.put("b", 1.0).await.unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
    })
    .await;
    waiting.await.unwrap().unwrap_err();
}

// FAULTS C20
#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn service_of_a_closed_client_yields() {
    use metrics_client::codec::Request;
    use tower::{Service, ServiceExt};

    let mut service = closed().await.service();
    lets_others_run("ready", async || is_closed(service.ready().await)).await;
    lets_others_run("call", async || {
        is_closed(service.call(Request::put("a", 1.0, 1).unwrap()).await);
    })
    .await;
}

// FAULTS C20
#[cfg(feature = "reporter")]
#[tokio::test(start_paused = true)]
async fn flush_of_an_idle_reporter_yields() {
    let limit = Duration::from_secs(1);
    let reporter = metrics_client::Reporter::new(closed().await);
    lets_others_run("nothing waits", async || reporter.flush(limit).await.unwrap()).await;
    reporter.record("a", 1.0);
    reporter.flush(limit).await.unwrap_err();
    lets_others_run("it has ended", async || drop(reporter.flush(limit).await.unwrap_err())).await;
    lets_others_run("close", async || drop(reporter.close(limit).await)).await;
}
