//! Limits of the HTTP listener.

use std::time::Duration;

/// Limits on what HTTP clients can use.
///
/// A value out of range is replaced by the nearest valid value; zero never means "no limit".
///
/// ```
/// use metrics_server::http::HttpLimits;
///
/// let limits = HttpLimits::default().max_connections(100).max_body_bytes(1024 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    pub(super) max_connections: usize,
    pub(super) max_connections_per_address: usize,
    pub(super) header_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(crate) store_timeout: Duration,
    pub(super) shutdown_grace: Duration,
    pub(super) max_body_bytes: usize,
    pub(super) max_total_body_bytes: usize,
    pub(super) max_keys: usize,
    pub(super) max_points: usize,
    pub(super) max_reads: usize,
    pub(super) max_live_streams: usize,
    pub(super) max_live_keys: usize,
}

impl HttpLimits {
    /// Sets the maximum number of open connections, at least 1; those that watch live values count. Default: 2,000.
    ///
    /// A connection over the limit is answered with 503, or just closed if there are many of them or if it uses TLS.
    #[must_use]
    pub fn max_connections(self, max_connections: usize) -> Self {
        Self { max_connections: max_connections.max(1), ..self }
    }

    /// Sets the maximum number of connections from one IPv4 address, or from one IPv6 network (64 bits), at least 1.
    /// Default: 1,000.
    #[must_use]
    pub fn max_connections_per_address(self, max_connections: usize) -> Self {
        Self { max_connections_per_address: max_connections.max(1), ..self }
    }

    /// Sets how long a client may take to send the head of a request, the time between two requests of a
    /// connection included, at least 1 ms. Default: 60 s.
    #[must_use]
    pub fn header_timeout(self, timeout: Duration) -> Self {
        Self { header_timeout: timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long a client may take to send the body of a request, at least 1 ms. Default: 30 s.
    #[must_use]
    pub fn body_timeout(self, timeout: Duration) -> Self {
        Self { body_timeout: timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long writing may wait until a client has read 64 KiB of an answer, at least 1 ms. Default: 30 s. A
    /// slower client is disconnected.
    #[must_use]
    pub fn write_timeout(self, timeout: Duration) -> Self {
        Self { write_timeout: timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long the store may take for a write, or for the next part of an answer, at least 1 ms.
    /// Default: 30 s. A slower one counts as failed: the answer is 503.
    #[must_use]
    pub fn store_timeout(self, timeout: Duration) -> Self {
        Self { store_timeout: timeout.max(MIN_TIMEOUT), ..self }
    }

    /// Sets how long requests may take to end when the server shuts down; zero is allowed. Default: 5 s.
    #[must_use]
    pub fn shutdown_grace(self, grace: Duration) -> Self {
        Self { shutdown_grace: grace, ..self }
    }

    /// Sets how long the body of a write may be, compressed and uncompressed, in bytes, at least 1 KiB.
    /// Default: 25,000,000, as in InfluxDB (`max-body-size`). A longer one is answered with 413.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        Self { max_body_bytes: bytes.clamp(1024, MAX_BODY_BYTES), ..self }
    }

    /// Sets how much memory the bodies of all requests together may take, in bytes. Default: 256 MiB. A request
    /// above it is answered with 503. It is at least [`max_body_bytes`](Self::max_body_bytes).
    #[must_use]
    pub fn max_total_body_bytes(self, bytes: usize) -> Self {
        Self { max_total_body_bytes: bytes.min(MAX_BODY_BYTES), ..self }
    }

    /// Sets how many keys an answer may have, at least 1. Default: 10,000.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        Self { max_keys: keys.max(1), ..self }
    }

    /// Sets how many points an answer may have, at least 1. Default: 20,000,000. Points that are merged, because
    /// fewer were asked for, count once.
    #[must_use]
    pub fn max_points(self, points: usize) -> Self {
        Self { max_points: points.max(1), ..self }
    }

    /// Sets how many requests may read keys from the store concurrently, at least 1. Default: 64. Others wait for at
    /// most [`store_timeout`](Self::store_timeout), and are then answered with 503: each may hold all keys.
    #[must_use]
    pub fn max_reads(self, reads: usize) -> Self {
        Self { max_reads: reads.clamp(1, MAX_PERMITS), ..self }
    }

    /// Sets how many streams of live points there may be, at least 1. Default: 1,000. One more is answered with 503,
    /// so that the other connections are left for requests.
    #[must_use]
    pub fn max_live_streams(self, streams: usize) -> Self {
        Self { max_live_streams: streams.clamp(1, MAX_PERMITS), ..self }
    }

    /// Sets how many keys a stream of live points may have, at least 1. Default: 1,000. If a pattern matches more, the
    /// stream says so with an event `limited`.
    #[must_use]
    pub fn max_live_keys(self, keys: usize) -> Self {
        Self { max_live_keys: keys.max(1), ..self }
    }

    /// Returns the budget of all bodies, at least that of one.
    #[cfg(any(feature = "graphite", feature = "influx"))]
    pub(super) fn total_body_bytes(&self) -> usize {
        self.max_total_body_bytes.max(self.max_body_bytes)
    }
}

/// The shortest timeout: Tokio's timers count milliseconds.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// What a semaphore can count, one permit for a byte, on every platform.
const MAX_BODY_BYTES: usize = 512 * 1024 * 1024 - 1;

/// What a semaphore can count at least, on every platform.
const MAX_PERMITS: usize = u32::MAX as usize >> 3;

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 2_000,
            max_connections_per_address: 1_000,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            store_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            max_body_bytes: 25_000_000,
            max_total_body_bytes: 256 * 1024 * 1024,
            max_keys: 10_000,
            max_points: 20_000_000,
            max_reads: 64,
            max_live_streams: 1_000,
            max_live_keys: 1_000,
        }
    }
}
