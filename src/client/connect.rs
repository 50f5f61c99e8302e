//! How a connection is made, and when it is tried again.

use std::{
    any::Any, future::Future, io, marker::PhantomData, mem::MaybeUninit, pin::Pin, sync::Arc,
    time::Duration,
};

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
};

use super::turn::within;
use crate::error::{ConnectionError, Error, InvalidAddress};

/// Makes connections: TCP unless the client is told otherwise.
///
/// Anything that can be read and written will do: a Unix socket, a TLS stream, a simulated network.
/// A closure that returns a future is a connector too, and ignores the address:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), metrics_client::Error> {
/// use metrics_client::MetricsClient;
///
/// let client = MetricsClient::builder("a pipe in this process")
///     .connector(|| async {
///         let (ours, theirs) = tokio::io::duplex(4096);
///         drop(theirs); // where a server would be
///         Ok(ours)
///     })
///     .connect_lazy()?;
/// # drop(client);
/// # Ok(()) }
/// ```
pub trait Connector: Send + Sync + 'static {
    /// What a connection is.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Makes a connection to `address`, which is what
    /// [`MetricsClient::builder`](crate::MetricsClient::builder) was given. It is called anew for
    /// each connection, so that an address that has moved is found.
    ///
    /// The future is dropped when it takes longer than the client's connect timeout.
    ///
    /// # Errors
    ///
    /// Whatever keeps the connection from being made. The client will try again.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;

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
        address: &str,
        limit: Duration,
    ) -> impl Future<Output = io::Result<Self::Io>> + Send {
        let _ = limit;
        self.connect(address)
    }

    /// Checks that `address` has a form to which this connector can connect at all. It is called once,
    /// when a client is made, and resolves nothing. The default accepts every address; a connector that passes
    /// the address on to another one asks that one.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], with which [`connect`](crate::ClientBuilder::connect) and
    /// [`connect_lazy`](crate::ClientBuilder::connect_lazy) then fail at once.
    fn check_address(&self, address: &str) -> Result<(), InvalidAddress> {
        let _ = address;
        Ok(())
    }

    /// Told of a connection that is about to be dropped because the other end is silent, and may
    /// yet wake up. What was written to it goes again on the next one, so what the system has not
    /// delivered yet should never be: it would undo a newer put of the same second. Does nothing
    /// unless a connector says otherwise, as [`TcpConnector`](crate::client::TcpConnector) does.
    fn give_up(&self, io: &Self::Io) {
        let _ = io;
    }

    /// Returns whether the connection has something to read that [`poll_read`] may not know of yet:
    /// bytes, or its end. `None` means that this connector cannot say.
    ///
    /// Tokio answers reads from memory until its IO driver has asked the system. So a connection that was
    /// idle is looked at with this before a request is written to it, and before an answer counts as
    /// late: what came while the process or the runtime stood still would pass for the answer, or for
    /// none. Where this is `None` the client lets the IO driver have its turn instead, which costs each
    /// request after a pause one more turn of the runtime.
    ///
    /// By default it asks the system for Tokio's [`TcpStream`] and `UnixStream`, knows that a
    /// [`DuplexStream`](tokio::io::DuplexStream) hides nothing, and cannot say for any other type. A connector on
    /// top of another one passes the question on, as [`give_up`](Self::give_up).
    ///
    /// # Errors
    ///
    /// The system's, which ends the connection.
    ///
    /// [`poll_read`]: AsyncRead::poll_read
    fn has_input(&self, io: &Self::Io) -> io::Result<Option<bool>> {
        has_input(io)
    }
}

impl<F, Fut, Io> Connector for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Io>> + Send + 'static,
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Io = Io;

    fn connect(&self, _: &str) -> impl Future<Output = io::Result<Io>> + Send {
        self()
    }
}

/// Whether a connection of a type known here has something to read; `None` for any other type.
fn has_input(io: &dyn Any) -> io::Result<Option<bool>> {
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

/// Asks the system whether a socket has bytes or is at its end. Tokio's sockets never block.
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

/// A connector with what it needs to dial: an address and a time limit.
#[derive(Debug)]
pub(super) struct Dialer<C> {
    pub(super) connector: C,
    pub(super) address: Arc<str>,
    pub(super) timeout: Duration,
}

impl<C: Connector> Dialer<C> {
    pub(super) async fn dial(&self) -> Result<C::Io, Arc<io::Error>> {
        let dialling = self.connector.connect_within(&self.address, self.timeout);
        match within(self.timeout, dialling).await {
            Some(connected) => connected.map_err(Arc::new),
            None => Err(Arc::new(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {:?}", self.timeout),
            ))),
        }
    }

    /// Why a caller who waited for this connection alone has none.
    pub(super) fn error(&self, cause: Arc<io::Error>) -> Error {
        // From a connector that wraps another and does not check the address itself.
        match cause.get_ref().and_then(|cause| cause.downcast_ref::<InvalidAddress>()) {
            Some(invalid) => invalid.clone().into(),
            None => Error::Connect { address: Arc::clone(&self.address), cause },
        }
    }

    pub(super) fn fault(&self, cause: Arc<io::Error>) -> ConnectionError {
        ConnectionError::Dial { address: Arc::clone(&self.address), cause }
    }
}

/// Anything that a connection can be, where its type does not matter.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin> Stream for Io {}

/// Stands in for a connector where there is one connection and never another.
#[derive(Debug)]
pub(super) struct NoReconnect<Io>(PhantomData<fn() -> Io>);

impl<Io> Default for NoReconnect<Io> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connector for NoReconnect<Io> {
    type Io = Io;

    async fn connect(&self, _: &str) -> io::Result<Io> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A dialer whose type does not matter, for connections beside the main one.
pub(super) trait Dial: Send + Sync {
    fn dial_beside(self: Arc<Self>) -> BoxFuture<Result<Box<dyn Stream>, Error>>;
}

impl<C: Connector> Dial for Dialer<C> {
    fn dial_beside(self: Arc<Self>) -> BoxFuture<Result<Box<dyn Stream>, Error>> {
        Box::pin(async move {
            match self.dial().await {
                Ok(io) => Ok(Box::new(io) as Box<dyn Stream>),
                Err(cause) => Err(self.error(cause)),
            }
        })
    }
}
