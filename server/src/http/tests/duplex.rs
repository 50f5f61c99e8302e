//! A listener without sockets, over a scripted store: time can be paused.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use metrics_client::{Key, Point, Selector};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::{
    http::{Access, App, HttpLimits, HttpServer, serve},
    store::{
        Block, KeyPattern, MemorySnapshot, MemoryStore, PutBatch, Snapshot, Store, StoreError, Tee,
    },
};

/// A store in memory that hangs when told to, and counts what is read.
#[derive(Default)]
pub(super) struct Scripted {
    store: MemoryStore,
    pub(super) hangs: AtomicBool,
    pub(super) blocks_read: Arc<AtomicUsize>,
}

impl Scripted {
    async fn hang(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }
}

impl Store for Scripted {
    type Snapshot = CountedSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        self.hang().await;
        self.store.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<CountedSnapshot, StoreError> {
        self.hang().await;
        let snapshot = self.store.get(selector).await?;
        Ok(CountedSnapshot { snapshot, blocks_read: Arc::clone(&self.blocks_read) })
    }

    async fn keys(&self, pattern: &KeyPattern) -> Result<Vec<Key>, StoreError> {
        self.hang().await;
        self.store.keys(pattern).await
    }

    async fn last(&self, key: &Key) -> Result<Option<Point>, StoreError> {
        self.hang().await;
        self.store.last(key).await
    }
}

pub(super) struct CountedSnapshot {
    snapshot: MemorySnapshot,
    blocks_read: Arc<AtomicUsize>,
}

impl Snapshot for CountedSnapshot {
    async fn next_block(&mut self) -> Result<Option<Block<'_>>, StoreError> {
        self.blocks_read.fetch_add(1, Ordering::Relaxed);
        self.snapshot.next_block().await
    }
}

/// What serves connections that a test makes.
pub(super) struct DuplexServer {
    pub(super) app: Arc<App<Arc<Scripted>>>,
    router: Router,
    graceful: GracefulShutdown,
}

impl DuplexServer {
    pub(super) async fn start(limits: HttpLimits) -> Self {
        Self::start_with(limits, 64, |server| server).await
    }

    /// Starts it with a queue of live batches, and what `configure` adds.
    pub(super) async fn start_with(
        limits: HttpLimits,
        live_batches: usize,
        configure: impl FnOnce(HttpServer<Arc<Scripted>>) -> HttpServer<Arc<Scripted>>,
    ) -> Self {
        let store = Tee::new(Arc::new(Scripted::default()), live_batches);
        let server = HttpServer::bind("127.0.0.1:0", store, Access::Loopback).await.unwrap();
        #[cfg(feature = "influx")]
        let server = server.influx();
        let (app, router) = configure(server.limits(limits)).into_router();
        Self { app, router, graceful: GracefulShutdown::new() }
    }

    pub(super) fn store(&self) -> &Scripted {
        self.app.store.get_ref()
    }

    /// Opens a connection with a buffer of this many bytes in each direction.
    pub(super) fn connect(&self, buffer: usize) -> DuplexStream {
        let (ours, theirs) = duplex(buffer);
        let (router, watcher) = (self.router.clone(), self.graceful.watcher());
        tokio::spawn(serve::serve(theirs, [127, 0, 0, 1].into(), router, self.app.limits, watcher));
        ours
    }

    /// Sends a request over a connection of its own, and returns the whole answer.
    pub(super) async fn ask(&self, request: &str) -> String {
        let mut peer = self.connect(64 * 1024);
        peer.write_all(request.as_bytes()).await.unwrap();
        rest(&mut peer).await
    }

    pub(super) async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .await
    }

    pub(super) async fn post(&self, path: &str, headers: &str, body: &[u8]) -> String {
        let mut peer = self.connect(64 * 1024);
        let len = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {len}\r\n\r\n"
        );
        peer.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        rest(&mut peer).await
    }

    pub(super) async fn put(&self, points: &[(&str, i64, f64)]) {
        let mut puts = PutBatch::new();
        for &(key, at, value) in points {
            puts.push(&Key::new(key).unwrap(), Point::new(value, at));
        }
        self.app.store.apply(&puts).await.unwrap();
    }
}

/// Reads until the connection ends, by a close or a reset.
pub(super) async fn rest(peer: &mut DuplexStream) -> String {
    let mut answer = Vec::new();
    let _ = peer.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
