//! The network as client and server see it: names, connections, and a store behind the servers.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use metrics_client::{
    Selector,
    client::{Address, Connector},
};
use metrics_server::{
    Limits, Store, serve_connection,
    store::{PutBatch, StoreError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};
use turmoil::net::{TcpListener, TcpStream};

use super::{
    history,
    store::{SimSnapshot, SimStore},
};
use crate::oracle::HANGUP_PROBE;

/// The hosts that serve. One store is behind all of them.
pub(super) const SERVERS: [&str; 3] = ["north", "south", "east"];

pub(super) const PORT: u16 = 8888;

/// What can change about the world besides the network between its hosts.
#[derive(Debug)]
pub(super) struct Conditions {
    /// Which server the clients' name for it leads to; none if it is unknown.
    pub(super) server: Option<usize>,
    /// How long a name takes to be resolved at most.
    pub(super) resolving: Duration,
    /// How long the store takes before and after it does something at most.
    pub(super) storing: Duration,
    /// How often the store fails, of a hundred times.
    pub(super) failing: u32,
}

impl Conditions {
    pub(super) const FINE: Self =
        Self { server: Some(0), resolving: Duration::ZERO, storing: Duration::ZERO, failing: 0 };
}

/// What all hosts of a simulation share, behind the network's back.
#[derive(Clone, Debug)]
pub(super) struct SimNetwork {
    pub(super) history: history::SharedHistory,
    pub(super) conditions: Arc<Mutex<Conditions>>,
    pub(super) store: Arc<SimStore>,
    /// The most bytes that one write moves, at either end.
    pub(super) segment: usize,
    /// When all faults are over.
    faults: Duration,
}

impl SimNetwork {
    pub(super) fn new(segment: usize, faults: Duration) -> Self {
        Self {
            history: history::SharedHistory::default(),
            conditions: Arc::new(Mutex::new(Conditions::FINE)),
            store: Arc::new(SimStore::new()),
            segment,
            faults,
        }
    }

    /// Serves as a host of the simulation.
    ///
    /// All connections are one task. When the host crashes, tokio drops its tasks in an order that
    /// depends on how many there have been in the whole program, and a simulation is to be the same again.
    pub(super) async fn serve(self, limits: Limits) -> turmoil::Result {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let mut sessions = FuturesUnordered::new();
        loop {
            let (io, peer) = tokio::select! {
                biased;
                Some(()) = sessions.next() => continue,
                accepted = listener.accept() => accepted?,
            };
            let store = Witness { world: self.clone(), connection: peer };
            let io = Stream { io, segment: self.segment, owner: None };
            sessions.push(serve_connection(io, store, limits));
        }
    }

    /// Takes its time, but not longer than there are faults.
    async fn pause(&self, longest: impl Fn(&Conditions) -> Duration) {
        let longest = longest(&self.conditions.lock().unwrap());
        if longest > Duration::ZERO {
            let left = self.faults.saturating_sub(turmoil::sim_elapsed().unwrap_or_default());
            time::sleep(left.min(longest.mul_f64(fastrand::f64()))).await;
        }
    }
}

/// The name that leads to one of the servers or another.
pub(super) const NAME: &str = "metrics.example";

/// Connects for one client. It resolves [`NAME`] each time; the name of a server always leads to it.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) world: SimNetwork,
    pub(super) client: usize,
}

impl Connector for Dialer {
    type Io = Stream;

    async fn connect(&self, name: &Address) -> io::Result<Stream> {
        self.world.pause(|conditions| conditions.resolving).await;
        let server = match name.host() {
            Some(NAME) => {
                self.world.conditions.lock().unwrap().server.map(|server| SERVERS[server])
            }
            host => SERVERS.into_iter().find(|server| host == Some(server)),
        };
        let Some(server) = server else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is unknown")));
        };
        let io = TcpStream::connect((server, PORT)).await?;
        let address = io.local_addr()?;
        let history = Arc::clone(&self.world.history);
        history.lock().unwrap().connected(self.client, address, server);
        Ok(Stream { io, segment: self.world.segment, owner: Some((history, address)) })
    }
}

/// A connection whose writes go out in pieces, and whose client's end tells when it is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    io: TcpStream,
    segment: usize,
    owner: Option<(history::SharedHistory, SocketAddr)>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = bytes.len().min(fastrand::usize(1..=self.segment));
        Pin::new(&mut self.io).poll_write(cx, &bytes[..len])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A lock is poisoned only where a panic has ended the simulation already.
        if let Some((history, address)) = self.owner.take()
            && let Ok(mut history) = history.lock()
        {
            history.gave_up(address);
        }
    }
}

/// The store as one connection reaches it: it writes down what happens, takes its time, and fails.
#[derive(Debug)]
struct Witness {
    world: SimNetwork,
    connection: SocketAddr,
}

impl Store for Witness {
    type Snapshot = SimSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        self.world.pause(|conditions| conditions.storing).await;
        if let Err(error) = self.fail() {
            if error.is_transient() {
                self.world.history.lock().unwrap().hangs_up_at_puts(self.connection, puts);
            }
            return Err(error);
        }
        self.world.store.apply(puts).await?;
        self.world.history.lock().unwrap().apply(self.connection, puts);
        self.world.pause(|conditions| conditions.storing).await;
        Ok(())
    }

    async fn get(&self, selector: &Selector) -> Result<SimSnapshot, StoreError> {
        if let Selector::Key(key) = selector
            && key.as_str().starts_with(HANGUP_PROBE)
        {
            self.world.history.lock().unwrap().checked.insert(self.connection);
        }
        self.world.pause(|conditions| conditions.storing).await;
        if let Err(error) = self.fail() {
            if error.is_transient() {
                self.world.history.lock().unwrap().hangs_up_at_get(self.connection, selector);
            }
            return Err(error);
        }
        let snapshot = self.world.store.get(selector).await;
        self.world.pause(|conditions| conditions.storing).await;
        snapshot
    }
}

impl Witness {
    fn fail(&self) -> Result<(), StoreError> {
        if fastrand::u32(..100) < self.world.conditions.lock().unwrap().failing {
            // The caller gets final errors; the client retries transient ones.
            let kinds = [StoreError::new, StoreError::transient];
            return Err(kinds[fastrand::usize(..2)]("disk full"));
        }
        Ok(())
    }
}
