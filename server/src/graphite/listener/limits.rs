//! [`GraphiteLimits`]: what the peers of a Graphite listener can use.

use std::time::Duration;

/// Limits on what the peers of a [`GraphiteListener`](super::GraphiteListener) can use.
///
/// A value out of range is replaced by the nearest valid value. A connection holds at most 64 KiB of lines and the
/// points made of them.
///
/// ```
/// use metrics_server::graphite::GraphiteLimits;
///
/// let limits = GraphiteLimits::default().max_connections(100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphiteLimits {
    pub(super) max_connections: usize,
    pub(super) max_connections_per_address: usize,
    pub(super) max_line_bytes: usize,
    pub(super) idle_timeout: Duration,
    pub(super) store_timeout: Duration,
    pub(super) shutdown_grace: Duration,
}

impl GraphiteLimits {
    /// Sets the maximum number of open connections, at least 1. Default: 10,000. One over the limit is accepted and
    /// closed at once.
    #[must_use]
    pub fn max_connections(self, max_connections: usize) -> Self {
        Self { max_connections: max_connections.max(1), ..self }
    }

    /// Sets the maximum number of connections from one IPv4 address, or from one IPv6 network (the first 64 bits of
    /// the address), at least 1. Default: 5,000.
    #[must_use]
    pub fn max_connections_per_address(self, max_connections_per_address: usize) -> Self {
        Self { max_connections_per_address: max_connections_per_address.max(1), ..self }
    }

    /// Sets the maximum length of a line in bytes, its line break included, at least 6. Default: 2 KiB: the longest
    /// key has 1 KiB. A longer line is skipped and counted.
    #[must_use]
    pub fn max_line_bytes(self, max_line_bytes: usize) -> Self {
        Self { max_line_bytes: max_line_bytes.max(6), ..self }
    }

    /// Sets how long a connection may be silent, at least 1 ms. Default: 1 hour. No answer tells a peer that its
    /// connection is gone, so it loses what it sends next.
    #[must_use]
    pub fn idle_timeout(self, idle_timeout: Duration) -> Self {
        Self { idle_timeout: idle_timeout.max(Duration::from_millis(1)), ..self }
    }

    /// Sets how long the store may take for one batch, at least 1 ms. Default: 30 s. A slower store counts as
    /// transiently failed.
    #[must_use]
    pub fn store_timeout(self, store_timeout: Duration) -> Self {
        Self { store_timeout: store_timeout.max(Duration::from_millis(1)), ..self }
    }

    /// Sets how long connections may take to end when the listener shuts down; zero is allowed. Default: 5 s.
    #[must_use]
    pub fn shutdown_grace(self, shutdown_grace: Duration) -> Self {
        Self { shutdown_grace, ..self }
    }
}

impl Default for GraphiteLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_line_bytes: 2 * 1024,
            idle_timeout: Duration::from_secs(60 * 60),
            store_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
