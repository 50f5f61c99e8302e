//! Connections that were accepted elsewhere.

use std::sync::Arc;

use metrics_client::{Key, Selector};
use metrics_server::{Limits, MemoryStore, Store, serve_connection, store::Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

#[tokio::test(start_paused = true)]
async fn connections_share_a_store_and_end_at_eof() {
    let store = Arc::new(MemoryStore::new());
    for (request, answer) in [
        ("put a 1 1\nput a 2 2\nbad\n", "ok\n\nok\n\nerror\nwrong command\n\n"),
        ("put b 1 1\nget *\nput c", "ok\n\nok\na 1.0 1\na 2.0 2\nb 1.0 1\n\n"),
    ] {
        let (mut peer, io) = duplex(1024);
        let serving = tokio::spawn(serve_connection(io, Arc::clone(&store), Limits::default()));
        peer.write_all(request.as_bytes()).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut answers = String::new();
        peer.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers, answer);
        serving.await.unwrap();
    }
    let stored = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
    assert_eq!(stored.keys().map(Key::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn limits_apply_to_a_single_connection() {
    let limits = Limits::default().max_line_bytes(8);
    let (mut peer, io) = duplex(1024);
    let serving = tokio::spawn(serve_connection(io, MemoryStore::new(), limits));
    peer.write_all(b"get a\nget too.long\nget a\n").await.unwrap();
    let mut answers = String::new();
    peer.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers, "ok\n\nerror\nwrong command\n\n");
    drop(peer);
    serving.await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn unix_socket_is_served() {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let serving = tokio::spawn(serve_connection(far, MemoryStore::new(), Limits::default()));
    let client = metrics_client::MetricsClient::from_io(near);
    client.put_at("a", 0.5, 7).await.unwrap();
    assert_eq!(client.get_all().await.unwrap().latest("a").unwrap().timestamp, 7);
    client.close().await.unwrap();
    serving.await.unwrap();
}
