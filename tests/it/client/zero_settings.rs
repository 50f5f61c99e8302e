//! Settings of zero: zero is a minimum, never "off" and never "unlimited".

use std::time::Duration;

use metrics_client::{
    MetricsClient,
    client::{ReconnectPolicy, TcpConnector, WhenFull},
};
use tokio::{join, net::TcpListener, time};

use crate::peer::MockNetwork;

// FAULTS C17
#[tokio::test(start_paused = true)]
async fn stall_timeout_of_zero_tolerates_a_good_server() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.stall_timeout(Duration::ZERO).connect().await.unwrap();
    let mut peer = network.accept().await;
    for second in 0..10 {
        let server = async {
            peer.expect(&format!("put a 1.0 {second}\n")).await;
            time::sleep(Duration::from_millis(150)).await;
            peer.send("ok\n\n").await;
        };
        let (put, ()) = join!(client.put_at("a", 1.0, second), server);
        put.unwrap();
    }
    assert_eq!(client.stats().retried, 0);
    network.expect_no_dial(Duration::from_secs(60)).await;
}

// FAULTS C17
#[tokio::test(start_paused = true)]
async fn client_with_zero_settings_works() {
    for overflow in [WhenFull::Wait, WhenFull::Fail] {
        let (mut network, builder) = MockNetwork::new();
        let client = builder
            .max_connections(0)
            .connect_timeout(Duration::ZERO)
            .request_timeout(Duration::ZERO)
            .stall_timeout(Duration::ZERO)
            .max_in_flight(0)
            .max_buffered_bytes(0)
            .max_response_bytes(0)
            .when_full(overflow)
            .reconnect(ReconnectPolicy::backoff(Duration::ZERO, Duration::ZERO))
            .connect()
            .await
            .unwrap();
        let mut peer = network.accept().await;
        for second in 0..10 {
            let request = format!("put a 1.0 {second}\n");
            let (put, ()) = join!(client.put_at("a", 1.0, second), peer.answer(&request, "ok\n\n"));
            put.unwrap();
        }
        let error = client.put("a", 1.0).await.unwrap_err();
        assert_eq!(error.to_string(), "no response within 1ms");
    }
}

// FAULTS C17
#[tokio::test]
async fn connector_with_zero_settings_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpConnector::default().keepalive(Duration::ZERO).user_timeout(Duration::ZERO);
    let builder = MetricsClient::builder(listener.local_addr().unwrap()).connector(connector);
    builder.connect().await.unwrap();
}

// FAULTS C17
#[tokio::test(start_paused = true)]
async fn server_with_zero_limits_answers() {
    use metrics_server::{Limits, MemoryStore, serve_connection};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let limits = Limits::default()
        .max_connections(0)
        .max_connections_per_address(0)
        .max_line_bytes(0)
        .max_unsent_bytes(0)
        .max_total_unsent_bytes(0)
        .idle_timeout(Duration::ZERO)
        .line_timeout(Duration::ZERO)
        .write_timeout(Duration::ZERO)
        .shutdown_grace(Duration::ZERO);
    let (mut peer, io) = tokio::io::duplex(64);
    peer.write_all(b"get a\n").await.unwrap();
    let serving = tokio::spawn(serve_connection(io, MemoryStore::new(), limits));
    let mut answer = [0; 4];
    peer.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ok\n\n");
    drop(peer);
    serving.await.unwrap();
}

// FAULTS C17
#[cfg(feature = "reporter")]
#[tokio::test(start_paused = true)]
async fn reporter_with_zero_settings_reports() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let reporter =
        metrics_client::Reporter::builder(client).capacity(0).linger(Duration::ZERO).start();
    for second in 0..3 {
        reporter.record_at("a", 1.0, second);
        let request = format!("put a 1.0 {second}\n");
        let flush = reporter.flush(Duration::from_secs(60));
        let (flushed, ()) = join!(flush, peer.answer(&request, "ok\n\n"));
        flushed.unwrap();
    }
}
