//! How connections are made: the trait [`Connector`].

use std::{any::Any, fmt, future::Future, io, mem::MaybeUninit, time::Duration};

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
};

use super::address::Address;
use crate::error::InvalidAddress;

mod boxed;

pub use boxed::{BoxConnection, BoxConnector};

/// Makes connections. By default a client has a [`DefaultConnector`](super::DefaultConnector).
///
/// A connection is anything that can be read and written: a Unix socket, a TLS stream, a simulated network.
/// [`connector_fn`] makes a connector from a function, and [`boxed`](Self::boxed) one whose type does not
/// depend on what it connects with.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), metrics_client::Error> {
/// use metrics_client::{MetricsClient, client::connector_fn};
///
/// let client = MetricsClient::builder("a pipe in this process")
///     .connector(connector_fn(|_address| async {
///         let (ours, theirs) = tokio::io::duplex(4096);
///         drop(theirs); // where a server would be
///         Ok(ours)
///     }))
///     .connect_lazy()?;
/// # drop(client);
/// # Ok(()) }
/// ```
pub trait Connector: Send + Sync + 'static {
    /// The type of a connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Makes a connection to `address`, which is one of those that
    /// [`MetricsClient::builder`](crate::MetricsClient::builder) was given. It is called for each
    /// connection, so that a server that has moved is found.
    ///
    /// The future is dropped when it takes longer than the client's connect timeout.
    ///
    /// # Errors
    ///
    /// Whatever keeps the connection from being made. The client will try again.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Makes a connection to `address` as [`connect`](Self::connect) does, for a connector that makes
    /// several attempts and shares the time among them. The client calls this one, with its
    /// [connect timeout](crate::ClientBuilder::connect_timeout). The default is `connect`; a connector that
    /// passes the address on to another one passes the limit on too.
    ///
    /// The future is dropped when it takes longer than `limit`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    fn connect_within(
        &self,
        address: &Address,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Self::Io>> + Send {
        let _ = limit;
        self.connect(address)
    }

    /// Checks that this connector can connect to addresses such as `address` at all. It is called once for each
    /// address, when a client is made, and resolves nothing.
    ///
    /// By default it accepts every address but those of [`metrics+tls://`](Address::is_tls), so that nothing is sent in
    /// plain text by mistake. A connector that passes the address on to another one asks that one.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], with which [`connect`](crate::ClientBuilder::connect) and
    /// [`connect_lazy`](crate::ClientBuilder::connect_lazy) then fail at once.
    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        if address.is_tls() { Err(address.needs_tls()) } else { Ok(()) }
    }

    /// Aborts a connection, just before it is dropped because the peer is silent and may
    /// wake up later. The requests written to it are sent again over the next one, so bytes that the system has
    /// not delivered yet must never be delivered: they would undo a newer put of the same second. Does nothing by
    /// default; [`TcpConnector`](crate::client::TcpConnector) has the connection reset.
    fn abort(&self, io: &Self::Io) {
        let _ = io;
    }

    /// Returns whether the connection has something to read that [`poll_read`] may not know of yet:
    /// bytes, or its end. `None` means that this connector cannot say.
    ///
    /// Tokio answers reads from memory until its IO driver has asked the system. So an idle connection
    /// is looked at with this before a request is written to it, and before a response counts as
    /// late: bytes that came while the process or the runtime stood still would be mistaken for the response.
    /// Where this is `None` the client lets the IO driver run instead, which costs each
    /// request after a pause one more pass of the runtime.
    ///
    /// By default it asks the system for Tokio's [`TcpStream`] and `UnixStream`, knows that a
    /// [`DuplexStream`](tokio::io::DuplexStream) hides nothing, and cannot say for any other type. A connector on
    /// top of another one passes the question on, as it does with [`abort`](Self::abort).
    ///
    /// # Errors
    ///
    /// The system's, which ends the connection.
    ///
    /// [`poll_read`]: AsyncRead::poll_read
    fn has_input(&self, io: &Self::Io) -> io::Result<Option<bool>> {
        has_input(io)
    }

    /// Hides the type of the connector and of its connections. Each read and write costs a call through a
    /// table then.
    fn boxed(self) -> BoxConnector
    where
        Self: Sized,
    {
        BoxConnector::new(self)
    }
}

/// Returns a connector that calls `connect` with the address for each connection.
pub fn connector_fn<F, Fut, Io>(connect: F) -> ConnectorFn<F>
where
    F: Fn(Address) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    ConnectorFn { connect }
}

/// A connector made of a function, by [`connector_fn`].
#[derive(Clone)]
pub struct ConnectorFn<F> {
    connect: F,
}

impl<F, Fut, Io> Connector for ConnectorFn<F>
where
    F: Fn(Address) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Io = Io;

    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Io>> + Send {
        (self.connect)(address.clone())
    }
}

impl<F> fmt::Debug for ConnectorFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorFn").finish_non_exhaustive()
    }
}

/// Returns whether a connection of a type known here has something to read; `None` for any other type.
pub(super) fn has_input(io: &dyn Any) -> io::Result<Option<bool>> {
    if io.is::<DuplexStream>() {
        return Ok(Some(false));
    }
    if let Some(io) = io.downcast_ref::<TcpStream>() {
        return peek(SockRef::from(io)).map(Some);
    }
    #[cfg(unix)]
    if let Some(io) = io.downcast_ref::<UnixStream>() {
        return peek(SockRef::from(io)).map(Some);
    }
    Ok(None)
}

/// Returns true if a socket has bytes to read or was closed by the peer, as the system knows it. Tokio's sockets do not block.
fn peek(socket: SockRef<'_>) -> io::Result<bool> {
    loop {
        match socket.peek(&mut [MaybeUninit::uninit()]) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
