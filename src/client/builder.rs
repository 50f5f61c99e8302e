//! The builder of a client.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    address::{Address, Addresses, ToAddresses},
    backoff::ReconnectPolicy,
    connector::Connector,
    default_connector::DefaultConnector,
    dialer::{Connected, Dialer, NoReconnect},
    durations::{MAX_DURATION, SHORTEST},
    handle::{MetricsClient, spawn_client},
    pool::{MAX_CONNECTIONS, Pool},
    settings::{ConnectionConfig, MIN_STALL_TIMEOUT, Pipelining, ServerOrder, WhenFull},
    shared::cooperative,
};
use crate::error::{Error, InvalidAddress};

mod options;

impl MetricsClient {
    /// Connects to the server at `address`, as `host:port`, with everything at its default. The
    /// name is resolved again for each connection.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidAddress`] if no connection can ever be made to `address`; [`Error::Connect`] with
    /// the reason, if nothing listens there.
    ///
    /// # Panics
    ///
    /// If polled outside of a Tokio runtime with IO and time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(address: impl ToAddresses) -> Result<Self, Error> {
        Self::builder(address).connect().await
    }

    /// Returns a builder of a client of the server at `address`, with everything at its default.
    ///
    /// The address is `host:port`: a host name, an IPv4 address, or an IPv6 address in brackets. With
    /// another [connector](ClientBuilder::connector) it is what that connector takes. It is checked when the
    /// client is made.
    pub fn builder(address: impl ToAddresses) -> ClientBuilder {
        ClientBuilder::new(address)
    }

    /// A client on a stream that is connected already, with everything at its default; see
    /// [`ClientBuilder::with_io`].
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "the connection is closed when the last handle is dropped"]
    pub fn from_io<Io>(io: Io) -> Self
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::builder("a given stream").with_io(io)
    }
}

/// Builds a [`MetricsClient`].
///
/// # Limits, and zero
///
/// One rule holds for every setting of this crate, of this builder and of [`TcpConnector`](crate::client::TcpConnector), [`ReconnectPolicy`], the
/// reporter, the recorder, the spool and the server: it has a range, which its documentation states, and a value
/// outside of the range is taken for the nearest one inside. Zero is a number like any other: it is
/// the least that there is, or it is raised to the least. It never means "off" or "without a limit".
/// What can be left out takes an `Option`.
///
/// A time limit is at least 1 millisecond, where nothing else is said, and at most ten years: that is as good as
/// no limit.
///
/// ```no_run
/// # async fn f() -> Result<(), metrics_client::Error> {
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, client::{Pipelining, ReconnectPolicy, WhenFull}};
///
/// let client = MetricsClient::builder("metrics.internal:8888")
///     .connect_timeout(Duration::from_secs(2))
///     .request_timeout(Duration::from_secs(1))
///     .pipelining(Pipelining::Auto)
///     .when_full(WhenFull::Fail)
///     .reconnect(ReconnectPolicy::backoff(Duration::from_millis(100), Duration::from_secs(30)))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder<C = DefaultConnector> {
    /// An error is returned when the client is made.
    addresses: Result<Addresses, InvalidAddress>,
    connector: C,
    config: ConnectionConfig,
}

impl ClientBuilder {
    pub(super) fn new(address: impl ToAddresses) -> Self {
        let addresses = address.to_addresses();
        let options = addresses.as_ref().map(Addresses::options).cloned().unwrap_or_default();
        let connector = DefaultConnector::with_options(&options);
        Self { addresses, connector, config: ConnectionConfig::default() }.options(&options)
    }
}

impl<C: Connector> ClientBuilder<C> {
    /// Sets how many connections share the requests, from 1 to 256. Default: 1, which is right for a server that
    /// can [pipeline](Pipelining). A server that takes one request at a time serves as many concurrently as it has
    /// connections.
    ///
    /// All requests for one key use the same connection, which is chosen by a hash that differs in each client: puts
    /// of a key are stored in their order, and a `get` of it returns what was put before. They wait for that
    /// connection also while it is down and another is not. `get *` uses the connection with the fewest requests.
    ///
    /// Each connection is made with its first request, has its own [requests in flight](Self::max_in_flight) and
    /// [queue](Self::max_buffered_bytes), backs off on its own, and finds out on its own if its server can pipeline.
    /// With [`ReconnectPolicy::never`], the loss of one closes the client.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.config.connections = connections.clamp(1, MAX_CONNECTIONS);
        self
    }

    /// Sets the order in which the servers of a list are tried. Default: [`ServerOrder::Random`].
    pub fn server_order(mut self, order: ServerOrder) -> Self {
        self.config.server_order = order;
        self
    }

    /// Sets how long one attempt to connect may take, name resolution included, from 1 millisecond. All
    /// addresses of the name share it, and all servers of a list: each is tried once the one before it has failed or
    /// has had its share, and the first that connects is taken. Default: 5 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout.clamp(SHORTEST, MAX_DURATION);
        self
    }

    /// Sets how long a call may take, from its first poll to its response; waiting for room in the queue, for a
    /// connection and for the server is included. From 1 millisecond. Default: 5 seconds.
    ///
    /// For [`put_all`](MetricsClient::put_all) and [`put_stream`](MetricsClient::put_stream) it holds for each block
    /// of samples, for [`stream`](MetricsClient::stream) for each wait.
    ///
    /// [`with_timeout`](MetricsClient::with_timeout) returns a handle of the same client whose calls have another one.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.settings.request_timeout = timeout.clamp(SHORTEST, MAX_DURATION);
        self
    }

    /// Sets how late the oldest response may be before the connection counts as dead and is replaced. A
    /// response counts when all of it has come: leave time for the largest. From 200 milliseconds,
    /// after which Linux sends a lost packet again. Default, also for `None`: twice the request timeout.
    ///
    /// A server that takes longer for a response is sent the same request again, over one connection
    /// after the other, until the deadline of the call.
    pub fn stall_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into().map(|timeout| timeout.clamp(MIN_STALL_TIMEOUT, MAX_DURATION));
        self.config.settings.stall_timeout = timeout;
        self
    }

    /// Sets if a request may be sent before the response to the one before it has come. Default:
    /// [`Pipelining::Auto`].
    pub fn pipelining(mut self, pipelining: Pipelining) -> Self {
        self.config.pipelining = pipelining;
        self
    }

    /// Sets how many requests may be in flight on one connection, from 1 to 1,048,576; if the server cannot
    /// pipeline it is 1 in any case. Default: 4,096, which keeps a connection busy at a million puts a second and a
    /// round trip of 4 milliseconds.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests.clamp(1, MAX_IN_FLIGHT);
        self
    }

    /// Sets how many bytes of requests may wait to be sent over one connection. One request may always wait, however
    /// long it is, also if this is 0. Default: 1 MiB, some 30,000 puts.
    ///
    /// Callers that [wait](WhenFull::Wait) beyond that take some 400 bytes each. The client gives back the memory of
    /// a burst of calls ten to twenty seconds after it.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.config.settings.max_buffered_bytes = bytes;
        self
    }

    /// Sets what happens to a request when the queue is full. Default: [`WhenFull::Wait`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.config.settings.when_full = policy;
        self
    }

    /// Sets what the client does when its connection is lost. Default: it reconnects for as long as it takes,
    /// backing off from 50 milliseconds to 10 seconds.
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.config.reconnect = policy;
        self
    }

    /// Sets how long a connection is used at most, from 1 millisecond. Then it sends no more requests, waits for the
    /// responses that are due, and is replaced: at once if requests wait, else with the next request. Each connection
    /// has its own limit, drawn at random between 80 % of this one and all of it, so that connections made at the
    /// same time are not replaced at the same time. Default: `None`, no limit.
    ///
    /// For servers behind a load balancer: their clients spread again when one is added. A client that does not
    /// [reconnect](Self::reconnect) keeps its connection.
    pub fn max_lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.config.max_lifetime = limit.into().map(|it| it.clamp(SHORTEST, MAX_DURATION));
        self
    }

    /// Sets how long a connection stays open without a request, from 1 millisecond. The next request makes another
    /// one. Default: `None`, no limit.
    ///
    /// For many clients that are mostly idle, and for networks that forget idle connections. A client
    /// that does not [reconnect](Self::reconnect) keeps its connection.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.config.idle_timeout = limit.into().map(|it| it.clamp(SHORTEST, MAX_DURATION));
        self
    }

    /// Sets if a put that was sent and not acknowledged when its connection was lost is sent again over the next
    /// connection. Default: true.
    ///
    /// A put may also be sent before its turn and again in it, to find out which request ends
    /// connections ([`ConnectionError::ClosedOnRequest`](crate::error::ConnectionError::ClosedOnRequest)).
    /// With `false` the client does not search for such a put.
    ///
    /// A server that follows the protocol keeps one value for a key and a second, so a put that is stored
    /// twice counts once. Use `false` for a server that keeps both rows, if its rows matter to others than this
    /// client, which merges them: such puts then fail, with
    /// [`Delivery::Unknown`](crate::Delivery::Unknown).
    pub fn resend_unacknowledged(mut self, resend: bool) -> Self {
        self.config.settings.resend_unacknowledged = resend;
        self
    }

    /// Sets the size limit of one response, in bytes, from 4, the length of an acknowledgement.
    /// Default: 64 MiB, some two million records.
    ///
    /// In memory a response takes at most twelve times as much (768 MiB by default), or 1 MiB if that
    /// is more. A response that is larger, in bytes or in memory, fails its call alone, with
    /// [`Error::ResponseTooLarge`]. The rest of it is skipped for one second; then the connection is
    /// replaced. Of an `error` message, the first 64 KiB or the first `bytes` are kept.
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.config.max_response_bytes = bytes.max(MIN_RESPONSE_BYTES);
        self
    }

    /// Makes connections with `connector` instead of the [`DefaultConnector`].
    pub fn connector<D: Connector>(self, connector: D) -> ClientBuilder<D> {
        let addresses = self.addresses.and_then(Addresses::for_other_connector);
        ClientBuilder { connector, addresses, config: self.config }
    }

    /// Connects, and returns the client once there is a connection: one, also where there will be
    /// [several](Self::max_connections).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidAddress`] if no connection can ever be made to the address; [`Error::Connect`] with
    /// the reason, if there is no connection: this does not try again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<MetricsClient, Error> {
        cooperative(async {
            let (config, dialer) = self.into_parts()?;
            match dialer.dial().await {
                Ok(connected) => Ok(spawn_client(config, dialer, Some(connected))),
                Err(cause) => Err(dialer.error(cause)),
            }
        })
        .await
    }

    /// Makes a client that dials when the first request comes, and goes on trying. Makes no connection, and
    /// looks no name up.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidAddress`] if no connection can ever be made to the address.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    pub fn connect_lazy(self) -> Result<MetricsClient, Error> {
        let (config, dialer) = self.into_parts()?;
        Ok(spawn_client(config, dialer, None))
    }

    /// Makes a client on a stream that is connected already, its only connection. It never dials: when
    /// the stream ends, the client is closed. [`Pipelining::Auto`] means one request at a time here, for there is no
    /// second connection on which the server could be asked.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "the connection is closed when the last handle is dropped"]
    pub fn with_io<Io>(self, io: Io) -> MetricsClient
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connector = NoReconnect::default();
        let address = Address::custom("a given stream");
        let mut config = self.max_connections(1).reconnect(ReconnectPolicy::never()).config;
        let dialer = Arc::new(Dialer::new(connector, vec![address], &config));
        if let Pipelining::Auto = config.pipelining {
            config.pipelining = Pipelining::Off;
        }
        let pool = Pool::new(&config);
        pool.spawn_drivers(&config, &dialer, Some(Connected { io, server: 0 }));
        MetricsClient::new(pool, None)
    }

    fn into_parts(self) -> Result<(ConnectionConfig, Arc<Dialer<C>>), InvalidAddress> {
        let (servers, _) = self.addresses?.into_parts();
        servers.iter().try_for_each(|server| self.connector.check_address(server))?;
        let dialer = Dialer::new(self.connector, servers, &self.config);
        Ok((self.config, Arc::new(dialer)))
    }
}

/// A million requests take some 200 MiB to keep account of (200 bytes each, on 64 bits) besides what
/// they say: more is a slip of the pen.
const MAX_IN_FLIGHT: usize = 1024 * 1024;

/// `ok\n\n`. With less no request would ever be answered.
const MIN_RESPONSE_BYTES: usize = 4;
