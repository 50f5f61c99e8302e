//! [`Server`]: listens, and serves every connection from a [`Store`] within [`Limits`].

use std::{
    fmt,
    future::{Future, pending},
    io,
    net::SocketAddr,
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, ToSocketAddrs},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

#[cfg(feature = "tls")]
use crate::session::TlsAcceptor;
use crate::{
    net::{self, Listeners},
    session::{self, Limits, SessionShared, Usage, listener},
    stats::{ServerCounters, StatsHandle},
    store::{MemoryStore, Store},
};

/// A metrics server that listens, and serves once [`serve`](Self::serve) or
/// [`serve_until`](Self::serve_until) is polled.
///
/// ```
/// use metrics_server::Server;
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream, sync::oneshot};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let server = Server::bind("127.0.0.1:0").await?;
/// let addr = server.local_addr();
/// let (stop, stopped) = oneshot::channel::<()>();
/// let serving = tokio::spawn(server.serve_until(async { _ = stopped.await }));
///
/// let mut peer = TcpStream::connect(addr).await?;
/// peer.write_all(b"put palm.cpu 23.7 1150864247\nget palm.cpu\n").await?;
/// let mut answers = vec![0; 33];
/// peer.read_exact(&mut answers).await?;
/// assert_eq!(answers, b"ok\n\nok\npalm.cpu 23.7 1150864247\n\n"[..]);
///
/// drop((peer, stop));
/// serving.await?;
/// # Ok(()) }
/// ```
pub struct Server<S = MemoryStore> {
    listeners: Vec<TcpListener>,
    /// The address of each listener; at least one.
    local_addrs: Vec<SocketAddr>,
    store: S,
    limits: Limits,
    counters: Arc<ServerCounters>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens on every address that `addr` resolves to, with a [`MemoryStore`] and the default [`Limits`].
    ///
    /// `localhost` resolves to `127.0.0.1` and `::1` on most machines, and a peer may try either. An address
    /// that this machine does not have, such as `::1` without IPv6, is skipped if there is another. Port 0
    /// selects a free port, the same for all addresses; [`local_addr`](Self::local_addr) returns it.
    ///
    /// # Errors
    ///
    /// If `addr` cannot be resolved, if one of its addresses is in use or forbidden, or if this machine has
    /// none of them.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_listeners(net::listen(addr).await?)
    }

    /// Creates a server from a listening socket, such as one from socket activation.
    ///
    /// # Errors
    ///
    /// If the local address of the socket cannot be read.
    pub fn from_listener(listener: TcpListener) -> io::Result<Self> {
        Self::from_listeners(vec![listener])
    }

    fn from_listeners(listeners: Vec<TcpListener>) -> io::Result<Self> {
        let local_addrs = listeners.iter().map(TcpListener::local_addr);
        Ok(Self {
            local_addrs: local_addrs.collect::<io::Result<_>>()?,
            listeners,
            store: MemoryStore::new(),
            limits: Limits::default(),
            counters: Arc::default(),
            #[cfg(feature = "tls")]
            tls: None,
        })
    }
}

impl<S: Store> Server<S> {
    /// Sets the store. Default: an empty [`MemoryStore`].
    #[must_use]
    pub fn store<T: Store>(self, store: T) -> Server<T> {
        Server {
            store,
            listeners: self.listeners,
            local_addrs: self.local_addrs,
            limits: self.limits,
            counters: self.counters,
            #[cfg(feature = "tls")]
            tls: self.tls,
        }
    }

    /// Sets the limits on what peers can use.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets that every connection uses TLS.
    ///
    /// A handshake counts towards [`Limits::max_connections`], and has to end within
    /// [`Limits::line_timeout`]. A failed one is logged at `info` with the reason, and counted in
    /// [`ServerStats::failed_handshakes`](crate::stats::ServerStats::failed_handshakes). Signatures are made
    /// on Tokio's blocking threads, at most half as many at once as the runtime has worker threads, so that
    /// a flood of handshakes does not slow down established connections; one at a time for each address; and
    /// the address that has cost least is next.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(self, acceptor: TlsAcceptor) -> Self {
        Self { tls: Some(acceptor), ..self }
    }

    /// Returns the address that the server listens on, the first one if there are several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs[0]
    }

    /// Returns all addresses that the server listens on, at least one.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Returns a handle that reads the statistics, also while the server serves.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle(Arc::clone(&self.counters))
    }

    /// Serves without end; the same as [`serve_until`](Self::serve_until) with a future that never completes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts all sessions at once.
    pub async fn serve(self) {
        self.serve_until(pending()).await;
    }

    /// Serves until `shutdown` completes; the same as [`serve_until`](Self::serve_until).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts all sessions at once.
    pub async fn serve_with_shutdown(self, shutdown: impl Future<Output = ()>) {
        self.serve_until(shutdown).await;
    }

    /// Serves until `shutdown` completes, then shuts down gracefully.
    ///
    /// On Unix it first raises the soft limit of open files (`ulimit -n`) to what
    /// [`Limits::max_connections`] need. If the hard limit is lower, the connection limits are lowered, and
    /// one address may have half of the connections. Both are logged.
    ///
    /// After `shutdown`, no connection is accepted, each session answers the requests that it has read and
    /// closes, and sessions that have not ended after [`Limits::shutdown_grace`] are aborted. No error of a
    /// connection, or of accepting one, ends the server.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use metrics_server::Server;
    /// use tokio::sync::oneshot;
    ///
    /// let (stop, stopped) = oneshot::channel::<()>();
    /// let server = Server::bind("127.0.0.1:0").await?;
    /// let serving = tokio::spawn(server.serve_until(async { _ = stopped.await }));
    /// drop(stop);
    /// serving.await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts all sessions at once.
    pub async fn serve_until(self, shutdown: impl Future<Output = ()>) {
        let limits = self.limits;
        #[cfg(unix)]
        let limits = session::descriptors::fit(limits);
        let shared = SessionShared::new(self.store, limits, self.counters);
        #[cfg(feature = "tls")]
        let shared = shared.tls(self.tls);
        for local_addr in self.local_addrs {
            info!(%local_addr, "serving");
        }
        listener::run(Listeners::new(self.listeners), Arc::new(shared), shutdown).await;
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addrs", &self.local_addrs)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Serves one connection that was accepted elsewhere: a Unix socket, TLS, a pipe in a test.
///
/// A [`Server`] does the same with each connection that it accepts. To share points between connections,
/// pass each an [`Arc`] of the same store.
///
/// It returns when the peer has closed its side and was answered, when the peer sends a line that is too
/// long or a first line of HTTP or TLS, when one of the timeouts in `limits` passes, when the store fails
/// [transiently](crate::store::StoreError::transient), or when the connection fails; the reason is logged.
/// The limits over all connections and [`shutdown_grace`](Limits::shutdown_grace) do not apply to a single
/// connection.
///
/// `io` is flushed after each write. It is shut down after the last answer, or after the idle timeout if
/// no answer is owed. Otherwise it is only dropped, so that over TLS a truncated answer does not look
/// complete.
///
/// ```
/// use std::sync::Arc;
/// use metrics_client::MetricsClient;
/// use metrics_server::{MemoryStore, Limits, serve_connection};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let store = Arc::new(MemoryStore::new());
/// let (near, far) = tokio::io::duplex(64 * 1024);
/// let serving = tokio::spawn(serve_connection(far, Arc::clone(&store), Limits::default()));
///
/// let client = MetricsClient::from_io(near);
/// client.put_at("palm.cpu", 23.7, 1150864247).await?;
/// assert_eq!(client.get("palm.cpu").await?.latest("palm.cpu").unwrap().value, 23.7);
///
/// client.close().await?;
/// serving.await?;
/// # Ok(()) }
/// ```
///
/// With a custom acceptor, the caller limits the time and the number of handshakes:
///
/// ```no_run
/// # #[cfg(feature = "tls")]
/// # async fn f(config: std::sync::Arc<metrics_client::tls::rustls::ServerConfig>) -> std::io::Result<()> {
/// use std::{sync::Arc, time::Duration};
/// use metrics_server::{MemoryStore, Limits, serve_connection};
/// use tokio::{net::TcpListener, time::timeout};
///
/// let store = Arc::new(MemoryStore::new());
/// let acceptor = tokio_rustls::TlsAcceptor::from(config);
/// let listener = TcpListener::bind("0.0.0.0:8889").await?;
/// loop {
///     let (tcp, _) = listener.accept().await?;
///     tcp.set_nodelay(true)?;
///     let (acceptor, store) = (acceptor.clone(), Arc::clone(&store));
///     tokio::spawn(async move {
///         let handshake = timeout(Duration::from_secs(30), acceptor.accept(tcp));
///         if let Ok(Ok(io)) = handshake.await {
///             serve_connection(io, store, Limits::default()).await;
///         }
///     });
/// }
/// # }
/// ```
///
/// # Panics
///
/// If it is polled outside of a Tokio runtime with timers.
///
/// # Cancel safety
///
/// Dropping the future ends the connection at once: requests that were read may stay unanswered, and a put
/// that was not answered may have been applied.
pub async fn serve_connection<Io, S>(io: Io, store: S, limits: Limits)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    let shared = Arc::new(SessionShared::new(store, limits, Arc::default()));
    session::run(io, None, Arc::clone(&shared), Usage::default(), CancellationToken::new()).await;
    shared.log_limits.log_suppressed();
}
