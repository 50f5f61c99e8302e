//! What the log is told of peers and of the store: a few lines of each kind, and how many more there
//! were.
//!
//! Whoever can make a server write a line for each connection can fill its disk with connections.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
};

use metrics_client::{
    codec::Escaped,
    internal::log_limit::{Lasting, LogCondition, LogLimiter},
};
use tracing::{Value, debug, error, info, warn};

use crate::store::StoreError;

/// What a server has told its log of late, by what peers can bring about.
#[derive(Debug)]
pub(crate) struct LogLimits {
    pub(super) cut_off: LogLimiter,
    pub(super) rejected_connections: LogLimiter,
    /// Connections cannot be accepted.
    pub(super) not_accepting: State,
    /// Lines that are not requests.
    pub(super) refused: LogLimiter,
    pub(super) failed_handshakes: LogLimiter,
    /// Puts and gets fail for different reasons: a full store can be read.
    pub(super) puts: StoreLog,
    pub(super) gets: StoreLog,
}

impl LogLimits {
    /// Tells how many lines there would have been besides those that were written.
    pub(crate) fn log_suppressed(&self) {
        let Self {
            cut_off,
            rejected_connections,
            not_accepting,
            refused,
            failed_handshakes,
            puts,
            gets,
        } = self;
        if let Some(count) = cut_off.take_suppressed() {
            info!(count, "more peers were cut off");
        }
        if let Some(count) = rejected_connections.take_suppressed() {
            warn!(count, "more connections were turned away");
        }
        if let Some(count) = not_accepting.changes.take_suppressed() {
            warn!(count, "connections could not be accepted, or could again, more often");
        }
        if let Some(count) = refused.take_suppressed() {
            info!(count, "more lines were refused");
        }
        if let Some(count) = failed_handshakes.take_suppressed() {
            info!(count, "more TLS handshakes failed");
        }
        for store in [puts, gets] {
            store.log_suppressed();
        }
    }
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            cut_off: LogLimiter::new(),
            rejected_connections: LogLimiter::new(),
            not_accepting: State::new(),
            refused: LogLimiter::new(),
            failed_handshakes: LogLimiter::new(),
            puts: StoreLog::new("puts"),
            gets: StoreLog::new("gets"),
        }
    }
}

/// A state that lasts, or comes and goes.
#[derive(Debug)]
pub(super) struct State {
    condition: LogCondition,
    /// Where it comes and goes, beginnings and ends are limited too.
    changes: LogLimiter,
}

impl State {
    const fn new() -> Self {
        Self { condition: LogCondition::new(), changes: LogLimiter::new() }
    }

    /// Notes that the state holds. Returns something if a line is due.
    pub(super) fn holds(&self) -> Option<Lasting> {
        self.condition.holds().filter(|_| self.changes.should_log())
    }

    /// Notes that the state is over. Returns something if a line is due.
    pub(super) fn is_evicted(&self) -> Option<Lasting> {
        self.condition.is_over().filter(|_| self.changes.should_log())
    }
}

/// Whether a store does one of the two things that it is for.
#[derive(Debug)]
pub(super) struct StoreLog {
    /// The thing: `puts` or `gets`.
    what: &'static str,
    /// Whether `failing` holds, so that success takes no lock.
    fails: AtomicBool,
    /// A store may fail one peer and not the next.
    failing: State,
    /// Puts that the store refuses, each for itself.
    refused: LogLimiter,
}

impl StoreLog {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            fails: AtomicBool::new(false),
            failing: State::new(),
            refused: LogLimiter::new(),
        }
    }

    /// Notes that the store has done it.
    #[inline]
    pub(super) fn works(&self) {
        if self.fails.load(Ordering::Relaxed)
            && self.fails.swap(false, Ordering::Relaxed)
            && let Some(Lasting { since, times }) = self.failing.is_evicted()
        {
            info!(what = self.what, failed_for = ?since, times, "the store works again");
        }
    }

    /// Notes that the store has failed to do it.
    pub(super) fn fails(&self, peer: Option<impl Value>, failure: &StoreError) {
        let due = self.failing.holds();
        // Only now, so that success does not end what has not begun.
        self.fails.store(true, Ordering::Relaxed);
        let (what, fault) = (self.what, failure.to_string());
        let fault = Escaped(&fault);
        if let Some(Lasting { since, times }) = due {
            let (cause, is_transient) = (cause(failure), failure.is_transient());
            let cause = cause.as_deref().map(Escaped).map(tracing::field::display);
            error!(peer, what, %fault, cause, is_transient, failed_for = ?since, times, "the store fails");
        } else {
            debug!(peer, what, %fault, "the store fails");
        }
    }

    /// Notes that the store refuses one request and takes others.
    pub(super) fn refuses(&self, peer: Option<impl Value>, failure: &StoreError) {
        let (what, fault) = (self.what, failure.to_string());
        let fault = Escaped(&fault);
        if self.refused.should_log() {
            let cause = cause(failure);
            let cause = cause.as_deref().map(Escaped).map(tracing::field::display);
            warn!(peer, what, %fault, cause, "the store refused a request");
        } else {
            debug!(peer, what, %fault, "the store refused a request");
        }
    }

    fn log_suppressed(&self) {
        let what = self.what;
        if let Some(count) = self.failing.changes.take_suppressed() {
            error!(count, what, "the store failed, or worked again, more often");
        }
        if let Some(count) = self.refused.take_suppressed() {
            warn!(count, what, "the store refused more requests");
        }
    }
}

fn cause(failure: &StoreError) -> Option<String> {
    failure.source().map(<dyn Error>::to_string)
}
