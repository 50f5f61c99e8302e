//! Statistics of a server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counters of a [`Server`](crate::Server) at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Open connections.
    pub connections: u64,
    /// Connections that were accepted, the open ones included.
    pub accepted: u64,
    /// Connections that were closed at once because a limit was reached.
    pub rejected_connections: u64,
    /// Puts that were stored.
    pub puts: u64,
    /// Gets that were received.
    pub gets: u64,
    /// Lines that were answered with `wrong command`.
    pub invalid_requests: u64,
    /// Puts and gets that failed in the store. They were answered with an error, or not at all if the
    /// error is [transient](crate::store::StoreError::is_transient).
    pub failed: u64,
    /// Last lines of connections without a line break. They are not carried out, since they may be
    /// incomplete.
    pub incomplete_lines: u64,
    /// TLS handshakes that failed or timed out.
    pub failed_handshakes: u64,
}

/// Reads the [`ServerStats`] of a server while it serves; returned by
/// [`Server::stats_handle`](crate::Server::stats_handle).
#[derive(Clone, Debug)]
pub struct StatsHandle(pub(crate) Arc<ServerCounters>);

impl StatsHandle {
    /// Returns the current counters. Each is exact; together they may be a moment apart.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let ServerCounters {
            accepted,
            ended,
            rejected_connections,
            puts,
            gets,
            invalid_requests,
            failed,
            incomplete_lines,
            failed_handshakes,
        } = &*self.0;
        // Read before `accepted`, so that no connection ends before it began.
        let ended = ended.get();
        let accepted = accepted.get();
        ServerStats {
            connections: accepted.saturating_sub(ended),
            accepted,
            rejected_connections: rejected_connections.get(),
            puts: puts.get(),
            gets: gets.get(),
            invalid_requests: invalid_requests.get(),
            failed: failed.get(),
            incomplete_lines: incomplete_lines.get(),
            failed_handshakes: failed_handshakes.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ServerCounters {
    pub(crate) accepted: Counter,
    pub(crate) ended: Counter,
    pub(crate) rejected_connections: Counter,
    pub(crate) puts: Counter,
    pub(crate) gets: Counter,
    pub(crate) invalid_requests: Counter,
    pub(crate) failed: Counter,
    pub(crate) incomplete_lines: Counter,
    pub(crate) failed_handshakes: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
