//! How a connection is made, and when it is tried again.

use std::{future::Future, io, marker::PhantomData, pin::Pin, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};

#[cfg(feature = "reporter")]
use super::{MetricsClient, config, driver::Plan, pool::Pool};
use crate::error::{ConnectionFault, Error};

/// Makes connections: TCP unless the client is told otherwise.
///
/// Anything that can be read and written will do: a Unix socket, a TLS stream, a simulated network.
/// A closure that returns a future is a connector too, and ignores the address:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use metrics_client::MetricsClient;
///
/// let client = MetricsClient::builder("a pipe in this process")
///     .connector(|| async {
///         let (ours, theirs) = tokio::io::duplex(4096);
///         drop(theirs); // where a server would be
///         Ok(ours)
///     })
///     .connect_lazy();
/// # drop(client); }
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

    /// Told of a connection that is about to be dropped because the other end is silent, and may
    /// yet wake up. What was written to it goes again on the next one, so what the system has not
    /// delivered yet should never be: it would undo a newer put of the same second. Does nothing
    /// unless a connector says otherwise, as [`TcpConnector`] does.
    fn give_up(&self, io: &Self::Io) {
        let _ = io;
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

/// Connects over TCP: resolves the name anew each time and tries every address that it finds.
///
/// Each connection has `TCP_NODELAY`, so that a request leaves at once; keepalive, so that an idle
/// connection whose other end has vanished is noticed; and on Linux `TCP_USER_TIMEOUT`, so that one
/// with unacknowledged bytes is too.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    keepalive: Duration,
    user_timeout: Duration,
}

impl TcpConnector {
    /// After how long without traffic the other end is asked whether it is there, and how long
    /// after that it is asked again: 1 second to 32,767 seconds, which is what Linux takes. Default:
    /// 30 seconds.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration) -> Self {
        self.keepalive = interval.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
        self
    }

    /// How long sent bytes may stay unacknowledged by the other end's kernel before the connection
    /// is given up (RFC 5482), on Linux; zero leaves it to the system. Default: 20 seconds.
    #[must_use]
    pub fn user_timeout(mut self, limit: Duration) -> Self {
        self.user_timeout = limit;
        self
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        #[cfg(not(target_os = "linux"))]
        let _ = self.user_timeout;
        Ok(())
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self { keepalive: Duration::from_secs(30), user_timeout: Duration::from_secs(20) }
    }
}

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let mut addresses = tokio::net::lookup_host(address).await.map_err(|error| match error
            .kind()
        {
            io::ErrorKind::InvalidInput => {
                io::Error::new(error.kind(), "an address is `host:port`, such as `127.0.0.1:8888`")
            }
            _ => error,
        })?;
        let mut attempts = JoinSet::new();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        loop {
            let wait = match addresses.next() {
                Some(address) => {
                    attempts.spawn(TcpStream::connect(address));
                    ATTEMPT_DELAY
                }
                None if attempts.is_empty() => return Err(failure),
                None => Duration::MAX,
            };
            // Those that are still under way when one has succeeded are ended with the set.
            match time::timeout(wait, attempts.join_next()).await {
                Ok(Some(Ok(Ok(stream)))) if is_of_itself(&stream) => failure = nobody_listens(),
                Ok(Some(Ok(Ok(stream)))) => {
                    self.configure(&stream)?;
                    return Ok(stream);
                }
                Ok(Some(Ok(Err(error)))) => failure = error,
                Ok(Some(Err(ended))) => failure = ended.into(),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Else the kernel goes on sending what is not acknowledged for as long as the user timeout
    /// lasts, whoever has closed the connection.
    fn give_up(&self, io: &TcpStream) {
        // Fails only if the connection is gone.
        let _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
    }
}

/// Whether a connection leads to itself: who dials a port of this machine on which nobody listens may
/// be given that very port for his own end, and then TCP opens it from both sides at once (RFC 9293,
/// section 3.5). Nobody would answer, and the server could not have its port back.
fn is_of_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

fn nobody_listens() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens on the port")
}

/// How long an address may take before the next one is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// As good as for ever, and small enough to be added to any time: ten years.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The lowest ceiling that doubles to more: the timers of Tokio count milliseconds.
const LEAST_CEILING: Duration = Duration::from_millis(1);

/// A connector with what it needs to dial: an address and a time limit.
#[derive(Debug)]
pub(super) struct Dialer<C> {
    pub(super) connector: C,
    pub(super) address: Arc<str>,
    pub(super) timeout: Duration,
}

impl<C: Connector> Dialer<C> {
    pub(super) async fn dial(&self) -> Result<C::Io, Arc<io::Error>> {
        let dialling = self.connector.connect(&self.address);
        match time::timeout(self.timeout, dialling).await {
            Ok(connected) => connected.map_err(Arc::new),
            Err(_) => Err(Arc::new(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {:?}", self.timeout),
            ))),
        }
    }

    pub(super) fn fault(&self, cause: Arc<io::Error>) -> ConnectionFault {
        ConnectionFault::Dial { address: Arc::clone(&self.address), cause }
    }
}

/// Anything that a connection can be, where its type does not matter.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin> Stream for Io {}

/// Stands in for a connector where there is one connection and never another.
#[derive(Debug)]
pub(super) struct Given<Io>(PhantomData<fn() -> Io>);

impl<Io> Default for Given<Io> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connector for Given<Io> {
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
    fn client(self: Arc<Self>, plan: Plan) -> MetricsClient;
}

impl<C: Connector> Dial for Dialer<C> {
    fn dial_beside(self: Arc<Self>) -> BoxFuture<Result<Box<dyn Stream>, Error>> {
        Box::pin(async move {
            match self.dial().await {
                Ok(io) => Ok(Box::new(io) as Box<dyn Stream>),
                Err(cause) => Err(Error::Connect { address: Arc::clone(&self.address), cause }),
            }
        })
    }

    #[cfg(feature = "reporter")]
    fn client(self: Arc<Self>, plan: Plan) -> MetricsClient {
        config::start(Pool::new(1, &plan.settings), plan, self, None)
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
        let least = if max.is_zero() { Duration::ZERO } else { LEAST_CEILING };
        let min = min.clamp(least, LONGEST);
        Self { backoff: Some((min, max.clamp(min, LONGEST))) }
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
    pub(super) fn is_endless(&self) -> bool {
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
