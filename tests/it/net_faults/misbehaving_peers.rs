//! Peers on loopback that do not read, do not answer, or reset.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics_client::{
    Delivery, MetricsClient, Sample,
    client::{Connector, Pipelining, TcpConnector, WhenFull, connector_fn},
};
use metrics_server::Server;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{HANG, SHORT, builder, is_late, is_reset, with_timeout, works_again};
use crate::oracle::{self, SharedOracle};

/// A server whose first connection the test plays. The others find one that does its part.
async fn listen(buffer: Option<u32>) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(buffer) = buffer {
        // Before it listens, so that its connections begin with windows of this size.
        socket.set_recv_buffer_size(buffer).unwrap();
        socket.set_send_buffer_size(buffer).unwrap();
    }
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

/// Reads a request, answers with this, and resets the connection.
async fn reset_after(mut io: TcpStream, request: &str, answer: &str) {
    let mut got = vec![0; request.len()];
    io.read_exact(&mut got).await.unwrap();
    assert_eq!(got, request.as_bytes());
    io.write_all(answer.as_bytes()).await.unwrap();
    SockRef::from(&io).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn reset_in_a_response_retries_the_get() {
    let listener = listen(None).await;
    let client = MetricsClient::builder(listener.local_addr().unwrap()).connect_lazy().unwrap();
    let server = async {
        let (io, _) = listener.accept().await.unwrap();
        reset_after(io, "get a\n", "ok\na 1.0 1\na 2").await;
        let (mut io, _) = listener.accept().await.unwrap();
        io.read_exact(&mut [0; 6]).await.unwrap();
        io.write_all(b"ok\na 5.0 5\n\n").await.unwrap();
        io
    };
    let (metrics, _io) = with_timeout(async { join!(client.get("a"), server) }).await;
    let metrics = metrics.unwrap();
    assert_eq!(metrics.points("a").iter().map(|p| p.timestamp).collect::<Vec<_>>(), [5]);
    assert_eq!(client.stats().reconnects, 1);
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn reset_in_a_response_retries_the_put_if_allowed() {
    for retry in [true, false] {
        let listener = listen(None).await;
        let address = listener.local_addr().unwrap();
        let client =
            MetricsClient::builder(address).resend_unacknowledged(retry).connect_lazy().unwrap();
        let server = async {
            let (io, _) = listener.accept().await.unwrap();
            reset_after(io, "put a 1.0 1\n", "ok").await;
            tokio::spawn(oracle::serve(listener, SharedOracle::default()));
        };
        let (put, ()) = with_timeout(async { join!(client.put_at("a", 1.0, 1), server) }).await;
        match put {
            Ok(()) => assert!(retry),
            Err(error) => assert!(!retry && is_reset(&error), "{error:?}"),
        }
        assert_eq!(works_again(&client).await, 0);
    }
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn reset_in_a_stream_is_an_error_after_its_data() {
    let listener = listen(None).await;
    let client = MetricsClient::builder(listener.local_addr().unwrap()).connect_lazy().unwrap();
    let server = async {
        let (io, _) = listener.accept().await.unwrap();
        reset_after(io, "get a\n", "ok\na 1.0 1\na 2.0 2\na 3").await;
    };
    let reading = async {
        let mut samples = client.stream("a").await.unwrap();
        let mut seen = Vec::new();
        loop {
            match samples.next().await.expect("a cut stream has no end") {
                Ok(sample) => seen.push(sample.point.timestamp),
                Err(error) => break (seen, error, samples.next().await.is_none()),
            }
        }
    };
    let ((seen, error, is_over), ()) = with_timeout(async { join!(reading, server) }).await;
    // The kernel may have thrown away what had come and was not read.
    assert!([1, 2].starts_with(&seen), "{seen:?}");
    assert!(is_over && is_reset(&error), "{error:?}");
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn silent_server_fails_calls_in_time() {
    for reads in [true, false] {
        let listener = listen(None).await;
        let client =
            builder(listener.local_addr().unwrap()).max_in_flight(50).connect_lazy().unwrap();
        let mut calls = JoinSet::new();
        for at in 0..200 {
            let client = client.clone();
            calls.spawn(async move { client.put_at("a", 1.0, at).await.unwrap_err() });
        }
        let (mut io, _) = with_timeout(listener.accept()).await.unwrap();
        let silent = tokio::spawn(async move {
            let mut got = [0; 1024];
            while reads && io.read(&mut got).await.is_ok_and(|len| len > 0) {}
            std::future::pending::<()>().await;
        });
        let errors = with_timeout(calls.join_all()).await;
        let sent = errors.iter().filter(|error| is_late(error)).count();
        let unsent = errors.iter().filter(|error| error.delivery() == Delivery::NotSent).count();
        assert_eq!((sent, unsent), (50, 150));
        tokio::spawn(oracle::serve(listener, SharedOracle::default()));
        works_again(&client).await;
        silent.abort();
    }
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn zero_window_ends_the_connection_and_retries() {
    let listener = listen(Some(4096)).await;
    let dials = Arc::new(AtomicUsize::new(0));
    // Only the first connection has the short timeout: on a busy machine it could end the second too.
    let connector = connector_fn(move |address| {
        let is_first = dials.fetch_add(1, Ordering::SeqCst) == 0;
        let connector = TcpConnector::default();
        let connector = if is_first { connector.user_timeout(SHORT) } else { connector };
        async move { connector.connect(&address).await }
    });
    let client = MetricsClient::builder(listener.local_addr().unwrap())
        .pipelining(Pipelining::On)
        .connector(connector)
        .request_timeout(2 * HANG)
        .stall_timeout(2 * HANG)
        .connect_lazy()
        .unwrap();
    // Much more than the window.
    let key: Arc<str> = "k".repeat(1000).into();
    let mut calls = JoinSet::new();
    for at in 0..100 {
        let (client, key) = (client.clone(), Arc::clone(&key));
        calls.spawn(async move { client.put_at(key, 1.0, at).await.unwrap() });
    }
    let oracle = SharedOracle::default();
    let _silent = with_timeout(listener.accept()).await.unwrap();
    tokio::spawn(oracle::serve(listener, Arc::clone(&oracle)));
    with_timeout(calls.join_all()).await;
    assert_eq!(client.stats().reconnects, 1);
    assert_eq!(oracle.lock().unwrap().series[&*key].len(), 100);
}

#[tokio::test]
#[ignore = "real networks, processes or disks: run with `--ignored`"]
async fn tiny_tcp_windows_only_slow_things_down() {
    let server = Server::from_listener(listen(Some(1)).await).unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve_until(std::future::pending()));
    let client = MetricsClient::builder("a socket with small buffers")
        .pipelining(Pipelining::On)
        .when_full(WhenFull::Fail)
        .connector(connector_fn(move |_| async move {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(1)?;
            socket.set_send_buffer_size(1)?;
            let io = socket.connect(address).await?;
            io.set_nodelay(true)?;
            Ok(io)
        }))
        .connect()
        .await
        .unwrap();
    let samples = (0..300).map(|at| Sample::new("a", 1.0, at).unwrap()).collect::<Vec<_>>();
    with_timeout(client.put_all(&samples)).await.unwrap();
    let metrics = with_timeout(client.get_all()).await.unwrap();
    assert!(metrics.points("a").iter().map(|point| point.timestamp).eq(0..300));
    assert_eq!(client.stats().reconnects, 0);
}
