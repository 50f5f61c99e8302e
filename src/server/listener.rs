//! Lets peers in, as many as may be, and sees them out.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, error, info, warn};

use super::session::{self, Shared};
use crate::store::Store;

/// Where connections come from.
pub(super) trait Accept: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: none is lost.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        let (io, peer) = self.accept().await?;
        // Answers leave when they are due. Fails only if the peer is gone, as the session will see.
        let _ = io.set_nodelay(true);
        Ok((io, peer))
    }
}

/// Serves whoever connects until `shutdown` is done, then lets the sessions end.
pub(super) async fn run<A, S>(
    listener: A,
    shared: Arc<Shared<S>>,
    shutdown: impl Future<Output = ()>,
) where
    A: Accept,
    S: Store,
{
    let (stop, stopped) = watch::channel(false);
    // Aborts its sessions when it is dropped: none outlives this future.
    let mut sessions = JoinSet::new();
    let mut door = Door { listener, pause: Duration::ZERO, shut_until: None };
    let mut is_full = false;
    let mut shutdown = pin!(shutdown);
    loop {
        let (io, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = sessions.join_next() => {
                see_out(&shared, ended);
                continue;
            }
            connection = door.next() => connection,
        };
        while let Some(ended) = sessions.try_join_next() {
            see_out(&shared, ended);
        }
        let was_full =
            std::mem::replace(&mut is_full, sessions.len() >= shared.limits.max_connections);
        if is_full {
            shared.counters.turned_away.add(1);
            if was_full {
                debug!(%peer, "turned away");
            } else {
                warn!(%peer, connections = sessions.len(), "turned away: too many connections");
            }
            continue;
        }
        shared.counters.accepted.add(1);
        sessions.spawn(session::run(io, peer, Arc::clone(&shared), stopped.clone()));
    }
    // Whoever connects from now on is refused instead of kept waiting.
    drop(door);
    stop.send_replace(true);
    let grace = shared.limits.grace_time;
    let all_ended = async {
        while let Some(ended) = sessions.join_next().await {
            see_out(&shared, ended);
        }
    };
    if timeout(grace, all_ended).await.is_err() {
        warn!(connections = sessions.len(), ?grace, "cut off what did not end in time");
        shared.counters.ended.add(sessions.len());
        sessions.shutdown().await;
    }
    info!("stopped");
}

fn see_out<S>(shared: &Shared<S>, ended: Result<(), JoinError>) {
    shared.counters.ended.add(1);
    if let Err(error) = ended {
        error!(%error, "a session failed");
    }
}

/// Accepts connections, and waits a while when none can be: without file descriptors `accept` fails
/// at once, again and again, while the connection that it failed for stays in the queue.
struct Door<A> {
    listener: A,
    /// How long to wait after the next failure.
    pause: Duration,
    shut_until: Option<Instant>,
}

impl<A: Accept> Door<A> {
    const MIN_PAUSE: Duration = Duration::from_millis(10);
    /// Short enough that nobody who waits gives up, and a log line a second fills no disk.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// The next connection, however long it takes.
    async fn next(&mut self) -> (A::Io, SocketAddr) {
        loop {
            if let Some(until) = self.shut_until {
                sleep_until(until).await;
                self.shut_until = None;
            }
            match self.listener.accept().await {
                Ok(connection) => {
                    self.pause = Duration::ZERO;
                    return connection;
                }
                Err(error) if is_of_one_peer(&error) => debug!(%error, "a peer left at once"),
                Err(error) => {
                    self.pause = (self.pause * 2).clamp(Self::MIN_PAUSE, Self::MAX_PAUSE);
                    self.shut_until = Some(Instant::now() + self.pause);
                    warn!(%error, pause = ?self.pause, "cannot accept connections");
                }
            }
        }
    }
}

/// Whether `accept` failed because of the connection that it would have returned; `man 2 accept`
/// asks to try again then.
fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
