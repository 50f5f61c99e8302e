//! A server to embed: in a program of its own, in an agent, in a test.
//!
//! It speaks the whole protocol, pipelines as deep as anyone likes, and bounds what one peer can
//! cost ([`Limits`]). Where the points go is a [`Store`]'s business.

use std::{collections::HashSet, fmt, future::Future, io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host},
    sync::watch,
};
use tracing::info;

#[cfg(feature = "tls")]
use crate::session::TlsAcceptor;
use crate::{
    session::{self, Counters, Limits, Monitor, Shared, Usage, listener},
    store::{MemoryStore, Store},
};

/// A metrics server that listens and does not serve yet.
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
    /// Where each of them listens; there is at least one.
    local_addrs: Vec<SocketAddr>,
    store: S,
    limits: Limits,
    counters: Arc<Counters>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens on every address that `addr` stands for, with a [`MemoryStore`] and the default
    /// [`Limits`].
    ///
    /// `localhost` stands for `127.0.0.1` and `::1` on most machines, and a peer may try either. An
    /// address that this machine does not have, such as `::1` where there is no IPv6, is left out if
    /// there is another. Port 0 means any that is free, the same for all addresses;
    /// [`local_addr`](Self::local_addr) tells which it is.
    ///
    /// # Errors
    ///
    /// If `addr` cannot be resolved, one of its addresses is in use or forbidden, or this machine has
    /// none of them.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let mut addrs: Vec<_> = lookup_host(addr).await?.collect();
        let mut seen = HashSet::new();
        addrs.retain(|&addr| seen.insert(addr));
        let mut attempts = 0;
        loop {
            match listen_on_all(&addrs) {
                // The port that one address had free is taken at another.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && attempts < MAX_PORT_ATTEMPTS
                        && addrs.iter().all(|addr| addr.port() == 0) =>
                {
                    attempts += 1;
                }
                listeners => return Self::from_listeners(listeners?),
            }
        }
    }

    /// Serves on a socket that listens already, such as one that a supervisor handed over.
    ///
    /// # Errors
    ///
    /// If the socket does not know its own address.
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
    /// Keeps the points in `store`.
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

    /// Bounds what peers can cost.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Speaks TLS with everyone who connects.
    ///
    /// A handshake counts towards [`Limits::max_connections`], and has to be over within
    /// [`Limits::line_time`]. One that fails is logged at `info`, with the reason, and counted in
    /// [`ServerStats::failed_handshakes`](crate::ServerStats::failed_handshakes). Signatures are made on Tokio's blocking threads: at most half
    /// as many at once as the runtime has threads, so that a flood of handshakes leaves the processor to
    /// the peers that are connected; one at a time for each address; and next is the address that has
    /// cost least.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(self, acceptor: TlsAcceptor) -> Self {
        Self { tls: Some(acceptor), ..self }
    }

    /// Returns the address that the server listens on; the first one if there are several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs[0]
    }

    /// Returns all addresses that the server listens on, at least one.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Tells what the server is doing, also while it serves.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::clone(&self.counters))
    }

    /// Serves until `shutdown` is done.
    ///
    /// At first, on Unix, it raises the process's soft limit of open files (`ulimit -n`) to what
    /// [`Limits::max_connections`] takes. Where the hard limit does not allow that, it lowers the limits of
    /// connections to what there is, and an address has half of them. The log tells of either.
    ///
    /// Then no more connections are accepted, each session answers the requests that it has read
    /// and closes, and what has not ended after [`Limits::grace_time`] is cut off. Nothing that
    /// happens to a connection, or to accepting one, ends the server before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends everything at once; no session outlives it.
    pub async fn serve_until(self, shutdown: impl Future<Output = ()>) {
        let limits = self.limits;
        #[cfg(unix)]
        let limits = session::descriptors::fit(limits);
        let shared = Shared::new(self.store, limits, self.counters);
        #[cfg(feature = "tls")]
        let shared = shared.tls(self.tls);
        for local_addr in self.local_addrs {
            info!(%local_addr, "serving");
        }
        listener::run(listener::Listeners::new(self.listeners), Arc::new(shared), shutdown).await;
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

/// Serves one connection that somebody else has accepted: a Unix socket, TLS, a pipe in a test.
///
/// It is what a [`Server`] does with each connection that it accepts. Connections that are to see
/// each other's points are given an [`Arc`] of one store.
///
/// It is over when the peer has closed its side and has its answers, when the peer sends a line that
/// is too long or a first line of HTTP or TLS, when it takes too long over something that `limits`
/// gives it a time for, when the store fails in a way that [passes](crate::store::StoreError::transient),
/// or when the connection fails; the log says which. Of `limits`, those over
/// all connections, and [`grace_time`](Limits::grace_time), are for whoever accepts: one connection has no
/// use for them.
///
/// `io` is flushed after each write and shut down once the last answer is written, or when a peer
/// that is owed nothing has been silent for too long. Otherwise it is only dropped, so that over TLS
/// an answer that is cut does not look whole.
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
/// With an acceptor of one's own, the time and the number of handshakes are its owner's to bound:
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
/// If polled outside of a Tokio runtime with timers.
///
/// # Cancel safety
///
/// Dropping the future ends the connection at once: requests that were read may go unanswered, and
/// a put that was not answered may have been applied all the same.
pub async fn serve_connection<Io, S>(io: Io, store: S, limits: Limits)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send,
    S: Store,
{
    // Kept to the end: a sender that is gone is a stop.
    let (_stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared::new(store, limits, Arc::default()));
    session::run(io, None, Arc::clone(&shared), Usage::default(), stopped).await;
    shared.log_limits.log_suppressed();
}

/// Listens on all addresses that this machine has, with one port for those that ask for any.
fn listen_on_all(addrs: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "there is no such address");
    let mut free_port = 0;
    for &(mut addr) in addrs {
        if addr.port() == 0 {
            addr.set_port(free_port);
        }
        match listen(addr) {
            Ok(listener) => {
                if addr.port() == 0 {
                    free_port = listener.local_addr()?.port();
                }
                listeners.push(listener);
            }
            Err(error) if is_absent(&error) => failure = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(failure) } else { Ok(listeners) }
}

/// Whether the machine does not have such an address, or no addresses of its family.
fn is_absent(error: &io::Error) -> bool {
    // EAFNOSUPPORT, which has no kind of its own.
    const NO_SUCH_FAMILY: [i32; 3] = [97, 47, 10047];
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| NO_SUCH_FAMILY.contains(&code))
}

/// How often another free port is looked for, where the first address has one that a later one has
/// not.
const MAX_PORT_ATTEMPTS: u32 = 16;

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the last run to be forgotten. On Windows the
    // same option would let two servers share a port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// How many connections may wait to be accepted: what Linux allows unless told otherwise
/// (`net.core.somaxconn`), so that a thousand agents may come back in the same moment.
const BACKLOG: u32 = 4096;
