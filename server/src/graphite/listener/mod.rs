//! [`GraphiteListener`]: takes Graphite's plaintext protocol over TCP and UDP.

use std::{
    future::{Future, pending},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use metrics_client::{codec::Escaped, internal::log_limit, unix_seconds};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{ToSocketAddrs, UdpSocket},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use crate::{
    net::{Acceptor, Listeners, PerSourceLimit, listen, source_of},
    store::{MemoryStore, PutBatch, Store, StoreError},
};

mod limits;
mod line;
mod stats;

pub use limits::GraphiteLimits;
#[doc(hidden)]
pub use line::fuzz as fuzz_line;
pub use stats::{GraphiteStats, GraphiteStatsHandle};

use line::{InvalidLine, LineKind, parse_line};
use stats::{GraphiteCounters, GraphiteLog};

/// A listener for Graphite's plaintext protocol, over TCP and UDP, which stores what it receives.
///
/// A line is `path value timestamp`. The timestamps `-1` and `N` mean the current second, and others are rounded down
/// to seconds; the tags of a path (`cpu;host=palm`) are sorted. A line whose value is `nan` is skipped and
/// counted, and so is an invalid one. Nothing is ever answered.
///
/// While the store fails [transiently](StoreError::transient), a TCP connection is not read: its peer waits, and
/// nothing is lost. What arrives over UDP in the meantime is dropped and counted.
///
/// ```
/// use std::sync::Arc;
///
/// use metrics_server::{MemoryStore, Store, graphite::GraphiteListener, store::Snapshot};
/// use metrics_client::Selector;
/// use tokio::{io::AsyncWriteExt, net::TcpStream, sync::oneshot};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let store = Arc::new(MemoryStore::new());
/// let listener = GraphiteListener::bind("127.0.0.1:0").await?.store(Arc::clone(&store));
/// let addr = listener.local_addr();
/// let (stop, stopped) = oneshot::channel::<()>();
/// let serving = tokio::spawn(listener.serve_until(async { _ = stopped.await }));
///
/// let mut peer = TcpStream::connect(addr).await?;
/// peer.write_all(b"palm.cpu 23.7 1150864247\n").await?;
/// drop(peer);
/// while store.get(&Selector::All).await?.into_metrics().await?.is_empty() {
///     tokio::task::yield_now().await;
/// }
/// drop(stop);
/// serving.await?;
/// # Ok(()) }
/// ```
pub struct GraphiteListener<S = MemoryStore> {
    listeners: Listeners,
    sockets: Vec<UdpSocket>,
    local_addrs: Vec<SocketAddr>,
    store: S,
    limits: GraphiteLimits,
    counters: Arc<GraphiteCounters>,
}

impl GraphiteListener {
    /// Listens on every address that `addr` resolves to, on the same port over TCP and UDP, with an empty
    /// [`MemoryStore`]. Port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// If `addr` cannot be resolved, or if an address is in use or forbidden.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let addrs: Vec<_> = tokio::net::lookup_host(addr).await?.collect();
        let mut attempts = 0;
        loop {
            let listeners = listen(&addrs[..]).await?;
            let local_addrs = listeners.iter().map(tokio::net::TcpListener::local_addr);
            let local_addrs = local_addrs.collect::<io::Result<Vec<_>>>()?;
            match bind_all(&local_addrs).await {
                // The port that was free over TCP is in use over UDP.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && attempts < MAX_PORT_ATTEMPTS
                        && addrs.iter().all(|addr| addr.port() == 0) =>
                {
                    attempts += 1;
                }
                sockets => {
                    return Ok(Self {
                        listeners: Listeners::new(listeners),
                        sockets: sockets?,
                        local_addrs,
                        store: MemoryStore::new(),
                        limits: GraphiteLimits::default(),
                        counters: Arc::default(),
                    });
                }
            }
        }
    }
}

/// How often another free port is tried.
const MAX_PORT_ATTEMPTS: u32 = 16;

async fn bind_all(addrs: &[SocketAddr]) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::with_capacity(addrs.len());
    for addr in addrs {
        sockets.push(UdpSocket::bind(addr).await?);
    }
    Ok(sockets)
}

impl<S: Store> GraphiteListener<S> {
    /// Sets the store. Default: an empty [`MemoryStore`].
    #[must_use]
    pub fn store<T: Store>(self, store: T) -> GraphiteListener<T> {
        let Self { listeners, sockets, local_addrs, limits, counters, .. } = self;
        GraphiteListener { listeners, sockets, local_addrs, store, limits, counters }
    }

    /// Sets the limits on what peers can use.
    #[must_use]
    pub fn limits(self, limits: GraphiteLimits) -> Self {
        Self { limits, ..self }
    }

    /// Returns the first address, with its port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addrs[0]
    }

    /// Returns all addresses.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Returns a handle that reads the statistics while the listener serves.
    #[must_use]
    pub fn stats_handle(&self) -> GraphiteStatsHandle {
        GraphiteStatsHandle(Arc::clone(&self.counters))
    }

    /// Serves until the future is dropped.
    pub async fn serve(self) {
        self.serve_until(pending()).await;
    }

    /// Serves until `shutdown` completes, then stores what has arrived, within
    /// [`shutdown_grace`](GraphiteLimits::shutdown_grace).
    pub async fn serve_until(self, shutdown: impl Future<Output = ()>) {
        let Self { listeners, sockets, local_addrs, store, limits, counters } = self;
        info!(addrs = ?local_addrs, "listening for Graphite's plaintext protocol");
        let log = GraphiteLog::default();
        let shared = Arc::new(ListenerShared { store, limits, counters, log });
        let tasks = TaskTracker::new();
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        // No task outlives this future.
        let _abort_on_drop = abort.clone().drop_guard();
        for socket in sockets {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let serve = async move { serve_datagrams(&socket, &shared, &stop).await };
            tasks.spawn(abort.child_token().run_until_cancelled_owned(serve));
        }
        let per_address = PerSourceLimit::new(limits.max_connections_per_address);
        let datagram_tasks = tasks.len();
        let mut acceptor = Acceptor::new(listeners, Arc::clone(&shared.log.accept_failing));
        let mut log_timer = interval(log_limit::WINDOW);
        log_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let (io, peer) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = log_timer.tick() => {
                    shared.log.log_suppressed();
                    continue;
                }
                connection = acceptor.next() => connection,
            };
            let connections = tasks.len().saturating_sub(datagram_tasks);
            let permit = if connections >= limits.max_connections {
                Err("max_connections")
            } else {
                per_address.try_acquire(peer.ip()).ok_or("max_connections_per_address")
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(limit) => {
                    shared.counters.rejected_connections.add(1);
                    if shared.log.rejected_connections.should_log() {
                        warn!(%peer, connections, limit, "connection rejected: limit reached");
                    }
                    continue;
                }
            };
            shared.counters.accepted.add(1);
            let (shared, stop) = (Arc::clone(&shared), stop.child_token());
            let serve = async move {
                let _permit = permit;
                let _ended = ConnectionGuard(Arc::clone(&shared.counters));
                serve_connection(io, peer, &shared, &stop).await;
            };
            tasks.spawn(abort.child_token().run_until_cancelled_owned(serve));
        }
        // From now on the kernel refuses new connections.
        drop(acceptor);
        stop.cancel();
        tasks.close();
        let grace = limits.shutdown_grace;
        if timeout(grace, tasks.wait()).await.is_err() {
            warn!(connections = tasks.len(), ?grace, "aborting connections after grace period");
            abort.cancel();
        }
        shared.log.log_suppressed();
    }
}

/// Counts a connection as ended when it is dropped, also by a panic.
struct ConnectionGuard(Arc<GraphiteCounters>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.ended.add(1);
    }
}

struct ListenerShared<S> {
    store: S,
    limits: GraphiteLimits,
    counters: Arc<GraphiteCounters>,
    log: GraphiteLog,
}

/// Reads lines from a connection until it ends, or until `stop` and nothing more has arrived.
async fn serve_connection<S: Store>(
    mut io: impl AsyncRead + Unpin,
    peer: SocketAddr,
    shared: &ListenerShared<S>,
    stop: &CancellationToken,
) {
    let mut lines = IncomingLines::new(shared, peer);
    lines.puts = PutBatch::from_source(source_of(peer.ip()));
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() - buffer.len() < MIN_READ_BYTES {
            buffer.reserve(READ_BYTES);
        }
        let read = tokio::select! {
            biased;
            read = timeout(shared.limits.idle_timeout, io.read_buf(&mut buffer)) => read,
            // What has arrived is read first.
            () = stop.cancelled() => return,
        };
        match read {
            Ok(Ok(0)) => {
                // A peer that sends one line may leave out the line break.
                lines.take_last(&buffer);
                lines.store().await;
                return;
            }
            Ok(Ok(_)) => {
                let taken = lines.take_complete(&buffer);
                buffer.advance(taken);
                lines.store().await;
                if buffer.is_empty() && buffer.capacity() > READ_BYTES {
                    buffer = BytesMut::new();
                }
            }
            Ok(Err(error)) => {
                debug!(%peer, %error, "connection failed");
                return;
            }
            Err(_) => {
                debug!(%peer, "closing connection: idle");
                return;
            }
        }
    }
}

/// How much is read at once: some hundred lines.
const READ_BYTES: usize = 64 * 1024;
const MIN_READ_BYTES: usize = 4 * 1024;

/// Reads datagrams until `stop`.
async fn serve_datagrams<S: Store>(
    socket: &UdpSocket,
    shared: &ListenerShared<S>,
    stop: &CancellationToken,
) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    // Of many peers, whose addresses may be forged: all of them are one source.
    let mut puts = PutBatch::new();
    loop {
        let received = tokio::select! {
            biased;
            received = socket.recv_from(&mut buffer) => Some(received),
            () = stop.cancelled() => None,
        };
        let Some(mut received) = received else { return };
        // What has arrived in the meantime is stored in the same batch.
        loop {
            match received {
                Ok((len, peer)) => {
                    shared.counters.datagrams.add(1);
                    let mut lines = IncomingLines::new(shared, peer);
                    std::mem::swap(&mut lines.puts, &mut puts);
                    let taken = lines.take_complete(&buffer[..len]);
                    lines.take_last(&buffer[taken..len]);
                    std::mem::swap(&mut lines.puts, &mut puts);
                }
                Err(error) => {
                    // Such as a late ICMP message about another host.
                    debug!(%error, "receiving a datagram failed");
                    tokio::task::yield_now().await;
                    break;
                }
            }
            if puts.len() >= MAX_DATAGRAM_PUTS {
                break;
            }
            match socket.recv_from(&mut buffer).now_or_never() {
                Some(next) => received = next,
                None => break,
            }
        }
        if !puts.is_empty() {
            let result = shared.apply(&puts).await;
            if let Err(error) = shared.count(&puts, result) {
                shared.counters.dropped.add(puts.len());
                debug!(%error, points = puts.len(), "store failed; points dropped");
            }
            puts.clear();
        }
    }
}

/// The longest datagram of UDP over IPv4, which is longer than any line that is accepted.
const MAX_DATAGRAM_BYTES: usize = 64 * 1024;

/// How many points of datagrams are stored at once.
const MAX_DATAGRAM_PUTS: usize = 4_096;

/// The lines of a peer, and the points of those that are not stored yet.
struct IncomingLines<'a, S> {
    shared: &'a ListenerShared<S>,
    peer: SocketAddr,
    puts: PutBatch,
    /// The rest of a line that is too long is discarded.
    is_discarding: bool,
    now: i64,
}

impl<'a, S: Store> IncomingLines<'a, S> {
    fn new(shared: &'a ListenerShared<S>, peer: SocketAddr) -> Self {
        Self { shared, peer, puts: PutBatch::new(), is_discarding: false, now: 0 }
    }

    /// Parses the complete lines of `bytes`. Returns how many bytes are done with.
    fn take_complete(&mut self, bytes: &[u8]) -> usize {
        self.now = unix_seconds(SystemTime::now());
        let max = self.shared.limits.max_line_bytes;
        let mut taken = 0;
        while let Some(len) = memchr::memchr(b'\n', &bytes[taken..]) {
            let line = &bytes[taken..taken + len];
            taken += len + 1;
            if std::mem::take(&mut self.is_discarding) {
                continue;
            }
            if len >= max {
                self.reject(line, InvalidLine::TooLong);
            } else {
                self.take(line);
            }
        }
        let rest = &bytes[taken..];
        if self.is_discarding || rest.len() >= max {
            if !std::mem::replace(&mut self.is_discarding, true) {
                self.reject(rest, InvalidLine::TooLong);
            }
            taken = bytes.len();
        }
        taken
    }

    /// Parses a last line, which has no line break.
    fn take_last(&mut self, line: &[u8]) {
        if !self.is_discarding {
            self.take(line);
        }
        self.is_discarding = false;
    }

    fn take(&mut self, line: &[u8]) {
        match parse_line(line, self.now, &mut self.puts) {
            Ok(LineKind::Point | LineKind::Blank) => {}
            Ok(LineKind::Nan) => self.shared.counters.nan_values.add(1),
            Err(reason) => self.reject(line, reason),
        }
    }

    #[cold]
    fn reject(&self, line: &[u8], reason: InvalidLine) {
        self.shared.counters.invalid_lines.add(1);
        if self.shared.log.invalid_lines.should_log() {
            let excerpt = String::from_utf8_lossy(&line[..line.len().min(MAX_EXCERPT_BYTES)]);
            info!(peer = %self.peer, line = %Escaped(&excerpt), %reason, "invalid line skipped");
        }
    }

    /// Stores the points, however long that takes.
    async fn store(&mut self) {
        if self.puts.is_empty() {
            return;
        }
        let mut pause = MIN_PAUSE;
        loop {
            let result = self.shared.apply(&self.puts).await;
            if self.shared.count(&self.puts, result).is_ok() {
                break;
            }
            self.shared.counters.retries.add(1);
            // Spread over time, so that many connections do not retry at the same moment.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        self.puts.clear();
        self.puts.release();
    }
}

impl<S> Drop for IncomingLines<'_, S> {
    /// Counts what is lost when a connection is aborted while the store fails.
    fn drop(&mut self) {
        if !self.puts.is_empty() {
            self.shared.counters.dropped.add(self.puts.len());
            if self.shared.log.aborted_connections.should_log() {
                let points = self.puts.len();
                error!(peer = %self.peer, points, "connection aborted; points dropped");
            }
        }
    }
}

/// How much of an invalid line is logged.
const MAX_EXCERPT_BYTES: usize = 100;

/// How long a connection pauses before it retries what the store could not take.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl<S: Store> ListenerShared<S> {
    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        match timeout(self.limits.store_timeout, self.store.apply(puts)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::transient("store timeout")),
        }
    }

    /// Counts the outcome of each put. Returns an error if the batch has to be applied again.
    fn count(&self, puts: &PutBatch, result: Result<(), StoreError>) -> Result<(), StoreError> {
        let Err(error) = result else {
            self.counters.puts.add(puts.len());
            self.log.on_success();
            return Ok(());
        };
        let mut errors = (0..puts.len()).filter_map(|index| error.of_put(index));
        if errors.clone().any(StoreError::is_transient) {
            self.log.on_failure(&error);
            return Err(error);
        }
        let rejected = errors.clone().count();
        self.counters.puts.add(puts.len() - rejected);
        self.counters.rejected_puts.add(rejected);
        if let Some(first) = errors.next()
            && self.log.rejected_puts.should_log()
        {
            let message = first.to_string();
            warn!(error = %Escaped(&message), points = rejected, "store rejected points");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
