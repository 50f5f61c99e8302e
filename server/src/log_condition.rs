//! Conditions whose log messages are limited in rate.

use metrics_client::internal::log_limit::{Lasting, LogCondition, LogLimiter};

/// A condition that is logged when it begins, while it lasts, and when it ends.
#[derive(Debug)]
pub(crate) struct LimitedCondition {
    condition: LogCondition,
    /// Limits beginnings and ends too, for a condition that comes and goes.
    changes: LogLimiter,
}

impl LimitedCondition {
    pub(crate) const fn new() -> Self {
        Self { condition: LogCondition::new(), changes: LogLimiter::new() }
    }

    /// Notes that the condition holds. Returns `Some` if a message is due.
    pub(crate) fn holds(&self) -> Option<Lasting> {
        self.condition.holds().filter(|_| self.changes.should_log())
    }

    /// Notes that the condition has ended. Returns `Some` if a message is due.
    pub(crate) fn ends(&self) -> Option<Lasting> {
        self.condition.is_over().filter(|_| self.changes.should_log())
    }

    /// Takes the number of messages that were suppressed since the last call.
    pub(crate) fn take_suppressed(&self) -> Option<u64> {
        self.changes.take_suppressed()
    }
}
