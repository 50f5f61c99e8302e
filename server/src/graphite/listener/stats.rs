//! Statistics and log messages of a Graphite listener.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use metrics_client::{
    codec::Escaped,
    internal::log_limit::{Lasting, LogLimiter},
};
use tracing::{debug, error, info, warn};

use crate::{log_condition::LimitedCondition, stats::Counter, store::StoreError};

/// Counters of a [`GraphiteListener`](super::GraphiteListener) at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphiteStats {
    /// Open connections.
    pub connections: u64,
    /// Connections that were accepted, the open ones included.
    pub accepted: u64,
    /// Connections that were closed at once because a limit was reached.
    pub rejected_connections: u64,
    /// Datagrams that were received.
    pub datagrams: u64,
    /// Points that were stored.
    pub puts: u64,
    /// Lines that were skipped because they are invalid or too long.
    pub invalid_lines: u64,
    /// Lines that were skipped because their value is not a number.
    pub nan_values: u64,
    /// Points that the store rejected for good.
    pub rejected_puts: u64,
    /// Points that were lost because the store failed: those of datagrams, and of connections that were aborted.
    pub dropped: u64,
    /// How often a connection retried because the store failed.
    pub retries: u64,
}

/// Reads the [`GraphiteStats`] of a listener while it serves.
#[derive(Clone, Debug)]
pub struct GraphiteStatsHandle(pub(super) Arc<GraphiteCounters>);

impl GraphiteStatsHandle {
    /// Returns the current counters. Each is exact; together they may be a moment apart.
    #[must_use]
    pub fn stats(&self) -> GraphiteStats {
        let GraphiteCounters {
            accepted,
            ended,
            rejected_connections,
            datagrams,
            puts,
            invalid_lines,
            nan_values,
            rejected_puts,
            dropped,
            retries,
        } = &*self.0;
        // Read before `accepted`, so that no connection ends before it began.
        let ended = ended.get();
        let accepted = accepted.get();
        GraphiteStats {
            connections: accepted.saturating_sub(ended),
            accepted,
            rejected_connections: rejected_connections.get(),
            datagrams: datagrams.get(),
            puts: puts.get(),
            invalid_lines: invalid_lines.get(),
            nan_values: nan_values.get(),
            rejected_puts: rejected_puts.get(),
            dropped: dropped.get(),
            retries: retries.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct GraphiteCounters {
    pub(super) accepted: Counter,
    pub(super) ended: Counter,
    pub(super) rejected_connections: Counter,
    pub(super) datagrams: Counter,
    pub(super) puts: Counter,
    pub(super) invalid_lines: Counter,
    pub(super) nan_values: Counter,
    pub(super) rejected_puts: Counter,
    pub(super) dropped: Counter,
    pub(super) retries: Counter,
}

/// What limits the messages that a peer or the store can cause.
#[derive(Debug)]
pub(super) struct GraphiteLog {
    pub(super) accept_failing: Arc<LimitedCondition>,
    pub(super) rejected_connections: LogLimiter,
    pub(super) invalid_lines: LogLimiter,
    pub(super) rejected_puts: LogLimiter,
    pub(super) aborted_connections: LogLimiter,
    store_failing: LimitedCondition,
    /// True while `store_failing` holds, so that a success takes no lock.
    is_failing: AtomicBool,
}

impl Default for GraphiteLog {
    fn default() -> Self {
        Self {
            accept_failing: Arc::new(LimitedCondition::new()),
            rejected_connections: LogLimiter::new(),
            invalid_lines: LogLimiter::new(),
            rejected_puts: LogLimiter::new(),
            aborted_connections: LogLimiter::new(),
            store_failing: LimitedCondition::new(),
            is_failing: AtomicBool::new(false),
        }
    }
}

impl GraphiteLog {
    /// Notes that the store has applied a batch.
    pub(super) fn on_success(&self) {
        if self.is_failing.load(Ordering::Relaxed)
            && self.is_failing.swap(false, Ordering::Relaxed)
            && let Some(Lasting { since, times }) = self.store_failing.ends()
        {
            info!(failed_for = ?since, times, "store recovered");
        }
    }

    /// Notes that the store has failed.
    pub(super) fn on_failure(&self, error: &StoreError) {
        let due = self.store_failing.holds();
        // Set after `holds`, so that a success does not end a condition that has not begun.
        self.is_failing.store(true, Ordering::Relaxed);
        let message = error.to_string();
        let message = Escaped(&message);
        match due {
            Some(Lasting { since, times }) => {
                error!(error = %message, failed_for = ?since, times, "store failed");
            }
            None => debug!(error = %message, "store failed"),
        }
    }

    /// Logs how many messages of each kind were suppressed since the last call.
    pub(super) fn log_suppressed(&self) {
        if let Some(suppressed) = self.accept_failing.take_suppressed() {
            warn!(suppressed, "accept failed or recovered: messages suppressed");
        }
        if let Some(suppressed) = self.rejected_connections.take_suppressed() {
            warn!(suppressed, "connection rejected: messages suppressed");
        }
        if let Some(suppressed) = self.invalid_lines.take_suppressed() {
            info!(suppressed, "invalid line skipped: messages suppressed");
        }
        if let Some(suppressed) = self.rejected_puts.take_suppressed() {
            warn!(suppressed, "store rejected points: messages suppressed");
        }
        if let Some(suppressed) = self.aborted_connections.take_suppressed() {
            error!(suppressed, "connection aborted; points dropped: messages suppressed");
        }
        if let Some(suppressed) = self.store_failing.take_suppressed() {
            error!(suppressed, "store failed or recovered: messages suppressed");
        }
    }
}
