//! [`HttpServer`]: listens for HTTP, and serves a store.

use std::{
    fmt,
    future::{Future, pending},
    io,
    net::SocketAddr,
    sync::Arc,
};

use axum::Router;
use tokio::net::{TcpListener, ToSocketAddrs};
use tracing::info;

use super::{Access, App, Figure, Figures, HttpLimits, router, serve};
#[cfg(feature = "tls")]
use crate::session::TlsAcceptor;
use crate::{
    net::listen,
    stats::{ServerStats, StatsHandle},
    store::{Store, Tee},
};

/// An HTTP server of a store: its keys, its points, live values, and the state of the server.
///
/// The paths are described in `docs/http-api.md`. Points that other listeners put through the same [`Tee`] are shown too.
///
/// ```
/// use std::sync::Arc;
/// use metrics_server::{MemoryStore, Server, http::{Access, HttpServer}, store::Tee};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
///
/// let store = Tee::new(Arc::new(MemoryStore::new()), 1024);
/// let server = Server::bind("127.0.0.1:0").await?.store(store.clone());
/// let http = HttpServer::bind("127.0.0.1:0", store, Access::Loopback).await?
///     .protocol_stats(server.stats_handle());
/// println!("http://{}/api/v1/keys", http.local_addr());
///
/// let stop = tokio_util::sync::CancellationToken::new();
/// # stop.cancel();
/// tokio::join!(
///     server.serve_until(stop.clone().cancelled_owned()),
///     http.serve_until(stop.cancelled_owned()),
/// );
/// # Ok(()) }
/// ```
pub struct HttpServer<S> {
    listeners: Vec<TcpListener>,
    /// The address of each listener; at least one.
    local_addrs: Vec<SocketAddr>,
    store: Tee<S>,
    access: Access,
    limits: HttpLimits,
    figures: Figures,
    /// Paths of other modules.
    mounted: Router<Arc<App<S>>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
}

impl<S: Store> HttpServer<S> {
    /// Listens on every address that `addr` resolves to. Port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// If `addr` cannot be resolved, if one of its addresses is in use or forbidden, or if this machine has none
    /// of them; [`InvalidInput`](io::ErrorKind::InvalidInput) if one of them is not a loopback address and
    /// `access` is [`Access::Loopback`].
    pub async fn bind(addr: impl ToSocketAddrs, store: Tee<S>, access: Access) -> io::Result<Self> {
        let listeners = listen(addr).await?;
        let local_addrs = listeners.iter().map(TcpListener::local_addr);
        let local_addrs = local_addrs.collect::<io::Result<Vec<_>>>()?;
        if matches!(access, Access::Loopback)
            && let Some(addr) = local_addrs.iter().find(|addr| !addr.ip().is_loopback())
        {
            let message = format!("{addr} is not a loopback address: a token is needed");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self {
            listeners,
            local_addrs,
            store,
            access,
            limits: HttpLimits::default(),
            figures: Vec::new(),
            mounted: Router::new(),
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// Sets the limits on what clients can use.
    #[must_use]
    pub fn limits(self, limits: HttpLimits) -> Self {
        Self { limits, ..self }
    }

    /// Adds figures to `/metrics` and `/api/v1/status`; the function is called for each request.
    #[must_use]
    pub fn figures(mut self, figures: impl Fn() -> Vec<Figure> + Send + Sync + 'static) -> Self {
        self.figures.push(Arc::new(figures));
        self
    }

    /// Returns what serves a connection that a test has made.
    #[cfg(test)]
    pub(super) fn into_router(self) -> (Arc<App<S>>, Router) {
        let app = App::new(self.store, self.access, self.limits, self.figures);
        let router = router(&app, self.mounted);
        (app, router)
    }

    /// Serves the paths of another module too.
    #[cfg(any(feature = "graphite", feature = "influx"))]
    pub(crate) fn mount(self, router: Router<Arc<App<S>>>) -> Self {
        Self { mounted: self.mounted.merge(router), ..self }
    }

    /// Adds the counters of the protocol's listener to `/metrics` and `/api/v1/status`.
    #[must_use]
    pub fn protocol_stats(self, stats: StatsHandle) -> Self {
        self.figures(move || protocol_figures(stats.stats()))
    }

    /// Sets that every connection uses TLS.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(self, acceptor: TlsAcceptor) -> Self {
        Self { tls: Some(acceptor), ..self }
    }

    /// Returns the address that the server listens on, the first one if there are several.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs[0]
    }

    /// Serves without end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts all connections at once.
    pub async fn serve(self) {
        self.serve_until(pending()).await;
    }

    /// Serves until `shutdown` completes. Then it accepts no connection, ends the streams of live points, and
    /// answers requests that have begun, for at most [`HttpLimits::shutdown_grace`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts all connections at once.
    pub async fn serve_until(self, shutdown: impl Future<Output = ()>) {
        for local_addr in &self.local_addrs {
            info!(%local_addr, "serving HTTP");
        }
        let app = App::new(self.store, self.access, self.limits, self.figures);
        let connections = serve::Connections {
            listeners: self.listeners,
            #[cfg(feature = "tls")]
            tls: self.tls,
            router: router(&app, self.mounted),
            app,
        };
        connections.serve_until(shutdown).await;
    }
}

impl<S> fmt::Debug for HttpServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("local_addrs", &self.local_addrs)
            .field("access", &self.access)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn protocol_figures(stats: ServerStats) -> Vec<Figure> {
    let ServerStats {
        connections,
        accepted,
        rejected_connections,
        puts,
        gets,
        invalid_requests,
        failed,
        incomplete_lines,
        failed_handshakes,
    } = stats;
    vec![
        Figure::gauge("metrics_connections", "Open connections.", connections as f64),
        Figure::counter("metrics_connections_accepted_total", "Accepted connections.", accepted),
        Figure::counter(
            "metrics_connections_rejected_total",
            "Connections that were closed because of a limit.",
            rejected_connections,
        ),
        Figure::counter("metrics_puts_total", "Puts that were stored.", puts),
        Figure::counter("metrics_gets_total", "Gets that were received.", gets),
        Figure::counter(
            "metrics_invalid_requests_total",
            "Lines that are no request.",
            invalid_requests,
        ),
        Figure::counter(
            "metrics_failed_requests_total",
            "Puts and gets that failed in the store.",
            failed,
        ),
        Figure::counter(
            "metrics_incomplete_lines_total",
            "Last lines without a line break.",
            incomplete_lines,
        ),
        Figure::counter(
            "metrics_failed_handshakes_total",
            "TLS handshakes that failed.",
            failed_handshakes,
        ),
    ]
}
