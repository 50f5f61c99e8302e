//! A server to embed: in a program of its own, in an agent, in a test.
//!
//! It speaks the whole protocol, pipelines as deep as anyone likes, and bounds what one peer can
//! cost ([`Limits`]). Where the points go is a [`Store`]'s business.

use std::{fmt, future::Future, io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host},
    sync::watch,
};
use tracing::info;

use crate::store::{MemoryStore, Store};

mod backlog;
mod crowd;
#[cfg(unix)]
mod descriptors;
#[cfg(feature = "tls")]
mod handshakes;
mod limits;
mod listener;
mod log;
mod session;
mod stats;
#[cfg(feature = "tls")]
mod tls;
mod turns;
mod wire;

pub use limits::Limits;
use session::Shared;
use stats::Counters;
pub use stats::{Monitor, ServerStats};
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use tls::TlsAcceptor;
use turns::Work;

/// A metrics server that listens and does not serve yet.
///
/// ```
/// use metrics_client::server::Server;
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
    listener: TcpListener,
    local_addr: SocketAddr,
    store: S,
    limits: Limits,
    counters: Arc<Counters>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens on `addr`, with a [`MemoryStore`] and the default [`Limits`]. Port 0 means any that
    /// is free; [`local_addr`](Self::local_addr) tells which it is.
    ///
    /// # Errors
    ///
    /// If `addr` cannot be resolved, or none of its addresses can be listened on.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let mut failure = None;
        for addr in lookup_host(addr).await? {
            match listen(addr) {
                Ok(listener) => return Self::from_listener(listener),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "there is no such address")
        }))
    }

    /// Serves on a socket that listens already, such as one that a supervisor handed over.
    ///
    /// # Errors
    ///
    /// If the socket does not know its own address.
    pub fn from_listener(listener: TcpListener) -> io::Result<Self> {
        Ok(Self {
            local_addr: listener.local_addr()?,
            listener,
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
            listener: self.listener,
            local_addr: self.local_addr,
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
    /// [`Limits::line_time`]; one that fails is logged at `debug`, with the reason. Their signatures are
    /// made on Tokio's blocking threads: at most half as many at once as the runtime has threads, so that a
    /// flood of handshakes leaves the processor to the peers that are connected; one at a time for each
    /// address; and next is the address that has cost least.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(self, acceptor: TlsAcceptor) -> Self {
        Self { tls: Some(acceptor), ..self }
    }

    /// The address that the server listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
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
        let local_addr = self.local_addr;
        let limits = self.limits;
        #[cfg(unix)]
        let limits = descriptors::fit(limits);
        let shared = Shared::new(self.store, limits, self.counters);
        #[cfg(feature = "tls")]
        let shared = shared.tls(self.tls);
        info!(%local_addr, "serving");
        listener::run(self.listener, Arc::new(shared), shutdown).await;
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.local_addr)
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
/// is too long, when it takes too long over something that `limits` gives it a time for, or when the
/// connection fails; the log says which. Of `limits`, those over
/// all connections, and [`grace_time`](Limits::grace_time), are for whoever accepts: one connection has no
/// use for them.
///
/// `io` is flushed after each write and shut down once the last answer is written, or when a peer
/// that is owed nothing has been silent for too long. Otherwise it is only dropped, so that over TLS
/// an answer that is cut does not look whole.
///
/// ```
/// use std::sync::Arc;
/// use metrics_client::{MemoryStore, MetricsClient, server::{Limits, serve_connection}};
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
/// # async fn f(config: std::sync::Arc<metrics_client::rustls::ServerConfig>) -> std::io::Result<()> {
/// use std::{sync::Arc, time::Duration};
/// use metrics_client::{MemoryStore, server::{Limits, serve_connection}};
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
    session::run(io, None, Arc::clone(&shared), Work::default(), stopped).await;
    shared.log.sum_up();
}

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
