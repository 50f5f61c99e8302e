//! What a server has done so far.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Numbers about a [`Server`](crate::Server), at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that are open.
    pub connections: u64,
    /// Connections served so far, the open ones among them.
    pub accepted: u64,
    /// Connections closed at once because there were too many.
    pub rejected_connections: u64,
    /// Puts that the store took.
    pub puts: u64,
    /// Gets.
    pub gets: u64,
    /// Lines refused as `wrong command`.
    pub refused: u64,
    /// Puts and gets that the store failed: answered with an error, or left without an answer where
    /// the failure passes.
    pub failed: u64,
    /// Last lines of connections that ended without a line break. They are not carried out, since
    /// more may have been meant to follow.
    pub unfinished: u64,
    /// TLS handshakes that failed, or took too long.
    pub failed_handshakes: u64,
}

/// Reads a server's [`ServerStats`] while it serves.
#[derive(Clone, Debug)]
pub struct Monitor(pub(crate) Arc<Counters>);

impl Monitor {
    /// The numbers now. Each is true by itself; together they may be a moment apart.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let Counters {
            accepted,
            ended,
            rejected_connections,
            puts,
            gets,
            refused,
            failed,
            unfinished,
            failed_handshakes,
        } = &*self.0;
        // Read before `accepted`, so that no connection has ended without having begun.
        let ended = ended.get();
        let accepted = accepted.get();
        ServerStats {
            connections: accepted.saturating_sub(ended),
            accepted,
            rejected_connections: rejected_connections.get(),
            puts: puts.get(),
            gets: gets.get(),
            refused: refused.get(),
            failed: failed.get(),
            unfinished: unfinished.get(),
            failed_handshakes: failed_handshakes.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) accepted: Counter,
    pub(super) ended: Counter,
    pub(super) rejected_connections: Counter,
    pub(super) puts: Counter,
    pub(super) gets: Counter,
    pub(super) refused: Counter,
    pub(super) failed: Counter,
    pub(super) unfinished: Counter,
    pub(super) failed_handshakes: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
