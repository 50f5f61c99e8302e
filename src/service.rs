//! The client as a [`tower`](https://docs.rs/tower) service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tower_service::Service;

use crate::{
    client::{CallFuture, MetricsClient, Reservations},
    error::Error,
    metric::Metrics,
    protocol::Request,
};

/// A [`MetricsClient`] as a [`Service`]; made by [`MetricsClient::service`].
///
/// It takes a [`Request`] and answers with [`Metrics`], which are empty for a put.
///
/// It is ready when a place in the client's queue is kept for it: 1,075 bytes, the most that a request
/// takes, of [`max_buffered_bytes`](crate::ClientBuilder::max_buffered_bytes). Until then it waits in
/// one line with the callers of the client; those who came first go first, except that who holds a
/// place without using it keeps no caller of the client waiting while nothing else waits to be sent. Once it
/// is ready, the next call is accepted, whatever [`when_full`](crate::ClientBuilder::when_full) says, and goes
/// to the queue, behind the callers who are in line by then. So `load_shed` sheds exactly those for whom the
/// queue has no room.
///
/// A place that has been held for the [`request_timeout`](crate::ClientBuilder::request_timeout) is taken back
/// when others wait for room, so services that are ready and never called do not starve the rest. The service gets another one when it is asked again whether it is ready. A call that does not ask
/// again is still accepted, whatever `when_full` says, and waits in line.
///
/// The place is this service's own, which is why the client itself is no service: a clone has none, and who
/// drops a service, or a future that has not been polled, gives back what it held. With
/// [several connections](crate::ClientBuilder::max_connections) it has to have a place for each, for any of them
/// may be the one of the key, until it is called.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, codec::Request};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// let client = MetricsClient::connect(address).await?;
/// let mut service = ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(64)
///     .timeout(Duration::from_secs(1))
///     .service(client.service());
///
/// let put = Request::put("palm.cpu", 23.7, 1150864247)?;
/// service.ready().await?.call(put).await?;
/// let metrics = service.ready().await?.call(Request::get("palm.cpu")?).await?;
/// assert_eq!(metrics.points("palm.cpu")[0].value, 23.7);
/// # Ok(()) }
/// ```
pub struct MetricsService {
    client: MetricsClient,
    reservations: Reservations,
}

impl MetricsClient {
    /// Returns this client as a [`tower`](https://docs.rs/tower) service.
    #[must_use]
    pub fn service(&self) -> MetricsService {
        self.clone().into()
    }
}

impl MetricsService {
    /// Returns the client of this service.
    #[must_use]
    pub fn client(&self) -> &MetricsClient {
        &self.client
    }

    /// Returns the client, and gives up what the service had reserved in its queue.
    #[must_use]
    pub fn into_inner(self) -> MetricsClient {
        self.client
    }
}

impl From<MetricsClient> for MetricsService {
    fn from(client: MetricsClient) -> Self {
        Self { client, reservations: Reservations::default() }
    }
}

impl Service<Request> for MetricsService {
    type Response = Metrics;
    type Error = Error;
    type Future = ResponseFuture;

    /// Ready when a place in the queue is kept for the next call.
    ///
    /// Waits as long as requests and other services fill the queue. Each request leaves it by its deadline,
    /// and each service that is not called loses its place after the
    /// [`request_timeout`](crate::ClientBuilder::request_timeout), so the line always moves. There is no error
    /// when this takes long: tower's layers would take that for the end of the service. For a limit, use
    /// tower's `timeout` or `load_shed`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the client is closed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.reservations.poll(&self.client, cx)
    }

    /// Calls for a request, which is sent once the future is polled. Its deadline counts from then.
    ///
    /// Without having been ready it does not panic: the request then waits for room, or fails, as
    /// [`MetricsClient`]'s own calls do.
    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture { calling: self.reservations.call(&self.client, request) }
    }
}

/// A clone holds no place in the queue.
impl Clone for MetricsService {
    fn clone(&self) -> Self {
        self.client.service()
    }
}

impl fmt::Debug for MetricsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsService").field("client", &self.client).finish_non_exhaustive()
    }
}

/// The wait for the answer to one [call](MetricsService) of a service.
///
/// # Errors
///
/// As [`MetricsClient::put_at`] and [`MetricsClient::get`] have it.
///
/// # Cancel safety
///
/// Dropped before its request was sent, it withdraws it; later, it leaves open whether a value is
/// stored. No other call is touched.
#[must_use = "nothing is sent before it is polled"]
pub struct ResponseFuture {
    calling: CallFuture,
}

impl Future for ResponseFuture {
    type Output = Result<Metrics, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.calling).poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
