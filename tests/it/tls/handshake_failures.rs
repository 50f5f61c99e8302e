//! Handshakes that fail, and peers that do not speak TLS.

use std::{io, time::Duration};

use metrics_client::{Error, MetricsClient, client::connector_fn};
use metrics_server::{Limits, Server, tls::TlsAcceptor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpStream,
    time::timeout,
};

use super::{Authority, Identity, client, said};
use crate::{peer::with_timeout, running_server::Running};

#[tokio::test]
async fn plain_client_gets_an_error_from_a_tls_server() {
    let server = Authority::new("root").issue(&["localhost"]).serve().await;
    let client = MetricsClient::builder(server.addr)
        .reconnect(metrics_client::client::ReconnectPolicy::never())
        .connect()
        .await
        .unwrap();
    let error = client.put_at("a", 1.0, 1).await.unwrap_err();
    // Not a timeout.
    assert!(
        matches!(&error, Error::Connection { source: fault, .. } if fault.is_protocol_violation())
    );
    let text = said(&error);
    assert!(text.ends_with("connect with `TlsConnector` (feature `tls`)"), "{text}");
}

#[tokio::test]
async fn tls_client_reports_a_plain_server() {
    let server = Running::serve(Server::bind("127.0.0.1:0").await.unwrap());
    let connector = Authority::new("root").connector();
    let error = client("localhost", &server, connector).connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let text = said(&error);
    assert!(text.contains("(does the server speak TLS at this address?): "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn handshake_that_never_ends_times_out() {
    let silent = connector_fn(|_| async {
        let (ours, theirs) = duplex(64 * 1024);
        // Held open: silence, not an end.
        tokio::spawn(async move {
            let _theirs = theirs;
            std::future::pending::<()>().await;
        });
        Ok(ours)
    });
    let connector = Authority::new("root").connector().with_connector(silent);
    let dialling = MetricsClient::builder("localhost:1").connector(connector).connect();
    let error = with_timeout(dialling).await.unwrap_err();
    assert_eq!(said(&error), "cannot connect to localhost:1: no connection within 5s");
}

#[tokio::test(start_paused = true)]
async fn hangup_in_the_handshake_is_reported() {
    let deaf = connector_fn(|_| async {
        let (ours, mut theirs) = duplex(64 * 1024);
        tokio::spawn(async move { theirs.read(&mut [0; 16]).await });
        Ok(ours)
    });
    let connector = Authority::new("root").connector().with_connector(deaf);
    let dialling = MetricsClient::builder("localhost:1").connector(connector).connect();
    let text = said(&with_timeout(dialling).await.unwrap_err());
    assert!(text.contains("(does the server speak TLS at this address?): "), "{text}");
}

#[tokio::test]
async fn silent_peers_count_and_block_nobody() {
    let authority = Authority::new("root");
    let Identity { chain, key } = authority.issue(&["localhost"]);
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let server = Running::serve(
        server
            .tls(TlsAcceptor::new(chain, key).unwrap())
            .limits(Limits::default().max_connections(3).shutdown_grace(Duration::MAX)),
    );
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let metrics = client("localhost", &server, authority.connector()).connect().await.unwrap();
    metrics.put_at("a", 1.0, 1).await.unwrap();
    // The fourth is rejected.
    let mut fourth = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(with_timeout(fourth.read(&mut [0; 16])).await.unwrap(), 0);
    let stats = server.monitor.stats();
    assert_eq!((stats.connections, stats.rejected_connections), (3, 1));

    // A stop does not wait for silent peers until the grace period is over.
    metrics.close().await.unwrap();
    server.stop.send(()).unwrap();
    with_timeout(server.serving).await.unwrap();
}

#[tokio::test]
async fn failed_handshake_sends_its_alert() {
    let server = Authority::new("root").issue(&["localhost"]).serve().await;
    let mut peer = TcpStream::connect(server.addr).await.unwrap();
    // More than the server looks at: were the rest left unread, its answer could be lost.
    let rest = async { peer.write_all(&[b'x'; 256 * 1024]).await };
    let _: io::Result<()> = timeout(Duration::from_secs(60), rest).await.unwrap();
    let mut answer = Vec::new();
    with_timeout(peer.read_to_end(&mut answer)).await.unwrap();
    // A fatal alert (RFC 8446, section 6).
    assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, _]), "{answer:?}");
}
