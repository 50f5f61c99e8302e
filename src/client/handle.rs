//! [`MetricsClient`]: the handle that callers clone and share.

use std::{borrow::Borrow, fmt, sync::Arc, time::Duration};

use bytes::BytesMut;

#[cfg(feature = "reporter")]
use super::Outcomes;
use super::{
    ClientStats, ConnectionState, Connector, SampleStream, StateWatcher,
    address::Address,
    batch,
    dialer::{Connected, Dialer, DynDialer},
    durations::MAX_DURATION,
    pipeline::{Reply, RequestKind},
    pool::Pool,
    settings::{CallTimeout, ConnectionConfig},
    shared::cooperative,
    turn::within,
};
use crate::{
    error::Error,
    metric::{IntoKey, IntoSelector, KeyText, Metrics, Point, Sample, Selector},
    protocol::{PutSuffix, encode_get},
};

/// A client of one metrics server, over one connection that is kept, or
/// [several](crate::ClientBuilder::max_connections).
///
/// Cloning is cheap, and clones share the connection. When the last one is dropped, the requests that have been
/// accepted are still served, and then the connection is closed. Any number of tasks may use it concurrently, also on
/// a current-thread runtime.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use metrics_client::MetricsClient;
///
/// let client = MetricsClient::connect(address).await?;
/// client.put("palm.cpu", 23.7).await?;
/// let metrics = client.get("palm.cpu").await?;
/// assert_eq!(metrics.latest("palm.cpu").map(|point| point.value), Some(23.7));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MetricsClient {
    handle: Arc<Handle>,
    /// The timeout of this handle's requests, if it is not that of the configuration.
    timeout: Option<CallTimeout>,
}

struct Handle {
    pool: Pool,
    /// `None` if the client cannot dial.
    reconnector: Option<Reconnector>,
}

/// Makes connections besides those of the pool.
pub(super) struct Reconnector {
    dialer: Arc<dyn DynDialer>,
    /// Makes another client with the same configuration, on the runtime of the caller.
    #[cfg(feature = "reporter")]
    detached: Box<dyn Fn() -> MetricsClient + Send + Sync>,
}

/// Starts a client that can dial, on the connection `io` if there is one already.
pub(super) fn spawn_client<C: Connector>(
    config: ConnectionConfig,
    dialer: Arc<Dialer<C>>,
    io: Option<Connected<C::Io>>,
) -> MetricsClient {
    let pool = Pool::new(&config);
    pool.spawn_drivers(&config, &dialer, io);
    let reconnector = Reconnector {
        #[cfg(feature = "reporter")]
        detached: {
            let dialer = Arc::clone(&dialer);
            let config = ConnectionConfig { connections: 1, ..config };
            Box::new(move || spawn_client(config.clone(), Arc::clone(&dialer), None))
        },
        dialer,
    };
    MetricsClient::new(pool, Some(reconnector))
}

impl MetricsClient {
    pub(super) fn new(pool: Pool, reconnector: Option<Reconnector>) -> Self {
        Self { handle: Arc::new(Handle { pool, reconnector }), timeout: None }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.handle.pool
    }

    pub(super) fn timeout(&self) -> Option<CallTimeout> {
        self.timeout
    }

    /// Returns a handle of the same client whose calls have another
    /// [`request_timeout`](crate::ClientBuilder::request_timeout): from 1 millisecond to 49 days, rounded up to a
    /// millisecond.
    ///
    /// This is as cheap as a clone, and both handles share connections, queue and state. Clones of the new handle, and
    /// its services and sinks, keep its timeout; closing it closes the client.
    ///
    /// A longer timeout does not keep a connection whose oldest response is later than the
    /// [`stall_timeout`](crate::ClientBuilder::stall_timeout): that is one limit for all requests of a connection.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
    /// # let address = server.local_addr();
    /// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
    /// use std::time::Duration;
    /// use metrics_client::MetricsClient;
    ///
    /// let client = MetricsClient::connect(address).await?;
    /// client.put("palm.cpu", 23.7).await?;
    /// client.with_timeout(Duration::from_millis(200)).ping().await?;
    /// let everything = client.with_timeout(Duration::from_secs(60)).get_all().await?;
    /// # assert_eq!(everything.len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { handle: Arc::clone(&self.handle), timeout: Some(CallTimeout::new(timeout)) }
    }

    /// Returns a client with the same configuration and one connection of its own, driven by the runtime of the
    /// caller; `None` if this one was made from a stream.
    #[cfg(feature = "reporter")]
    pub(crate) fn detached_clone(&self) -> Option<Self> {
        let detached = self.handle.reconnector.as_ref().map(|it| (it.detached)())?;
        Some(Self { timeout: self.timeout, ..detached })
    }

    /// Stores `value` for `key` at the current second, and returns once the server has
    /// acknowledged it.
    ///
    /// # Errors
    ///
    /// See [`put_at`](Self::put_at).
    ///
    /// # Cancel safety
    ///
    /// See [`put_at`](Self::put_at).
    pub async fn put(&self, key: impl IntoKey, value: impl Into<f64>) -> Result<(), Error> {
        self.submit_put(key.into_text(), Point::now(value)).await.map(|_| ())
    }

    /// Stores `value` for `key` at `timestamp`, in seconds since the Unix epoch, and returns once
    /// the server has acknowledged it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`] or [`Error::NonFiniteValue`] before anything is sent; [`Error::Rejected`] if the server
    /// rejects the put; otherwise an error of the connection, the queue or the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request if it has not been sent. If it has, the value may be stored or not.
    /// Other calls are not affected.
    pub async fn put_at(
        &self,
        key: impl IntoKey,
        value: impl Into<f64>,
        timestamp: i64,
    ) -> Result<(), Error> {
        self.submit_put(key.into_text(), Point::new(value, timestamp)).await.map(|_| ())
    }

    /// Returns the future of one put.
    #[inline]
    fn submit_put(
        &self,
        key: impl KeyText,
        point: Point,
    ) -> impl Future<Output = Result<Reply, Error>> {
        let connection = self.handle.pool.connection_for(key.as_str());
        connection.call(RequestKind::Put, self.timeout, move || {
            key.validate()?;
            let suffix = PutSuffix::new(key.as_str(), point)?;
            Ok(move |bytes: &mut BytesMut| suffix.append_put(bytes, key.as_str()))
        })
    }

    /// Stores any number of samples, in order, and returns once the server has acknowledged all of them. Takes
    /// anything that yields samples or references to them: a `Vec`, a slice, an iterator.
    ///
    /// The samples are sent in blocks as there is room, as many at once as the server answers in a part of the
    /// request timeout, which holds for each block and not for the whole. Samples that the server rejects, or at
    /// which it [closes the connection](crate::error::BatchError::closed_on), do not keep the others from being stored.
    /// [Several connections](crate::ClientBuilder::max_connections) store samples concurrently, and only those of one key
    /// in their order; what keeps one connection from storing its own does not keep the others from it.
    ///
    /// The iterator is run to its end before anything is sent, which takes the memory of the samples, or a pointer
    /// for each reference. [`put_stream`](Self::put_stream) takes any number in bounded memory.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
    /// # let address = server.local_addr();
    /// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
    /// use metrics_client::{MetricsClient, Sample};
    ///
    /// let client = MetricsClient::connect(address).await?;
    /// let samples = [Sample::new("palm.cpu", 23.7, 1150864247)?, Sample::new("palm.cpu", 24.1, 1150864248)?];
    /// client.put_all(&samples).await?;
    /// client.put_all(samples.iter().filter(|sample| sample.point.value > 24.0)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NonFiniteValue`] before anything is sent if a value is not finite; else [`Error::Batch`], which
    /// has the number of samples that were stored, the first that was not, and the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the samples that have not been sent.
    pub async fn put_all<I>(&self, samples: I) -> Result<(), Error>
    where
        I: IntoIterator,
        I::Item: Borrow<Sample>,
    {
        let samples = samples.into_iter().collect::<Vec<_>>();
        cooperative(batch::put_all(&self.handle.pool, self.timeout, &samples, None)).await
    }

    /// Checks that the server answers: returns once it has answered a request that stores nothing, a `get` of a
    /// key of this client's own. With several connections it uses the one with the fewest requests.
    ///
    /// Where the client is not connected, this connects.
    ///
    /// # Errors
    ///
    /// See [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// See [`get`](Self::get).
    pub async fn ping(&self) -> Result<(), Error> {
        let ping = || Ok(|bytes: &mut BytesMut| bytes.extend_from_slice(PING));
        let connection = self.handle.pool.connection_for_get(&Selector::All);
        connection.call(RequestKind::Get, self.timeout, ping).await.map(drop)
    }

    /// Does what [`put_all`](Self::put_all) does, and notes the outcome of each sample, also when the future is
    /// dropped.
    #[cfg(feature = "reporter")]
    pub(crate) async fn put_all_tracked(
        &self,
        samples: &[Sample],
        outcomes: &Outcomes,
    ) -> Result<(), Error> {
        cooperative(batch::put_all(&self.handle.pool, self.timeout, samples, Some(outcomes))).await
    }

    /// Returns the points of one key, or with `"*"` of all keys. A key that the server does not know has no points.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`] before anything is sent if `selector` is neither a key nor `*`; [`Error::Rejected`] if the
    /// server rejects the get; [`Error::InvalidResponse`] if the response has an invalid record;
    /// [`Error::ResponseTooLarge`] if it exceeds [`max_response_bytes`](crate::ClientBuilder::max_response_bytes), for
    /// which there is [`stream`](Self::stream); otherwise an error of the connection, the queue or the deadline.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future affects no other call.
    pub async fn get(&self, selector: impl IntoSelector) -> Result<Metrics, Error> {
        cooperative(async {
            let selector = selector.into_selector()?;
            let get = || Ok(|bytes: &mut BytesMut| encode_get(bytes, &selector));
            let connection = self.handle.pool.connection_for_get(&selector);
            Ok(match connection.call(RequestKind::Get, self.timeout, get).await? {
                Reply::Found(metrics) => metrics,
                Reply::Stored => Metrics::new(),
            })
        })
        .await
    }

    /// Returns everything that is stored: the same as `get("*")`.
    ///
    /// # Errors
    ///
    /// See [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// See [`get`](Self::get).
    pub async fn get_all(&self) -> Result<Metrics, Error> {
        self.get(Selector::All).await
    }

    /// Returns the samples of one key, or with `"*"` of all keys, one by one and in bounded memory, however many are
    /// stored.
    ///
    /// They come over a connection of their own, so no other call waits for them, in the order in which the server
    /// sends them: nothing is sorted or merged.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`] before anything is sent if `selector` is neither a key nor `*`; [`Error::CannotDial`] if
    /// the client was made [from a stream](Self::from_io); [`Error::Connect`] if there is no connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that it was making.
    pub async fn stream(&self, selector: impl IntoSelector) -> Result<SampleStream, Error> {
        cooperative(async {
            let selector = selector.into_selector()?;
            let Some(Reconnector { dialer, .. }) = &self.handle.reconnector else {
                return Err(Error::CannotDial);
            };
            let limit = {
                let pipeline = self.handle.pool.connections()[0].pipeline();
                pipeline.check_open()?;
                self.timeout.map_or_else(|| pipeline.request_timeout(), CallTimeout::get)
            };
            SampleStream::open(Arc::clone(dialer), &selector, limit).await
        })
        .await
    }

    /// Closes the client, for all clones: accepts no more requests, serves those that are outstanding, then closes the
    /// connections. Returns once that is done.
    ///
    /// # Errors
    ///
    /// The first error, other than a rejection, of a request that was outstanding. Its caller gets it too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the client closing.
    pub async fn close(&self) -> Result<(), Error> {
        self.handle.pool.close();
        let _closed = self.watch_state().wait_for(|state| state == ConnectionState::Closed).await;
        self.handle.pool.close_failure().map_or(Ok(()), Err)
    }

    /// Closes the client as [`close`](Self::close) does, but for at most `limit`: then the requests that are still
    /// outstanding fail with [`Error::Closed`], and the connections are closed without waiting for responses.
    ///
    /// # Errors
    ///
    /// The first error of a request that was outstanding, other than a rejection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the client closing, without a limit.
    pub async fn close_within(&self, limit: Duration) -> Result<(), Error> {
        let limit = limit.min(MAX_DURATION);
        match within(limit, self.close()).await {
            Some(closed) => closed,
            None => {
                self.handle.pool.abort();
                self.handle.pool.close_failure().map_or(Ok(()), Err)
            }
        }
    }

    /// Returns true while the client has a connection to the server, of several at least one.
    ///
    /// An idle client may have none, and connects with the next request: see [`state`](Self::state).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state() == ConnectionState::Connected
    }

    /// Returns the state of the client's connection at this moment; [`watch_state`](Self::watch_state) waits for
    /// changes.
    ///
    /// With [several connections](crate::ClientBuilder::max_connections) the client is connected while at least one of
    /// them is, for then the server can be reached, and closed when all are. The reason why another one cannot be made
    /// is in the errors of the calls that wait for it, and in the log.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), metrics_client::Error> {
    /// use metrics_client::{MetricsClient, client::ConnectionState};
    ///
    /// let client = MetricsClient::builder("127.0.0.1:8888").connect_lazy()?;
    /// assert_eq!(client.state(), ConnectionState::Disconnected);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        *self.handle.pool.state().borrow()
    }

    /// Returns a watcher of the client's [`state`](Self::state), which waits for changes.
    #[must_use]
    pub fn watch_state(&self) -> StateWatcher {
        StateWatcher::new(self.handle.pool.state().subscribe())
    }

    /// Returns the address of the server that the client keeps to, of those that it was given. A connection that was
    /// made earlier may lead to another one until it ends. Returns `None` if the client was made
    /// [from a stream](Self::from_io).
    #[must_use]
    pub fn server(&self) -> Option<&Address> {
        self.handle.reconnector.as_ref().map(|reconnector| reconnector.dialer.current())
    }

    /// Returns what the client has done so far.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let failovers = self.handle.reconnector.as_ref().map_or(0, |it| it.dialer.failovers());
        ClientStats { failovers, ..self.handle.pool.stats() }
    }
}

/// A get of a key under which nothing is stored, to which the response is the shortest one.
const PING: &[u8] = b"get metrics-client.ping\n";

impl fmt::Debug for MetricsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsClient")
            .field("state", &self.state())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pool.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn future_of_a_put_is_small() {
        let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
        let len = size_of_val(&client.put("palm.cpu", 23.7));
        assert!(len <= 128, "{len} bytes for each put in flight");
    }
}
