//! Accepts connections from the listening sockets.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use metrics_client::internal::log_limit::Lasting;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::log_condition::LimitedCondition;

/// A source of connections.
pub(crate) trait Accept: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the next connection.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

/// The listening sockets of a server.
pub(crate) struct Listeners {
    listeners: Vec<TcpListener>,
    /// The index of the socket that is polled first; it rotates, so that no socket starves another.
    first: AtomicUsize,
}

impl Listeners {
    pub(crate) fn new(listeners: Vec<TcpListener>) -> Self {
        Self { listeners, first: AtomicUsize::new(0) }
    }
}

impl Accept for Listeners {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        let (io, peer) = poll_fn(|cx| {
            let first = self.first.fetch_add(1, Ordering::Relaxed);
            let count = self.listeners.len();
            for offset in 0..count {
                let listener = &self.listeners[first.wrapping_add(offset) % count];
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await?;
        // Fails only if the peer has disconnected, which the session will notice.
        let _ = io.set_nodelay(true);
        Ok((io, peer))
    }
}

/// Accepts connections, and backs off while `accept` fails: without free file descriptors it fails at
/// once, again and again, while the connection stays in the kernel's queue.
pub(crate) struct Acceptor<A> {
    listener: A,
    /// How long the last pause was; zero after a success.
    pause: Duration,
    retry_at: Option<Instant>,
    failing: Arc<LimitedCondition>,
}

impl<A: Accept> Acceptor<A> {
    const MIN_PAUSE: Duration = Duration::from_millis(10);
    /// Shorter than the connect timeout of a usual client.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// Logs through `failing`.
    pub(crate) fn new(listener: A, failing: Arc<LimitedCondition>) -> Self {
        Self { listener, pause: Duration::ZERO, retry_at: None, failing }
    }

    /// Returns the next connection, however long that takes.
    pub(crate) async fn next(&mut self) -> (A::Io, SocketAddr) {
        loop {
            if let Some(retry_at) = self.retry_at {
                sleep_until(retry_at).await;
                self.retry_at = None;
            }
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = Duration::ZERO;
                    if let Some(Lasting { since, times }) = self.failing.ends() {
                        info!(failed_for = ?since, times, "accept recovered");
                    }
                    return connection;
                }
                Err(error) if is_per_connection_error(&error) => {
                    debug!(%error, "connection closed before it was accepted");
                }
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(Self::MIN_PAUSE, Self::MAX_PAUSE);
                    self.retry_at = Some(Instant::now() + self.pause);
                    if let Some(Lasting { since, times }) = self.failing.holds() {
                        let pause = self.pause;
                        warn!(%error, ?pause, failed_for = ?since, times, "accept failed; retrying");
                    }
                }
            }
        }
    }
}

/// Returns true if `accept` failed because of the connection that it would have returned; `man 2
/// accept` asks to retry then.
fn is_per_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
