//! The server over real sockets, with raw bytes.

// `unwrap` is an assertion in tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{net::SocketAddr, sync::Arc};

use metrics_server::{Limits, Server, Store, stats::StatsHandle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

#[cfg(feature = "clickhouse")]
mod clickhouse;
mod connection;
#[cfg(any(feature = "disk", feature = "graphite", feature = "influx"))]
mod corpus;
#[cfg(feature = "disk")]
mod durability;
mod grammar;
#[cfg(feature = "graphite")]
mod graphite;
#[cfg(all(feature = "graphite", feature = "influx"))]
mod http_requests;
#[cfg(feature = "influx")]
mod influx;
mod listen;
mod overload;
mod pipelining;
#[cfg(feature = "relay")]
mod relay;
mod shutdown;
#[cfg(all(feature = "graphite", feature = "influx"))]
mod sources;
mod store;

/// A running server; it serves until `stop` or the end of the test.
struct Running {
    addr: SocketAddr,
    monitor: StatsHandle,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// Removed when the last peer is dropped too: a store whose folder is removed takes no puts.
    dir: Option<Arc<tempfile::TempDir>>,
}

impl Running {
    async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    /// Starts a server on a `MemoryStore`, or on a `DiskStore` if `METRICS_TEST_STORE` is `disk`.
    async fn with(limits: Limits) -> Self {
        let server = Server::bind("127.0.0.1:0").await.unwrap().limits(limits);
        #[cfg(feature = "disk")]
        if std::env::var_os("METRICS_TEST_STORE").is_some_and(|store| store == "disk") {
            let dir = tempfile::tempdir().unwrap();
            let store = metrics_server::store::DiskStore::open(dir.path()).await.unwrap();
            return Self { dir: Some(Arc::new(dir)), ..Self::serve(server.store(store)) };
        }
        Self::serve(server)
    }

    fn serve(server: Server<impl Store>) -> Self {
        let (addr, monitor) = (server.local_addr(), server.stats_handle());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve_until(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { addr, monitor, stop, serving, dir: None }
    }

    async fn connect(&self) -> Peer {
        let io = TcpStream::connect(self.addr).await.unwrap();
        io.set_nodelay(true).unwrap();
        Peer { _dir: self.dir.clone(), ..Peer::new(io) }
    }
}

/// A peer that writes and reads bytes.
struct Peer {
    io: TcpStream,
    _dir: Option<Arc<tempfile::TempDir>>,
}

impl Peer {
    fn new(io: TcpStream) -> Self {
        Self { io, _dir: None }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads exactly `answer`.
    async fn expect(&mut self, answer: &str) {
        let mut got = vec![0; answer.len()];
        self.io.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }

    /// Sends `request`, reads `answer`, and checks with one more request that nothing else follows.
    async fn ask(&mut self, request: impl AsRef<[u8]>, answer: &str) {
        self.send(request).await;
        self.expect(answer).await;
        self.send("get no.such.key\n").await;
        self.expect("ok\n\n").await;
    }

    /// Reads until the server closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.io.read_to_end(&mut rest).await.unwrap();
        String::from_utf8(rest).unwrap()
    }
}

const WRONG_COMMAND: &str = "error\nwrong command\n\n";
