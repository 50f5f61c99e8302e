//! Dials the servers of a client, one after the other.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
    future::{Future, poll_fn},
    io,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Instant},
};

use super::{
    address::Address,
    connector::Connector,
    durations::MAX_DURATION,
    settings::{ConnectionConfig, ServerOrder},
    turn::within,
};
use crate::error::{ConnectionError, Error, InvalidAddress};

/// A connector, the servers that it connects to, and a time limit. All connections of a client share it, and so
/// agree on the server that the client keeps to.
#[derive(Debug)]
pub(super) struct Dialer<C> {
    pub(super) connector: C,
    /// At least one, in the order in which this client tries them.
    servers: Box<[Address]>,
    /// The index of the server that the client keeps to.
    current: AtomicUsize,
    /// How often that has changed.
    failovers: AtomicU64,
    timeout: Duration,
}

/// A connection to a server, and the server's index.
pub(super) struct Connected<Io> {
    pub(super) io: Io,
    pub(super) server: usize,
}

type Attempt<'a, Io> = (usize, Pin<Box<dyn Future<Output = io::Result<Io>> + Send + 'a>>);

impl<C: Connector> Dialer<C> {
    pub(super) fn new(connector: C, mut servers: Vec<Address>, config: &ConnectionConfig) -> Self {
        if config.server_order == ServerOrder::Random {
            fastrand::shuffle(&mut servers);
        }
        assert!(!servers.is_empty(), "a list of addresses has at least one");
        Self {
            connector,
            servers: servers.into(),
            current: AtomicUsize::new(0),
            failovers: AtomicU64::new(0),
            timeout: config.connect_timeout,
        }
    }

    /// Connects to the server that the client keeps to, or to the first one after it that can be reached, which is
    /// the one that the client keeps to from then on. Each is tried once.
    pub(super) async fn dial(&self) -> Result<Connected<C::Io>, Arc<io::Error>> {
        if self.servers.len() == 1 {
            let io = self.dial_server(0).await?;
            return Ok(Connected { io, server: 0 });
        }
        let first = self.current.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        match within(self.timeout, self.dial_round(first, &mut errors)).await {
            Some(Some(connected)) => {
                self.change(first, connected.server);
                Ok(connected)
            }
            Some(None) | None => {
                // The first one has the whole time: next time another is the first.
                self.change(first, self.after(first));
                Err(Arc::new(self.round_error(errors)))
            }
        }
    }

    /// Connects to one server, whichever the client keeps to.
    pub(super) async fn dial_server(&self, server: usize) -> Result<C::Io, Arc<io::Error>> {
        let dialling = self.connector.connect_within(&self.servers[server], self.timeout);
        match within(self.timeout, dialling).await {
            Some(connected) => connected.map_err(Arc::new),
            None => Err(Arc::new(self.timeout_error())),
        }
    }

    /// Tries the servers from `first` on, each once the one before it has failed or has had its share of the time.
    /// An attempt that takes longer goes on beside the next.
    async fn dial_round(
        &self,
        first: usize,
        errors: &mut Vec<(usize, io::Error)>,
    ) -> Option<Connected<C::Io>> {
        let deadline = Instant::now() + self.timeout;
        let mut untried = (first..self.servers.len()).chain(0..first);
        let mut attempts = Vec::new();
        loop {
            let wait = match untried.next() {
                Some(server) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let address = &self.servers[server];
                    let attempt = self.connector.connect_within(address, left);
                    attempts.push((server, Box::pin(attempt) as Pin<Box<_>>));
                    left / (1 + untried.clone().count() as u32)
                }
                None if attempts.is_empty() => return None,
                None => MAX_DURATION,
            };
            match time::timeout(wait, poll_fn(|cx| poll_any(&mut attempts, cx))).await {
                Ok((server, Ok(io))) => return Some(Connected { io, server }),
                Ok((server, Err(error))) => errors.push((server, error)),
                Err(_) => {}
            }
        }
    }

    /// Keeps to the next server, if the client keeps to `server` now, which does not answer as it should.
    pub(super) fn leave(&self, server: usize) {
        self.change(server, self.after(server));
    }

    /// Returns how many servers there are.
    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn address(&self, server: usize) -> &Address {
        &self.servers[server]
    }

    /// Another connection of the client may have found another server in the meantime; then that one stays.
    fn change(&self, from: usize, to: usize) {
        let changed =
            self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if from != to && changed {
            self.failovers.fetch_add(1, Ordering::Relaxed);
            let (from, to) = (self.address(from).as_str(), self.address(to).as_str());
            tracing::debug!(from, to, "changed the server");
        }
    }

    fn after(&self, server: usize) -> usize {
        (server + 1) % self.servers.len()
    }

    fn timeout_error(&self) -> io::Error {
        let text = format!("no connection within {:?}", self.timeout);
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    /// Says of each server why it could not be reached.
    fn round_error(&self, mut errors: Vec<(usize, io::Error)>) -> io::Error {
        for server in 0..self.servers.len() {
            if errors.iter().all(|(failed, _)| *failed != server) {
                errors.push((server, self.timeout_error()));
            }
        }
        let mut text = String::new();
        for (server, error) in &errors {
            let separator = if text.is_empty() { "" } else { "; " };
            let address = self.address(*server);
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}{address}: {}", Chain(error));
        }
        let kind = errors.last().map_or(io::ErrorKind::Other, |(_, error)| error.kind());
        io::Error::new(kind, text)
    }

    /// Returns all addresses as text.
    fn text(&self) -> Arc<str> {
        let texts = self.servers.iter().map(Address::as_str).collect::<Vec<_>>();
        texts.join(",").into()
    }

    /// Returns why a caller who waited for this connection alone has none.
    pub(super) fn error(&self, cause: Arc<io::Error>) -> Error {
        // From a connector that wraps another and does not check the address itself.
        match cause.get_ref().and_then(|cause| cause.downcast_ref::<InvalidAddress>()) {
            Some(invalid) => invalid.clone().into(),
            None => Error::Connect { address: self.text(), source: cause },
        }
    }

    pub(super) fn fault(&self, cause: Arc<io::Error>) -> ConnectionError {
        ConnectionError::Connect { address: self.text(), source: cause }
    }
}

/// Polls all attempts, and takes out the first that is over.
fn poll_any<Io>(
    attempts: &mut Vec<Attempt<'_, Io>>,
    cx: &mut Context<'_>,
) -> Poll<(usize, io::Result<Io>)> {
    for index in 0..attempts.len() {
        if let Poll::Ready(result) = attempts[index].1.as_mut().poll(cx) {
            let (server, _) = attempts.remove(index);
            return Poll::Ready((server, result));
        }
    }
    Poll::Pending
}

/// An error with its sources, in one line.
struct Chain<'a>(&'a io::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Anything that a connection can be, where its type does not matter.
pub(super) trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for Io {}

/// Takes the place of a connector for a client that was made from a stream, and never connects.
#[derive(Debug)]
pub(super) struct NoReconnect<Io>(PhantomData<fn() -> Io>);

impl<Io> Default for NoReconnect<Io> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connector for NoReconnect<Io> {
    type Io = Io;

    async fn connect(&self, _: &Address) -> io::Result<Io> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A dialer whose type does not matter, for connections besides the main one.
pub(super) trait DynDialer: Send + Sync {
    fn dial_boxed(self: Arc<Self>) -> BoxFuture<Result<Box<dyn AsyncStream>, Error>>;

    /// Returns the address of the server that the client keeps to.
    fn current(&self) -> &Address;

    /// Returns how often that has changed.
    fn failovers(&self) -> u64;
}

impl<C: Connector> DynDialer for Dialer<C> {
    fn dial_boxed(self: Arc<Self>) -> BoxFuture<Result<Box<dyn AsyncStream>, Error>> {
        Box::pin(async move {
            match self.dial().await {
                Ok(connected) => Ok(Box::new(connected.io) as Box<dyn AsyncStream>),
                Err(cause) => Err(self.error(cause)),
            }
        })
    }

    fn current(&self) -> &Address {
        self.address(self.current.load(Ordering::Relaxed))
    }

    fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }
}
