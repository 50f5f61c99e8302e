//! Log events of the client, and that requests are not logged.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use metrics_client::client::{Pipelining, ReconnectPolicy};
use tokio::join;
use tracing::{
    Dispatch, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

use crate::peer::MockNetwork;

/// A log that the test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes what has been written, line by line.
    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Has `subscriber` told of what happens on this thread.
fn told(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    // As long as there is but one subscriber, an event that a test on another thread is the first to
    // reach is off for good.
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&ANOTHER);
    tracing::subscriber::set_default(subscriber)
}

#[track_caller]
fn assert_told(lines: &[String], expected: &[&str]) {
    let told = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(told, "{lines:#?}\nexpected: {expected:#?}");
}

#[tokio::test(start_paused = true)]
async fn connections_are_logged_and_requests_are_not() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = told(subscriber);

    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Off).connect().await.unwrap();
    let mut peer = network.accept().await;
    assert_told(&log.take(), &["INFO metrics_client::client::driver: connected"]);

    for second in 0..100 {
        let request = format!("put a 1.0 {second}\n");
        let (put, ()) = join!(client.put_at("a", 1.0, second), peer.answer(&request, "ok\n\n"));
        put.unwrap();
    }
    assert_told(&log.take(), &[]);

    let server = async {
        peer.expect("put a 1.0 1\n").await;
        network.refuse(1);
        drop(peer);
        let mut peer = network.accept().await;
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer
    };
    let (put, mut peer) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert_told(
        &log.take(),
        &[
            "WARN metrics_client::client::driver: disconnected address=\"peer\" error=connection closed by the server",
            "INFO metrics_client::client::driver: will send again address=\"peer\" requests=1",
            "WARN metrics_client::client::driver: no connection error=cannot connect to peer: connection refused",
            "INFO metrics_client::client::driver: connected address=\"peer\"",
        ],
    );

    peer.send("\u{1b}[2Jgarbage\n").await;
    peer.expect_end().await;
    assert_told(
        &log.take(),
        &[
            "ERROR metrics_client::client::driver: protocol error address=\"peer\" error=protocol error: invalid status line \"\\u{1b}[2Jgarbage\": expected `ok` or `error`",
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn probe_result_is_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = told(subscriber);

    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::Auto).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        let mut beside = network.accept().await;
        beside.read_some().await;
        beside.read_some().await;
        beside.send("ok\n\nok\n\nok\n\n").await;
        beside.expect_end().await;
        peer.send("ok\n\n").await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), server);
    a.unwrap();
    b.unwrap();
    let lines = log.take();
    assert!(
        lines.iter().any(|line| line
            .contains("probed the server for pipelining address=\"peer\" can_pipeline=true")),
        "{lines:#?}"
    );
}

// FAULTS A25
#[tokio::test(start_paused = true)]
async fn unreachable_server_is_logged_repeated_and_over() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _guard = told(subscriber);

    let (mut network, builder) = MockNetwork::new();
    network.refuse(1_000_000);
    // It dials within the deadline of the put that finds the server back.
    let reconnect = ReconnectPolicy::backoff(Duration::from_millis(10), Duration::from_secs(1));
    let client = builder.pipelining(Pipelining::Off).reconnect(reconnect).connect_lazy().unwrap();
    // The deadline of a put is 5 seconds.
    for second in 0..30 {
        client.put_at("a", 1.0, second).await.unwrap_err();
    }
    let attempts = 1_000_000 - network.refusals_left();
    assert!(attempts > 30, "{attempts}");
    let away = "WARN metrics_client::client::driver: no connection error=";
    assert_told(&log.take(), &[away; 3]);

    network.refuse(0);
    let server = async {
        let mut peer = network.accept().await;
        peer.answer("put a 1.0 99\n", "ok\n\n").await;
        peer
    };
    let (put, peer) = join!(client.put_at("a", 1.0, 99), server);
    put.unwrap();
    let lines = log.take();
    assert_told(&lines, &["INFO metrics_client::client::driver: connected address=\"peer\""]);
    assert!(lines[0].contains("unreachable=15"), "{lines:?}");

    // One that closes each connection at once does not fill the log either.
    drop(peer);
    for second in 100..200 {
        let server = async {
            let mut peer = network.accept().await;
            peer.answer(&format!("put a 1.0 {second}\n"), "ok\n\n").await;
        };
        let (put, ()) = join!(client.put_at("a", 1.0, second), server);
        put.unwrap();
    }
    let lines = log.take();
    assert!((5..=30).contains(&lines.len()), "{lines:#?}");
}
