//! Limits on what one peer, and all peers together, can cost the server.

use std::time::Duration;

use metrics_client::codec::ServerCodec;

/// Limits on the resources that peers of a [`Server`](crate::Server) can use.
///
/// # Memory
///
/// A connection without a request holds the beginning of a line and buffers of at most 8 KiB. A busy
/// connection holds at most 64 KiB of requests, the batch made of them, and
/// [`max_unsent_bytes`](Self::max_unsent_bytes) of answers. While sessions wait for the store with batches of more than
/// 4 MiB together, each further one holds some 20 KiB: 8 KiB of requests, and a batch of 256 puts. With the defaults and without TLS, all
/// connections together use less than 768 MiB, plus the memory of the store (`cargo bench --bench bench -- overload`,
/// 10,000 hostile peers, two threads). Up to a third of that is free memory that glibc's allocator keeps
/// for each thread; with `MALLOC_ARENA_MAX=1` in the environment it keeps one pool for all threads. Socket
/// buffers of the kernel are not included; on Linux `net.ipv4.tcp_mem` bounds them.
///
/// # Fairness
///
/// All addresses have equal shares of the processor, and so have the connections of one address: the
/// session that has moved the fewest bytes is scheduled first. A store on disk divides its time between addresses in the
/// same way, see [`PutBatch::from_source`](crate::store::PutBatch::from_source). A peer with few requests does not wait for
/// thousands of peers that send without a pause: under each attack of that bench, a client that puts
/// one point at a time keeps at least a tenth of its rate.
///
/// # Values out of range
///
/// A value out of range is replaced by the nearest valid value. Zero never means "no limit"; the rule is
/// the one of [`ClientBuilder`](metrics_client::ClientBuilder#limits-and-zero).
///
/// ```
/// use std::time::Duration;
/// use metrics_server::Limits;
///
/// let limits = Limits::default().max_connections(100).idle_timeout(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_connections_per_address: usize,
    pub(super) max_line_bytes: usize,
    pub(super) max_unsent_bytes: usize,
    pub(super) max_total_unsent_bytes: usize,
    pub(super) idle_timeout: Duration,
    pub(super) line_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) store_timeout: Duration,
    pub(super) shutdown_grace: Duration,
}

impl Limits {
    /// Sets the maximum number of open connections, at least 1. Default: 10,000, as in Redis
    /// (`maxclients`).
    ///
    /// A connection over the limit is accepted and closed at once, without an answer: a client retries
    /// after a closed connection, and would take an `error` for the answer to its request. Each connection
    /// takes a file descriptor. If the process may open fewer, this limit is lowered when the server
    /// [starts](crate::Server::serve_until). If descriptors run out later, new connections wait in the
    /// kernel's queue.
    #[must_use]
    pub fn max_connections(self, max_connections: usize) -> Self {
        Self { max_connections: max_connections.max(1), ..self }
    }

    /// Sets the maximum number of connections from one IPv4 address, or from one IPv6 network (the first
    /// 64 bits of the address), at least 1. Default: 5,000, so that one address cannot use all connections.
    ///
    /// A connection over the limit is closed at once, as for [`max_connections`](Self::max_connections).
    /// Raise it for many peers behind one address: a proxy, a NAT.
    #[must_use]
    pub fn max_connections_per_address(self, max_connections_per_address: usize) -> Self {
        Self { max_connections_per_address: max_connections_per_address.max(1), ..self }
    }

    /// Sets the maximum length of a line in bytes, its line break included, at least 6 (the shortest
    /// request). Default: [`ServerCodec::DEFAULT_MAX_LINE_BYTES`].
    ///
    /// A longer line is answered with `wrong command`, and its connection is closed; up to 128 MiB of
    /// further input are discarded, so that the peer can read the answer. An incomplete line takes up to
    /// twice its length in memory.
    #[must_use]
    pub fn max_line_bytes(self, max_line_bytes: usize) -> Self {
        Self { max_line_bytes: max_line_bytes.max(MIN_LINE_BYTES), ..self }
    }

    /// Sets how many bytes of unsent answers a connection may have before the server stops reading its
    /// requests, at least 1. Default: 128 KiB, the answers to 32,000 puts.
    ///
    /// Large answers are encoded and sent in pieces of this size. Between 32 KiB and 512 KiB no difference
    /// in the speed of a large `get` was measured.
    #[must_use]
    pub fn max_unsent_bytes(self, max_unsent_bytes: usize) -> Self {
        // With zero no request would ever be read.
        Self { max_unsent_bytes: max_unsent_bytes.max(1), ..self }
    }

    /// Sets how many bytes all connections together may hold for peers that do not read their answers.
    /// Default: 256 MiB, enough for a thousand such peers.
    ///
    /// Unread answers and the requests behind them count; over TLS, so do 128 KiB for each connection, the
    /// memory of rustls. While the sum exceeds the limit, the connection with the oldest unread answer is
    /// closed: a peer that reads nothing before one that reads slowly.
    #[must_use]
    pub fn max_total_unsent_bytes(self, max_total_unsent_bytes: usize) -> Self {
        Self { max_total_unsent_bytes, ..self }
    }

    /// Sets how long a connection may stay open without a request, at least 1 ms. Default: 10 minutes, twice
    /// the longest usual reporting interval of agents. A blank line is not a request.
    #[must_use]
    pub fn idle_timeout(self, idle_timeout: Duration) -> Self {
        Self { idle_timeout: idle_timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long one line may take, from its first byte to its line break, at least 1 ms. Default: 30 s.
    ///
    /// A line fits into one Ethernet frame, so this allows for lost packets, and it disconnects a peer that
    /// sends a byte from time to time. It also limits a TLS handshake.
    #[must_use]
    pub fn line_timeout(self, line_timeout: Duration) -> Self {
        Self { line_timeout: line_timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long a peer may leave answers unread once the socket buffers are full, at least 1 ms.
    /// Default: 30 s.
    ///
    /// The time applies to all answers that are unsent when it starts, so a peer has to read
    /// [`max_unsent_bytes`](Self::max_unsent_bytes) in it: about 4 KiB/s with the defaults.
    #[must_use]
    pub fn write_timeout(self, write_timeout: Duration) -> Self {
        Self { write_timeout: write_timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long the [`Store`](crate::Store) may take for one batch of puts, or for the next block of an
    /// answer, at least 1 ms. Default: 30 s, longer than a client waits for an answer by default.
    ///
    /// A slower store counts as [transiently failed](crate::store::StoreError::transient): its future is
    /// dropped, and the connection ends without an answer. While the store works on a request, the server
    /// does not notice that the peer has disconnected; this limits how long such a connection stays open.
    #[must_use]
    pub fn store_timeout(self, store_timeout: Duration) -> Self {
        Self { store_timeout: store_timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long connections may take to end when the server shuts down; zero is allowed.
    /// Default: 5 s, half of the time that Docker gives a container.
    #[must_use]
    pub fn shutdown_grace(self, shutdown_grace: Duration) -> Self {
        Self { shutdown_grace, ..self }
    }
}

/// The length of `get k` with its line break.
const MIN_LINE_BYTES: usize = 6;

/// The shortest timeout: Tokio's timers count milliseconds.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_line_bytes: ServerCodec::DEFAULT_MAX_LINE_BYTES,
            max_unsent_bytes: 128 * 1024,
            max_total_unsent_bytes: 256 * 1024 * 1024,
            idle_timeout: Duration::from_secs(10 * 60),
            line_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            store_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
