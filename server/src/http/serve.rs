//! Accepts HTTP connections within the limits, and serves each.

use std::{future::Future, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, http::StatusCode};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use metrics_client::internal::log_limit::LogLimiter;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{App, HttpLimits, error::ApiError, min_rate::MinRateIo};
#[cfg(feature = "tls")]
use crate::session::TlsAcceptor;
use crate::{
    log_condition::LimitedCondition,
    net::{Acceptor, ConnectionPermit, Listeners, PerSourceLimit, source_of},
    store::Store,
};

/// The listeners and what they serve.
pub(super) struct Connections<S> {
    pub(super) listeners: Vec<TcpListener>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) router: Router,
    pub(super) app: Arc<App<S>>,
}

impl<S: Store> Connections<S> {
    pub(super) async fn serve_until(self, shutdown: impl Future<Output = ()>) {
        let limits = self.app.limits;
        let (tasks, rejections) = (TaskTracker::new(), TaskTracker::new());
        let abort = CancellationToken::new();
        let _abort_on_drop = abort.clone().drop_guard();
        let _stop_on_drop = self.app.stopping.clone().drop_guard();
        let (graceful, rejected) = (GracefulShutdown::new(), LogLimiter::new());
        let conn_limit = PerSourceLimit::new(limits.max_connections_per_address);
        let mut acceptor =
            Acceptor::new(Listeners::new(self.listeners), Arc::new(LimitedCondition::new()));
        let mut shutdown = pin!(shutdown);
        loop {
            let (io, peer) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                connection = acceptor.next() => connection,
            };
            let permit = if tasks.len() >= limits.max_connections {
                None
            } else {
                conn_limit.try_acquire(peer.ip())
            };
            let Some(permit) = permit else {
                self.app.counters.rejected.add(1);
                if rejected.should_log() {
                    let connections = tasks.len();
                    warn!(%peer, connections, "HTTP connection rejected: limit reached");
                }
                #[cfg(feature = "tls")]
                if self.tls.is_some() {
                    continue;
                }
                if rejections.len() < MAX_REJECTIONS {
                    let limit = if tasks.len() >= limits.max_connections {
                        ("max_connections", limits.max_connections)
                    } else {
                        ("max_connections_per_address", limits.max_connections_per_address)
                    };
                    rejections
                        .spawn(abort.child_token().run_until_cancelled_owned(reject(io, limit)));
                }
                continue;
            };
            self.app.counters.accepted.add(1);
            let ended = Ended { app: Arc::clone(&self.app), _permit: permit };
            let (source, router) = (source_of(peer.ip()), self.router.clone());
            let watcher = graceful.watcher();
            #[cfg(feature = "tls")]
            let tls = self.tls.clone();
            let serving = async move {
                let limits = ended.app.limits;
                #[cfg(feature = "tls")]
                if let Some(tls) = tls {
                    match timeout(limits.header_timeout, tls.accept_io(io)).await {
                        Ok(Ok(io)) => serve(io, source, router, limits, watcher).await,
                        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                        Err(_) => debug!(%peer, "TLS handshake timed out"),
                    }
                    return;
                }
                serve(io, source, router, limits, watcher).await;
                drop(ended);
            };
            tasks.spawn(abort.child_token().run_until_cancelled_owned(serving));
        }
        drop(acceptor);
        self.app.stopping.cancel();
        tasks.close();
        let is_over = timeout(limits.shutdown_grace, async {
            graceful.shutdown().await;
            tasks.wait().await;
        });
        if is_over.await.is_err() {
            let (connections, grace) = (tasks.len(), limits.shutdown_grace);
            warn!(connections, ?grace, "aborting HTTP connections after grace period");
            abort.cancel();
            tasks.wait().await;
        }
        abort.cancel();
        info!("HTTP stopped");
    }
}

/// Serves the requests of one connection.
pub(super) async fn serve<Io>(
    io: Io,
    source: IpAddr,
    router: Router,
    limits: HttpLimits,
    watcher: Watcher,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = MinRateIo::new(io, limits.write_timeout);
    let router = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(io), WithSource { source: PeerSource(source), router });
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "HTTP connection ended");
    }
}

/// Adds the source of a connection to its requests.
struct WithSource {
    source: PeerSource,
    router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for WithSource {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.source);
        self.router.call(request)
    }
}

/// Whose the puts of a request are, see [`PutBatch::from_source`](crate::store::PutBatch::from_source). All peers
/// behind one proxy are one source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerSource(
    #[cfg_attr(not(feature = "influx"), expect(dead_code, reason = "only InfluxDB's paths write"))]
    pub(crate) IpAddr,
);

/// Answers a connection that is over a limit, without reading a request, and closes it.
async fn reject(mut io: TcpStream, (limit, max): (&'static str, usize)) {
    let error = ApiError::limit(StatusCode::SERVICE_UNAVAILABLE, limit, max);
    let body = error.body();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answering = async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await?;
        // Closing a socket with unread bytes resets it, and the peer may lose the answer.
        let mut unread = [0; 1024];
        while io.read(&mut unread).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = timeout(REJECTION_TIMEOUT, answering).await {
        debug!(%error, "HTTP connection ended");
    }
}

/// How many connections over a limit are answered at a time; more are just closed.
const MAX_REJECTIONS: usize = 64;

const REJECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the head of a request may be, in bytes: a query with many keys fits.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Counts a connection as ended when it is dropped.
struct Ended<S> {
    app: Arc<App<S>>,
    _permit: ConnectionPermit,
}

impl<S> Drop for Ended<S> {
    fn drop(&mut self) {
        self.app.counters.ended.add(1);
    }
}
