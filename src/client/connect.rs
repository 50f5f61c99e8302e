//! How a connection is made, and when it is tried again.

use std::{
    future::Future, io, marker::PhantomData, net::SocketAddr, ops::RangeInclusive, pin::Pin,
    str::FromStr, sync::Arc, time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};

#[cfg(feature = "reporter")]
use super::{MetricsClient, config, driver::Plan, pool::Pool};
use super::{
    address::{InvalidAddress, TcpAddress},
    resolver::Resolver,
};
use crate::error::{ConnectionFault, Error};

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

/// Connects over TCP: looks the name up for each dial and tries every address that it finds.
///
/// The addresses are tried in their order, each beside those before it once these have had a while:
/// 250 milliseconds (RFC 8305, section 5), or less where the
/// [connect timeout](crate::ClientBuilder::connect_timeout) is too short for all of them. The first that
/// connects is taken.
///
/// Names are looked up by the system, one at a time for each client: dials of its connections that come
/// while a look-up is under way share it. A look-up has a thread of its own, so one that hangs costs the
/// process one thread for each client; it takes none of the runtime's, and does not keep the runtime from
/// ending.
///
/// Each connection has `TCP_NODELAY`, so that a request leaves at once; keepalive, so that an idle
/// connection whose other end has vanished is noticed; and on Linux `TCP_USER_TIMEOUT`, so that one
/// with unacknowledged bytes is too.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    keepalive: Duration,
    user_timeout: Option<Duration>,
    resolver: Resolver,
}

/// What Linux takes for `TCP_KEEPIDLE` and `TCP_KEEPINTVL`, in whole seconds (`MAX_TCP_KEEPIDLE`).
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// What Linux takes for `TCP_USER_TIMEOUT`: milliseconds in an `int`, of which 0 switches it off.
const USER_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);

impl TcpConnector {
    /// Sets after how long without traffic the peer is asked whether it is there, and how long
    /// after that it is asked again: from 1 second to 32,767 seconds, in whole seconds, which is what
    /// Linux takes. Default: 30 seconds.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration) -> Self {
        self.keepalive = clamp(interval, KEEPALIVE);
        self
    }

    /// Sets how long sent bytes may stay unacknowledged by the peer's kernel before the connection
    /// is closed (`TCP_USER_TIMEOUT`, RFC 5482), on Linux: from 1 millisecond to 2,147,483,647, which
    /// are 24 days and 20 hours; `None` leaves it to the system. Default: 20 seconds.
    #[must_use]
    pub fn user_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = limit.into().map(|limit| clamp(limit, USER_TIMEOUT));
        self
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        if let Some(limit) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(limit))?;
        }
        Ok(())
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(30),
            user_timeout: Some(Duration::from_secs(20)),
            resolver: Resolver::default(),
        }
    }
}

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        self.connect_within(address, LONGEST).await
    }

    async fn connect_within(&self, address: &str, limit: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + limit.min(LONGEST);
        let address = TcpAddress::from_str(address)
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let addresses = self.resolver.resolve(&address).await?;
        let stream = connect_to_any(&addresses, deadline, |address| async move {
            let stream = TcpStream::connect(address).await?;
            if is_of_itself(&stream) { Err(nobody_listens()) } else { Ok(stream) }
        })
        .await?;
        self.configure(&stream)?;
        Ok(stream)
    }

    fn check_address(&self, address: &str) -> Result<(), InvalidAddress> {
        TcpAddress::from_str(address).map(drop)
    }

    /// Else the kernel goes on sending what is not acknowledged for as long as the user timeout
    /// lasts, whoever has closed the connection.
    fn give_up(&self, io: &TcpStream) {
        // Fails only if the connection is gone.
        let _ = SockRef::from(io).set_linger(Some(Duration::ZERO));
    }
}

/// Tries the addresses one after the other, each once those before it have had their share of the time
/// until `deadline`, and returns the first connection that there is.
async fn connect_to_any<Io, Attempt>(
    addresses: &[SocketAddr],
    deadline: Instant,
    attempt: impl Fn(SocketAddr) -> Attempt,
) -> io::Result<Io>
where
    Io: Send + 'static,
    Attempt: Future<Output = io::Result<Io>> + Send + 'static,
{
    let mut untried = addresses.iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let wait = match untried.next() {
            Some(&address) => {
                attempts.spawn(attempt(address));
                let left = deadline.saturating_duration_since(Instant::now());
                let sharing = u32::try_from(1 + untried.len()).unwrap_or(u32::MAX);
                ATTEMPT_DELAY.min(left / sharing)
            }
            None if attempts.is_empty() => return Err(failure),
            None => Duration::MAX,
        };
        // Those that are still under way when one has succeeded are ended with the set.
        match time::timeout(wait, attempts.join_next()).await {
            Ok(Some(Ok(Ok(io)))) => return Ok(io),
            Ok(Some(Ok(Err(error)))) => failure = error,
            Ok(Some(Err(ended))) => failure = ended.into(),
            Ok(None) | Err(_) => {}
        }
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

/// How long an address may take before the next one is tried beside it (RFC 8305, section 5), unless that
/// is more than its share of the time.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// As good as for ever, and small enough to be added to any time: ten years.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The least that a time limit can be: the timers of Tokio count milliseconds.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// The end of `range` that is nearest to `value`, if it is not inside.
pub(super) fn clamp(value: Duration, range: RangeInclusive<Duration>) -> Duration {
    value.clamp(*range.start(), *range.end())
}

/// The lowest ceiling that doubles to more: the timers of Tokio count milliseconds.
const LEAST_CEILING: Duration = SHORTEST;

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
        match time::timeout(self.timeout, dialling).await {
            Ok(connected) => connected.map_err(Arc::new),
            Err(_) => Err(Arc::new(io::Error::new(
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
                Err(cause) => Err(self.error(cause)),
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
    /// protocol, it dials until there is a connection, also when nobody waits any more.
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
    /// that accepts and hangs up is not hammered.
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
    use std::{
        future::pending,
        sync::{Mutex, atomic::Ordering},
    };

    use super::{super::resolver::tests::Hanging, *};
    use crate::{client::MetricsClient, error::Delivery};

    /// Dials `addresses` with so much time, where only the last one answers, and returns when each of
    /// them was tried.
    async fn tried(addresses: usize, limit: Duration) -> Vec<Duration> {
        let addresses: Vec<_> =
            (1..=addresses as u16).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let last = addresses[addresses.len() - 1];
        let (start, tried) = (Instant::now(), Mutex::new(Vec::new()));
        let dial = connect_to_any(&addresses, start + limit, |address| {
            tried.lock().unwrap().push(start.elapsed());
            async move { if address == last { Ok(address) } else { pending().await } }
        });
        assert_eq!(time::timeout(limit, dial).await.unwrap().unwrap(), last);
        tried.into_inner().unwrap()
    }

    // FAULTS C16
    #[tokio::test(start_paused = true)]
    async fn the_attempts_share_the_time_that_there_is() {
        let millis = Duration::from_millis;
        assert_eq!(tried(2, millis(100)).await, [millis(0), millis(50)]);
        assert_eq!(tried(3, millis(5000)).await, [millis(0), millis(250), millis(500)]);
        let many = tried(100, millis(5000)).await;
        assert_eq!((many.len(), many[1], many[99]), (100, millis(50), millis(4950)));
    }

    // FAULTS C16
    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_when_one_fails() {
        let addresses = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let start = Instant::now();
        let dial = connect_to_any(&addresses, start + LONGEST, |address| async move {
            if address.port() == 2 { Ok(()) } else { Err(nobody_listens()) }
        });
        dial.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    // FAULTS C8
    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_takes_one_thread_of_a_client() {
        let (hanging, resolver) = Hanging::new();
        let connector = TcpConnector { resolver, ..TcpConnector::default() };
        let builder = MetricsClient::builder("metrics.internal:8888").connector(connector);
        let client = builder.connections(16).connect_lazy().unwrap();
        let mut calls = JoinSet::new();
        for key in 0..64 {
            let client = client.clone();
            calls.spawn(async move {
                for _ in 0..100 {
                    let error = client.put(format!("k{key}"), 1.0).await.unwrap_err();
                    assert_eq!(error.delivery(), Delivery::NotSent);
                    let error = client.stream("*").await.unwrap_err();
                    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
                }
            });
        }
        // As a guard's client, or a probe's connection.
        #[cfg(feature = "reporter")]
        client.another().unwrap().put("k", 1.0).await.unwrap_err();
        calls.join_all().await;
        // The thread may not even have begun: time is paused, and takes no time.
        assert!(hanging.begun.load(Ordering::SeqCst) <= 1);
    }

    // FAULTS C5
    #[tokio::test]
    async fn every_duration_of_a_socket_option_is_one_that_the_system_takes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let day = Duration::from_secs(24 * 60 * 60);
        for limit in [
            Some(Duration::ZERO),
            Some(Duration::from_nanos(1)),
            Some(24 * day),
            Some(25 * day),
            Some(50 * day),
            Some(Duration::MAX),
            None,
        ] {
            let connector = TcpConnector::default()
                .user_timeout(limit)
                .keepalive(limit.unwrap_or(Duration::from_millis(1999)));
            let stream = connector.connect(&address).await.unwrap();
            let socket = SockRef::from(&stream);
            #[cfg(target_os = "linux")]
            assert_eq!(
                socket.tcp_user_timeout().unwrap().filter(|set| !set.is_zero()),
                limit.map(|limit| clamp(limit, USER_TIMEOUT))
            );
            assert!(KEEPALIVE.contains(&socket.tcp_keepalive_time().unwrap()));
        }
    }

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
