//! The end of a TLS connection: `close_notify`, and truncation.

use std::{
    io,
    sync::{Arc, Mutex},
};

use metrics_client::{
    MetricsClient,
    client::{Address, Connector, ReconnectPolicy, connector_fn},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    join,
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{client, server};

use super::{Authority, in_process, said};
use crate::{peer::with_timeout, running_server::Running};

#[tokio::test(start_paused = true)]
async fn client_close_sends_close_notify() {
    let authority = Authority::new("root");
    let (mut peers, client) = scripted(&authority).await;
    let mut peer = peers.recv().await.unwrap();
    let mut nothing = [0; 16];
    let (closed, read) = join!(client.close(), peer.read(&mut nothing));
    closed.unwrap();
    assert_eq!(read.expect("a clean end"), 0);
}

#[tokio::test(start_paused = true)]
async fn truncated_response_is_an_error() {
    let authority = Authority::new("root");
    for clean in [false, true] {
        let (mut peers, client) = scripted(&authority).await;
        let server = async {
            let mut peer = peers.recv().await.unwrap();
            with_timeout(peer.read(&mut [0; 16])).await.unwrap();
            peer.write_all(b"ok\na 1.0 1\n").await.unwrap();
            peer.flush().await.unwrap();
            if clean {
                peer.shutdown().await.unwrap();
            }
        };
        let (got, ()) = join!(client.get("a"), server);
        let text = said(&got.unwrap_err());
        let expected = if clean {
            "connection closed by the server"
        } else {
            "peer closed connection without sending TLS close_notify"
        };
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn server_shutdown_answers_and_sends_close_notify() {
    let authority = Authority::new("root");
    let server = authority.issue(&["localhost"]).serve().await;
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let mut peer = raw_client(&authority, tcp).await;
    peer.write_all(b"put a 1 1\nget a\n").await.unwrap();
    let mut answers = [0; 16];
    with_timeout(peer.read_exact(&mut answers)).await.unwrap();
    let Running { stop, serving, .. } = server;
    stop.send(()).unwrap();
    assert_eq!(with_timeout(peer.read(&mut [0; 16])).await.expect("a clean end"), 0);
    drop(peer);
    with_timeout(serving).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_notify_only_if_no_response_is_owed() {
    let authority = Authority::new("root");
    let pipe = in_process(authority.issue(&["localhost"]).config());

    // No request for too long.
    let mut idle =
        raw_client(&authority, pipe.connect(&Address::custom("pipe")).await.unwrap()).await;
    assert_eq!(with_timeout(idle.read(&mut [0; 16])).await.expect("a clean end"), 0);

    // No line break for too long.
    let mut slow =
        raw_client(&authority, pipe.connect(&Address::custom("pipe")).await.unwrap()).await;
    slow.write_all(b"put a ").await.unwrap();
    slow.flush().await.unwrap();
    assert_eq!(with_timeout(slow.read(&mut [0; 16])).await.expect("a clean end"), 0);

    // Answers left unread for too long.
    let mut deaf =
        raw_client(&authority, pipe.connect(&Address::custom("pipe")).await.unwrap()).await;
    let flood = async {
        loop {
            deaf.write_all(&b"bad\n".repeat(1024)).await?;
        }
    };
    let _: io::Result<()> = with_timeout(flood).await;
    let error = with_timeout(deaf.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

type Peers = mpsc::UnboundedReceiver<server::TlsStream<DuplexStream>>;

/// A client of a server that the test plays, and the connections that it makes.
async fn scripted(authority: &Authority) -> (Peers, MetricsClient) {
    let acceptor =
        tokio_rustls::TlsAcceptor::from(Arc::new(authority.issue(&["localhost"]).config()));
    let (sender, peers) = mpsc::unbounded_channel();
    let pipe = connector_fn(move |_| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            let (ours, theirs) = duplex(64 * 1024);
            tokio::spawn(
                async move { sender.send(acceptor.accept(theirs).await.unwrap()).unwrap() },
            );
            Ok(ours)
        }
    });
    let connector = authority.connector().with_connector(pipe);
    let builder = MetricsClient::builder("localhost:1").connector(connector);
    (peers, builder.reconnect(ReconnectPolicy::never()).connect().await.unwrap())
}

/// A TLS client that writes and reads bytes.
pub(super) async fn raw_client<Io>(authority: &Authority, io: Io) -> client::TlsStream<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Mutex::new(Some(io));
    let given = connector_fn(move |_| {
        let io = io.lock().unwrap().take().ok_or(io::ErrorKind::Unsupported.into());
        async move { io }
    });
    authority
        .connector()
        .with_connector(given)
        .connect(&"localhost:1".parse().unwrap())
        .await
        .unwrap()
}
