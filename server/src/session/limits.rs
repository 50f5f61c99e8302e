//! What one peer can cost, and all of them together.

use std::time::Duration;

use metrics_client::codec::ServerCodec;

/// Bounds on what peers can cost a [`Server`](crate::Server).
///
/// A connection that waits for its peer's next request holds the beginning of a line, and buffers of at
/// most 8 KiB; one that is busy holds at most 64 KiB of requests, what is made of them for the store, and
/// [`max_unsent_bytes`](Self::max_unsent_bytes) of answers. With the defaults, and
/// without TLS, all connections together cost the process less than 768 MiB, besides what the store
/// holds (`cargo bench --bench bench -- overload`, 10,000 hostile peers, two threads). Up to a third of that is free
/// memory which glibc's allocator keeps for each thread; with `MALLOC_ARENA_MAX=1` in the environment
/// it keeps it for all. Buffers of the kernel's sockets come on top; on Linux `net.ipv4.tcp_mem` bounds
/// them.
///
/// Addresses share the processor as equals, and so do the connections of one address: a peer's turn
/// comes when it has moved fewer bytes than the others who wait, so one that asks for little is not
/// kept waiting by thousands that send without a pause: under each of the attacks of that bench an honest
/// client that puts one point after the other keeps a tenth of its rate or more.
///
/// What a limit cannot be is taken for the nearest that it can be. Zero never means "without a limit"; the rule is
/// that of [`ClientBuilder`](metrics_client::ClientBuilder#limits-and-zero).
///
/// ```
/// use std::time::Duration;
/// use metrics_server::Limits;
///
/// let limits = Limits::default().max_connections(100).idle_time(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_connections_per_address: usize,
    pub(super) max_line_bytes: usize,
    pub(super) max_unsent_bytes: usize,
    pub(super) max_total_unsent_bytes: usize,
    pub(super) idle_time: Duration,
    pub(super) line_time: Duration,
    pub(super) write_time: Duration,
    pub(super) store_time: Duration,
    pub(super) grace_time: Duration,
}

impl Limits {
    /// The most connections at once, from 1: 10,000, as for Redis (`maxclients`).
    ///
    /// Another is accepted and closed at once, without a word: whoever meets a closed connection
    /// tries again later, while an `error` would be taken for the answer to a request. Each
    /// connection takes a file descriptor; where the process may open fewer, this limit is lowered when the
    /// server [begins](crate::Server::serve_until). Where others have taken the descriptors later, new
    /// connections wait until there is room.
    #[must_use]
    pub fn max_connections(self, max_connections: usize) -> Self {
        Self { max_connections: max_connections.max(1), ..self }
    }

    /// The most connections from one IPv4 address, or from one IPv6 network (the first 64 bits of
    /// the address), from 1: 5,000, so that no single one can take all places.
    ///
    /// One more is closed at once, like one too many of [all](Self::max_connections). Raise it
    /// where many peers come through one address: a proxy, a NAT.
    #[must_use]
    pub fn max_connections_per_address(self, max_connections_per_address: usize) -> Self {
        Self { max_connections_per_address: max_connections_per_address.max(1), ..self }
    }

    /// The longest line, in bytes with its line break, from the 6 of the shortest request:
    /// [`ServerCodec::DEFAULT_MAX_LINE_BYTES`].
    ///
    /// A longer one is answered with `wrong command`, and its connection closed; of what the peer
    /// still sends, up to 128 MiB are passed over so that it can read the answer. While a line comes,
    /// it takes up to twice its length in memory.
    #[must_use]
    pub fn max_line_bytes(self, max_line_bytes: usize) -> Self {
        Self { max_line_bytes: max_line_bytes.max(LEAST_LINE_BYTES), ..self }
    }

    /// How many bytes of answers may wait for a peer to take them before the server reads no more
    /// of its requests, from 1: 128 KiB, enough for the answers to 32,000 puts.
    ///
    /// Large answers are made and sent in pieces of this size. From 32 KiB to 512 KiB no difference
    /// in the speed of a large `get` could be measured.
    #[must_use]
    pub fn max_unsent_bytes(self, max_unsent_bytes: usize) -> Self {
        // With no room for answers no request would ever be read.
        Self { max_unsent_bytes: max_unsent_bytes.max(1), ..self }
    }

    /// How many bytes may be held, over all connections, for peers that do not take their answers:
    /// 256 MiB, enough for a thousand such peers.
    ///
    /// They hold their answers, and the requests behind these; over TLS, 128 KiB more are counted for
    /// each, as much as rustls holds. Where they hold more, the peer that
    /// has left an answer unread longest is cut off, and the next, until they do not: a peer that
    /// reads nothing before one that reads slowly.
    #[must_use]
    pub fn max_total_unsent_bytes(self, max_total_unsent_bytes: usize) -> Self {
        Self { max_total_unsent_bytes, ..self }
    }

    /// How long a connection may be without a request: 10 minutes, twice the longest interval at
    /// which agents usually report. A blank line is not a request.
    #[must_use]
    pub fn idle_time(self, idle_time: Duration) -> Self {
        Self { idle_time: idle_time.max(SHORTEST), ..self }
    }

    /// How long a peer may take over one line, from its first byte to its line break: 30 s.
    ///
    /// A line fits one Ethernet segment, so this allows for the loss of some, and ends a peer that
    /// holds its connection by sending a byte now and then. It is the time for a TLS handshake too,
    /// whose connection counts as one from the beginning.
    #[must_use]
    pub fn line_time(self, line_time: Duration) -> Self {
        Self { line_time: line_time.max(SHORTEST), ..self }
    }

    /// How long a peer may leave an answer unread once there is no more room for it on the way:
    /// 30 s.
    ///
    /// It is the time for all that waited when the time began, so a peer has to take
    /// [`max_unsent_bytes`](Self::max_unsent_bytes) in it, 4 KiB a second.
    #[must_use]
    pub fn write_time(self, write_time: Duration) -> Self {
        Self { write_time: write_time.max(SHORTEST), ..self }
    }

    /// Sets how long the [`Store`](crate::Store) may take over one batch of puts, or over the next
    /// block of an answer: 30 s, longer than a client waits for an answer by default.
    ///
    /// A store that takes longer has failed in a way that [passes](crate::store::StoreError::transient):
    /// its future is dropped, and the connection ends without an answer. While the store works on a
    /// request, the server does not see that the peer has gone; this is how long such a connection may
    /// stay.
    #[must_use]
    pub fn store_time(self, store_time: Duration) -> Self {
        Self { store_time: store_time.max(SHORTEST), ..self }
    }

    /// How long connections may go on when the server stops, from no time at all: 5 s, half of what
    /// Docker gives a container.
    #[must_use]
    pub fn grace_time(self, grace_time: Duration) -> Self {
        Self { grace_time, ..self }
    }
}

/// The length of `get k` with its line break.
const LEAST_LINE_BYTES: usize = 6;

/// The least that a time limit can be: the timers of Tokio count milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_line_bytes: ServerCodec::DEFAULT_MAX_LINE_BYTES,
            max_unsent_bytes: 128 * 1024,
            max_total_unsent_bytes: 256 * 1024 * 1024,
            idle_time: Duration::from_secs(10 * 60),
            line_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            store_time: Duration::from_secs(30),
            grace_time: Duration::from_secs(5),
        }
    }
}
