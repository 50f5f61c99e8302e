//! What the log is told of peers: a few lines of each kind, and how many more there were.
//!
//! Whoever can make a server write a line for each connection can fill its disk with connections.

use tracing::{error, info, warn};

use metrics_client::log_limit::LogLimiter;

/// What a server has told its log of late, by what peers can bring about.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(super) cut_off: LogLimiter,
    pub(super) turned_away: LogLimiter,
    pub(super) not_accepted: LogLimiter,
    /// Failures of the store, and their ends: a store may refuse one peer what it grants another.
    pub(super) store: LogLimiter,
}

impl Log {
    /// Tells how many lines there would have been besides those that were written.
    pub(crate) fn sum_up(&self) {
        let Self { cut_off, turned_away, not_accepted, store } = self;
        if let Some(count) = cut_off.take_suppressed() {
            info!(count, "more peers were cut off");
        }
        if let Some(count) = turned_away.take_suppressed() {
            warn!(count, "more connections were turned away");
        }
        if let Some(count) = not_accepted.take_suppressed() {
            warn!(count, "more connections could not be accepted");
        }
        if let Some(count) = store.take_suppressed() {
            error!(count, "the store failed, or worked again, more often");
        }
    }
}
