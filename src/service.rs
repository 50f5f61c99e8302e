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
/// It takes a [`Request`] and returns [`Metrics`], which are empty for a put.
///
/// It is ready when it has a reservation in the client's queue: 1,075 bytes, the size of the longest request, of
/// [`max_buffered_bytes`](crate::ClientBuilder::max_buffered_bytes). Until then it waits in one line with the callers of
/// the client, in the order in which they came, except that an unused reservation keeps no caller waiting while nothing
/// is queued. Once the service is ready, its next call is accepted, whatever
/// [`when_full`](crate::ClientBuilder::when_full) is, and queued behind the callers that are in line by then. So
/// `load_shed` sheds calls exactly when the queue is full.
///
/// A reservation that has been held for the [`request_timeout`](crate::ClientBuilder::request_timeout) is taken back
/// when others wait for room, so services that are ready and never called do not starve the rest. The service gets
/// another one with the next `poll_ready`. A call without that is still accepted, whatever `when_full` is, and waits in
/// line.
///
/// The reservation belongs to this service, which is why the client itself is not a service: a clone has none, and a
/// service, or an unpolled future, that is dropped releases it. With
/// [several connections](crate::ClientBuilder::max_connections) a service reserves room on each of them until it is
/// called, for the key is not known before.
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

    /// Returns the client, and releases the reservation.
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

    /// Ready when room in the queue is reserved for the next call.
    ///
    /// Waits while requests and other services fill the queue. Each request leaves it by its deadline,
    /// and each service that is not called loses its reservation after the
    /// [`request_timeout`](crate::ClientBuilder::request_timeout), so the line always moves. A long wait is not an
    /// error: tower's layers would take that for the end of the service. For a limit, use tower's `timeout` or
    /// `load_shed`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the client is closed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.reservations.poll(&self.client, cx)
    }

    /// Returns the future of a request, which is sent, and whose deadline begins, when it is first polled.
    ///
    /// Does not panic if the service is not ready: the request then waits for room, or fails, as
    /// [`MetricsClient`]'s own calls do.
    fn call(&mut self, request: Request) -> ResponseFuture {
        ResponseFuture { response: self.reservations.call(&self.client, request) }
    }
}

/// A clone has no reservation.
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

/// The future of one [call](MetricsService) of a service.
///
/// # Errors
///
/// See [`MetricsClient::put_at`] and [`MetricsClient::get`].
///
/// # Cancel safety
///
/// Dropping the future cancels the request if it has not been sent. If it has, a value may be stored or not. Other
/// calls are not affected.
#[must_use = "nothing is sent before it is polled"]
pub struct ResponseFuture {
    response: CallFuture,
}

impl Future for ResponseFuture {
    type Output = Result<Metrics, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.response).poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
