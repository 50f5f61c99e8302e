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
    time::Instant,
};

#[cfg(feature = "reporter")]
use super::{MetricsClient, builder, driver::ConnectionConfig, pool::Pool};
use super::{address::InvalidAddress, turn::within};
use crate::error::{ConnectionError, Error};

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
    /// unless a connector says otherwise, as [`TcpConnector`](crate::TcpConnector) does.
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

/// As good as for ever, and small enough to be added to any time: ten years.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The least that a time limit can be: the timers of Tokio count milliseconds.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// The lowest ceiling that doubles to more: the timers of Tokio count milliseconds.
const MIN_BACKOFF: Duration = SHORTEST;

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

    /// Another client that dials like this, on the runtime of the caller.
    #[cfg(feature = "reporter")]
    fn client(self: Arc<Self>, plan: ConnectionConfig) -> MetricsClient;
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

    #[cfg(feature = "reporter")]
    fn client(self: Arc<Self>, plan: ConnectionConfig) -> MetricsClient {
        builder::start(Pool::new(1, &plan.settings), plan, self, None)
    }
}

/// Where a client stands with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// A connection is being made.
    Connecting,
    /// There is a connection.
    Connected,
    /// There is none. At first, and after a connection has ended while nobody waited, as when a
    /// server closes an idle one, the client dials when the next request comes. Once it has failed
    /// to connect, or has lost a connection while requests waited or to a server that broke the
    /// protocol or rejected the connection, it dials until there is a connection, also when nobody waits any more.
    Disconnected,
    /// The client serves nobody any more.
    Closed,
}

/// What a client does when its connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The ceilings of the first wait and of the longest; `None` means that it gives up.
    backoff: Option<(Duration, Duration)>,
}

impl Reconnect {
    /// Dial again, without end. The wait before each attempt is drawn at random between nothing and
    /// a ceiling, which begins with `min`, doubles with each attempt and stops at `max` ("full
    /// jitter": M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). The
    /// ceiling falls back to `min` with the first good answer, not with the connection: a server
    /// that accepts and hangs up is not hammered. After a connection that has answered, the first
    /// attempt is made at once, unless the server broke the protocol.
    ///
    /// `min` is at least 1 millisecond, for nothing doubles to nothing; only if both are zero does
    /// the client never wait. `max` is at least `min`.
    #[must_use]
    pub fn backoff(min: Duration, max: Duration) -> Self {
        let least = if max.is_zero() { Duration::ZERO } else { MIN_BACKOFF };
        let min = min.clamp(least, MAX_DURATION);
        Self { backoff: Some((min, max.clamp(min, MAX_DURATION))) }
    }

    /// Give up: the client is closed with its connection.
    #[must_use]
    pub fn never() -> Self {
        Self { backoff: None }
    }
}

/// From 50 milliseconds to 10 seconds.
impl Default for Reconnect {
    fn default() -> Self {
        Self::backoff(Duration::from_millis(50), Duration::from_secs(10))
    }
}

/// How long to wait before the next attempt to connect.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: Reconnect,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(policy: Reconnect) -> Self {
        Self { policy, attempts: 0 }
    }

    /// When to dial next; never, if that is the policy.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let (min, max) = self.policy.backoff?;
        let ceiling = min.saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1).min(31);
        Some(now + ceiling.min(max).mul_f64(fastrand::f64()))
    }

    /// Whether there is always another attempt.
    pub(super) fn is_enabled(&self) -> bool {
        self.policy.backoff.is_some()
    }

    /// The connection has proved good.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_grows_to_its_ceiling_and_starts_over_after_a_good_answer() {
        let min = Duration::from_millis(50);
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(Reconnect::backoff(min, max));
        let mut longest = Duration::ZERO;
        for attempt in 0..1000 {
            let wait = backoff.next(now).unwrap() - now;
            assert!(wait <= max.min(min * 2_u32.pow(attempt.min(10))), "{attempt}: {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest > max / 2, "{longest:?}");
        backoff.reset();
        assert!(backoff.next(now).unwrap() - now <= min);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_grows_from_nothing_too_unless_it_is_never_to_be_more() {
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(Reconnect::backoff(Duration::ZERO, max));
        assert!(backoff.next(now).unwrap() - now <= Duration::from_millis(1));
        let waits = (0..1000).map(|_| backoff.next(now).unwrap() - now);
        assert!(waits.max().unwrap() > max / 2);

        let mut backoff = Backoff::new(Reconnect::backoff(Duration::ZERO, Duration::ZERO));
        assert!((0..1000).all(|_| backoff.next(now) == Some(now)));
    }

    #[test]
    fn a_client_that_gives_up_does_not_wait() {
        assert_eq!(Backoff::new(Reconnect::never()).next(Instant::now()), None);
    }
}
