//! Reconnects, retries and backoff.

use std::time::Duration;

use metrics_client::{
    Delivery, Error, Sample,
    client::{ConnectionState, Pipelining, ReconnectPolicy},
};
use tokio::{join, time::Instant};

use crate::peer::MockNetwork;

#[tokio::test(start_paused = true)]
async fn reconnect_replays_unacked_requests_in_order() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("put a 1.0 1\nput b 1.0 1\nget c\n").await;
        peer.send("ok\n\n").await;
        drop(peer);
        let newer = async {
            // Asked while there is no connection.
            client.put_at("d", 1.0, 1).await.unwrap();
        };
        let peer = async {
            let mut peer = network.accept().await;
            peer.expect("put b 1.0 1\nget c\nput d 1.0 1\n").await;
            peer.send("ok\n\nok\nc 3.0 3\n\nok\n\n").await;
        };
        join!(newer, peer);
    };
    let (a, b, c, ()) =
        join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), client.get("c"), server);
    a.unwrap();
    b.unwrap();
    assert_eq!(c.unwrap().points("c")[0].value, 3.0);
    let stats = client.stats();
    assert_eq!((stats.retried, stats.reconnects, stats.acknowledged), (2, 1, 4));
}

#[tokio::test(start_paused = true)]
async fn reconnect_resumes_a_batch_after_its_last_ack() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let samples = (0..4).map(|i| Sample::new("k", 1.0, i).unwrap()).collect::<Vec<_>>();
    let server = async {
        let mut peer = network.accept().await;
        peer.expect("put k 1.0 0\nput k 1.0 1\nput k 1.0 2\nput k 1.0 3\n").await;
        peer.send("ok\n\nok\n\n").await;
        drop(peer);
        let mut peer = network.accept().await;
        peer.expect("put k 1.0 2\nput k 1.0 3\n").await;
        peer.send("ok\n\nok\n\n").await;
    };
    let (all, ()) = join!(client.put_all(&samples), server);
    all.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reconnect_resends_a_partly_sent_request() {
    let (mut network, builder) = MockNetwork::with_buffer(8);
    let client = builder.connect().await.unwrap();
    let server = async {
        let mut peer = network.accept().await;
        peer.expect("put a.lo").await;
        drop(peer);
        network.accept().await.answer("put a.long.key 1.0 1\n", "ok\n\n").await;
    };
    let (put, ()) = join!(client.put_at("a.long.key", 1.0, 1), server);
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_off_fails_sent_puts_only() {
    let (mut network, builder) = MockNetwork::new();
    let client =
        builder.pipelining(Pipelining::Off).resend_unacknowledged(false).connect().await.unwrap();
    let server = async {
        let mut peer = network.accept().await;
        peer.expect("put a 1.0 1\n").await;
        drop(peer);
        let mut peer = network.accept().await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), server);
    let error = a.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }));
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Unknown, true));
    b.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_ends_with_the_deadline_of_the_call() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let start = Instant::now();
    let server = async {
        loop {
            let mut peer = network.accept().await;
            peer.expect("put a 1.0 1\n").await;
        }
    };
    tokio::select! {
        put = client.put_at("a", 1.0, 1) => {
            assert_eq!(put.unwrap_err().delivery(), Delivery::Unknown);
        }
        () = server => unreachable!("it serves for ever"),
    }
    assert!(start.elapsed() < Duration::from_millis(5002), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connect_fails_at_once_with_the_cause() {
    let (network, builder) = MockNetwork::new();
    network.refuse(1);
    let error = builder.connect().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to peer");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "connection refused");
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, true));
}

#[tokio::test(start_paused = true)]
async fn lazy_client_connects_on_the_first_request() {
    let (mut network, builder) = MockNetwork::new();
    network.refuse(3);
    let client = builder.connect_lazy().unwrap();
    network.expect_no_dial(Duration::from_secs(60)).await;
    assert_eq!(network.refusals_left(), 3);
    let server = async { network.accept().await.answer("put a 1.0 1\n", "ok\n\n").await };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert_eq!(client.stats().reconnects, 0);
}

#[tokio::test(start_paused = true)]
async fn reconnect_continues_without_waiting_calls() {
    let (mut network, builder) = MockNetwork::new();
    network.refuse(1000);
    let client = builder.connect_lazy().unwrap();
    client.put_at("a", 1.0, 1).await.unwrap_err();
    let refused = network.refusals_left();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(network.refusals_left() < refused);
    network.refuse(0);
    let mut peer = network.accept().await;
    let (put, ()) = join!(client.put_at("b", 1.0, 1), peer.answer("put b 1.0 1\n", "ok\n\n"));
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_if_the_server_accepts_and_hangs_up() {
    let (mut network, builder) = MockNetwork::new();
    let (min, max) = (Duration::from_millis(50), Duration::from_secs(10));
    let client = builder
        .reconnect(ReconnectPolicy::backoff(min, max))
        .request_timeout(Duration::MAX)
        .connect()
        .await
        .unwrap();
    let mut last = network.accept_at().await.1;
    let mut longest = Duration::ZERO;
    // A call waits all the time, or there would be no need to connect.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("a", 1.0, 1).await }
    });
    for attempt in 0..200 {
        let (_, at) = network.accept_at().await;
        let ceiling = (min * 2_u32.pow(attempt.min(20))).min(max);
        assert!(at - last <= ceiling + Duration::from_millis(2), "{attempt}: {:?}", at - last);
        longest = longest.max(at - last);
        last = at;
    }
    assert!(longest > max / 2, "{longest:?}");

    // A good answer makes it start over.
    let (mut peer, _) = network.accept_at().await;
    peer.answer("put a 1.0 1\n", "ok\n\n").await;
    waiting.await.unwrap().unwrap();
    let server = async move {
        peer.expect("put b 1.0 1\n").await;
        drop(peer);
        let lost = Instant::now();
        let (mut peer, at) = network.accept_at().await;
        assert!(at - lost <= min + Duration::from_millis(2), "{:?}", at - lost);
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (put, ()) = join!(client.put_at("b", 1.0, 1), server);
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn state_reports_every_change() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.request_timeout(Duration::from_secs(60)).connect_lazy().unwrap();
    let mut state = client.watch_state();
    assert_eq!(state.get(), ConnectionState::Disconnected);
    let server = async {
        let mut peer = network.accept().await;
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer
    };
    let (put, peer) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert_eq!(state.get(), ConnectionState::Connected);
    drop(peer);
    // No connection is needed until the next call. Then the connect attempt is not answered until its
    // timeout.
    state.wait_for(|state| state == ConnectionState::Disconnected).await.unwrap();
    network.black_hole();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put_at("b", 1.0, 1).await }
    });
    for expected in
        [ConnectionState::Connecting, ConnectionState::Disconnected, ConnectionState::Connecting]
    {
        state.wait_for(|state| state == expected).await.unwrap();
    }
    network.refuse(0);
    let mut peer = network.accept().await;
    peer.answer("put b 1.0 1\n", "ok\n\n").await;
    put.await.unwrap().unwrap();
    assert_eq!(state.get(), ConnectionState::Connected);
    client.close().await.unwrap();
    assert_eq!(state.get(), ConnectionState::Closed);
}

#[tokio::test(start_paused = true)]
async fn reconnect_after_idle_close_is_immediate() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    for second in 0..100 {
        drop(peer);
        network.expect_no_dial(Duration::from_secs(300)).await;
        assert_eq!(client.state(), ConnectionState::Disconnected);
        let asked = Instant::now();
        let server = async {
            let mut peer = network.accept().await;
            peer.answer(&format!("put a 1.0 {second}\n"), "ok\n\n").await;
            peer
        };
        let (put, next) = join!(client.put_at("a", 1.0, second), server);
        put.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(2), "{:?}", asked.elapsed());
        peer = next;
    }
}

/// How long a client takes for 100 more connections to a server that meets each with this.
async fn time_to_dial_100_times(welcome: &str) -> Duration {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let start = Instant::now();
    let puts = async {
        loop {
            let _ = client.put_at("a", 1.0, 1).await;
        }
    };
    let server = async {
        for _ in 0..100 {
            let mut peer = network.accept().await;
            peer.read_some().await;
            peer.send(welcome).await;
        }
    };
    tokio::select! {
        () = puts => unreachable!("it puts for ever"),
        () = server => start.elapsed(),
    }
}

#[tokio::test(start_paused = true)]
async fn backoff_is_not_reset_by_a_protocol_error() {
    for welcome in ["ok\na 1.0 1\n\n", "HTTP/1.1 400 Bad Request\r\n", "ok\n"] {
        let time = time_to_dial_100_times(welcome).await;
        assert!(time > Duration::from_secs(60), "{welcome:?}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_if_the_server_rejects_connections() {
    let (mut network, builder) = MockNetwork::new();
    let _client = builder.connect().await.unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        network.accept().await.send("error\ntoo many connections\n\n").await;
    }
    assert!(start.elapsed() > Duration::from_secs(60), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn retried_counts_only_resent_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.reconnect(ReconnectPolicy::never()).connect().await.unwrap();
    let server = async { network.accept().await.expect("put a 1.0 1\n").await };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap_err();
    assert_eq!((client.stats().retried, client.stats().failed), (0, 1));
    // A failure before the close is not an error of the close.
    client.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn backoff_of_duration_max_is_endless() {
    for _ in 0..20 {
        let (mut network, builder) = MockNetwork::new();
        let client = builder
            .reconnect(ReconnectPolicy::backoff(Duration::MAX, Duration::MAX))
            .connect()
            .await
            .unwrap();
        let server = async { network.accept().await.expect("put a 1.0 1\n").await };
        let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
        assert!(matches!(put, Err(Error::Timeout { .. })), "{put:?}");
    }
}
