//! Serves what is stored over HTTP: an API, live points, and the state of the server.

mod access;
#[cfg(any(feature = "graphite", feature = "influx"))]
pub(crate) mod body;
mod consolidate;
pub(crate) mod error;
mod keys;
mod limits;
mod live;
mod min_rate;
mod page;
pub(crate) mod params;
mod points;
pub(crate) mod serve;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod time;

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_client::Key;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use access::{Access, InvalidToken, Token};
pub use limits::HttpLimits;
pub use server::HttpServer;
pub use status::Figure;

use self::{error::ApiError, live::Hub};
use crate::{
    stats::Counter,
    store::{KeyPattern, Store, Tee},
};

/// What the handlers share.
pub(crate) struct App<S> {
    pub(crate) store: Tee<S>,
    pub(crate) limits: HttpLimits,
    access: Access,
    /// One permit for each byte of a body.
    #[cfg(any(feature = "graphite", feature = "influx"))]
    pub(crate) body_budget: Semaphore,
    /// One permit for each request that reads keys from the store.
    reads: Semaphore,
    counters: HttpCounters,
    figures: Figures,
    hub: Arc<Hub>,
    stopping: CancellationToken,
    started: Instant,
}

/// What adds figures to those of the listener itself.
type Figures = Vec<Arc<dyn Fn() -> Vec<Figure> + Send + Sync>>;

#[derive(Debug, Default)]
struct HttpCounters {
    accepted: Counter,
    ended: Counter,
    rejected: Counter,
    requests: Counter,
}

impl<S: Store> App<S> {
    fn new(store: Tee<S>, access: Access, limits: HttpLimits, figures: Figures) -> Arc<Self> {
        let stopping = CancellationToken::new();
        Arc::new(Self {
            #[cfg(any(feature = "graphite", feature = "influx"))]
            body_budget: Semaphore::new(limits.total_body_bytes()),
            reads: Semaphore::new(limits.max_reads),
            store,
            limits,
            access,
            counters: HttpCounters::default(),
            figures,
            hub: Hub::new(stopping.clone(), &limits),
            stopping,
            started: Instant::now(),
        })
    }

    /// Waits until the request may read keys from the store, for as long as the store may take.
    async fn admit_read(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let permit = timeout(self.limits.store_timeout, self.reads.acquire()).await;
        let permit = permit.ok().and_then(Result::ok);
        permit.ok_or_else(|| {
            let max = self.limits.max_reads;
            ApiError::limit(StatusCode::SERVICE_UNAVAILABLE, "max_reads", max).retry_after()
        })
    }

    /// Returns the keys that match, within the store's time limit.
    async fn keys(&self, pattern: &KeyPattern) -> Result<Vec<Key>, ApiError> {
        let keys = timeout(self.limits.store_timeout, self.store.keys(pattern)).await;
        Ok(keys.map_err(|_| ApiError::store_timeout())??)
    }
}

impl<S> fmt::Debug for App<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Returns the router of all paths, those of `mounted` included.
fn router<S: Store>(app: &Arc<App<S>>, mounted: Router<Arc<App<S>>>) -> Router {
    let router = Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz::<S>))
        .route("/metrics", get(status::metrics::<S>))
        .route("/api/v1/status", get(status::status::<S>))
        .route("/api/v1/keys", get(keys::keys::<S>))
        .route("/api/v1/points", get(points::points::<S>))
        .route("/api/v1/live", get(live::live::<S>));
    router
        .merge(page::router())
        .merge(mounted)
        .fallback(not_found)
        .with_state(Arc::clone(app))
        .layer(from_fn_with_state(app.access.clone(), access::check))
        .layer(from_fn_with_state(Arc::clone(app), on_request::<S>))
}

async fn not_found(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("no such path: {}", request.uri().path()))
}

/// Counts the request, and adds the headers that every answer has.
async fn on_request<S: Store>(
    State(app): State<Arc<App<S>>>,
    request: Request,
    next: Next,
) -> Response {
    app.counters.requests.add(1);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // Nothing is fetched from elsewhere, and no text is taken for a script.
    let policy = HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    // No page of another site reads an answer as a script (JSONP).
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Returns an answer of JSON that is not to be cached.
pub(crate) fn json(value: &impl Serialize) -> impl IntoResponse {
    let body = serde_json::to_vec(value)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    body.map(|mut body| {
        body.push(b'\n');
        let json = HeaderValue::from_static("application/json");
        let no_store = HeaderValue::from_static("no-store");
        ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, no_store)], body)
    })
}
