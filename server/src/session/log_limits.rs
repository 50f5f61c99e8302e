//! Rate limits of the server's log messages: a few of each kind, and the count of the others.
//!
//! Without them, a peer that can cause a message for each connection could fill the disk.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics_client::{
    codec::Escaped,
    internal::log_limit::{Lasting, LogLimiter},
};
use tracing::{Value, debug, error, info, warn};

use crate::{log_condition::LimitedCondition, store::StoreError};

/// The log limiters of a server, one for each kind of message that a peer or the store can cause.
#[derive(Debug)]
pub(crate) struct LogLimits {
    pub(super) closing: LogLimiter,
    pub(super) rejected_connections: LogLimiter,
    pub(super) accept_failing: Arc<LimitedCondition>,
    pub(super) invalid_requests: LogLimiter,
    pub(super) failed_handshakes: LogLimiter,
    /// Puts and gets fail for different reasons: a full store can be read.
    pub(super) puts: StoreLog,
    pub(super) gets: StoreLog,
}

impl LogLimits {
    /// Logs how many messages of each kind were suppressed since the last call.
    pub(crate) fn log_suppressed(&self) {
        let Self {
            closing,
            rejected_connections,
            accept_failing,
            invalid_requests,
            failed_handshakes,
            puts,
            gets,
        } = self;
        if let Some(suppressed) = closing.take_suppressed() {
            info!(suppressed, "closing connection: messages suppressed");
        }
        if let Some(suppressed) = rejected_connections.take_suppressed() {
            warn!(suppressed, "connection rejected: messages suppressed");
        }
        if let Some(suppressed) = accept_failing.take_suppressed() {
            warn!(suppressed, "accept failed or recovered: messages suppressed");
        }
        if let Some(suppressed) = invalid_requests.take_suppressed() {
            info!(suppressed, "invalid request: messages suppressed");
        }
        if let Some(suppressed) = failed_handshakes.take_suppressed() {
            info!(suppressed, "TLS handshake failed: messages suppressed");
        }
        for store in [puts, gets] {
            store.log_suppressed();
        }
    }
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            closing: LogLimiter::new(),
            rejected_connections: LogLimiter::new(),
            accept_failing: Arc::new(LimitedCondition::new()),
            invalid_requests: LogLimiter::new(),
            failed_handshakes: LogLimiter::new(),
            puts: StoreLog::new("puts"),
            gets: StoreLog::new("gets"),
        }
    }
}

/// Logs the failures of one operation of a store.
#[derive(Debug)]
pub(super) struct StoreLog {
    /// `puts` or `gets`.
    operation: &'static str,
    /// True while `failing` holds, so that a success takes no lock.
    is_failing: AtomicBool,
    /// A store may fail one peer and not the next.
    failing: LimitedCondition,
    /// Puts that the store rejects one by one.
    rejected: LogLimiter,
}

impl StoreLog {
    const fn new(operation: &'static str) -> Self {
        Self {
            operation,
            is_failing: AtomicBool::new(false),
            failing: LimitedCondition::new(),
            rejected: LogLimiter::new(),
        }
    }

    /// Notes that the operation succeeded.
    #[inline]
    pub(super) fn on_success(&self) {
        if self.is_failing.load(Ordering::Relaxed)
            && self.is_failing.swap(false, Ordering::Relaxed)
            && let Some(Lasting { since, times }) = self.failing.ends()
        {
            info!(operation = self.operation, failed_for = ?since, times, "store recovered");
        }
    }

    /// Notes that the operation failed.
    pub(super) fn on_failure(&self, peer: Option<impl Value>, error: &StoreError) {
        let due = self.failing.holds();
        // Set after `holds`, so that a success does not end a condition that has not begun.
        self.is_failing.store(true, Ordering::Relaxed);
        let (operation, message) = (self.operation, error.to_string());
        let message = Escaped(&message);
        if let Some(Lasting { since, times }) = due {
            let (source, is_transient) = (source(error), error.is_transient());
            let source = source.as_deref().map(Escaped).map(tracing::field::display);
            error!(
                peer, operation, error = %message, source, is_transient, failed_for = ?since, times,
                "store failed"
            );
        } else {
            debug!(peer, operation, error = %message, "store failed");
        }
    }

    /// Notes that the store rejected one request; it may accept others.
    pub(super) fn on_rejected(&self, peer: Option<impl Value>, error: &StoreError) {
        let (operation, message) = (self.operation, error.to_string());
        let message = Escaped(&message);
        if self.rejected.should_log() {
            let source = source(error);
            let source = source.as_deref().map(Escaped).map(tracing::field::display);
            warn!(peer, operation, error = %message, source, "store rejected a request");
        } else {
            debug!(peer, operation, error = %message, "store rejected a request");
        }
    }

    fn log_suppressed(&self) {
        let operation = self.operation;
        if let Some(suppressed) = self.failing.take_suppressed() {
            error!(suppressed, operation, "store failed or recovered: messages suppressed");
        }
        if let Some(suppressed) = self.rejected.take_suppressed() {
            warn!(suppressed, operation, "store rejected a request: messages suppressed");
        }
    }
}

fn source(error: &StoreError) -> Option<String> {
    error.source().map(<dyn Error>::to_string)
}
