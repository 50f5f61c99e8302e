//! The log lines of a relay, limited in rate.

use std::error::Error;

use metrics_client::internal::log_limit::{Lasting, LogLimiter};
use metrics_wal::Event;
use tracing::{error, info, warn};

use crate::log_condition::LimitedCondition;

/// Writes the log lines of one relay.
#[derive(Debug)]
pub(super) struct RelayLog {
    name: Box<str>,
    failing: LimitedCondition,
    disk_failing: LimitedCondition,
    rejected: LogLimiter,
    spool_full: LogLimiter,
}

impl RelayLog {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            failing: LimitedCondition::new(),
            disk_failing: LimitedCondition::new(),
            rejected: LogLimiter::new(),
            spool_full: LogLimiter::new(),
        }
    }

    /// Notes that a request has failed.
    pub(super) fn failing(&self, reason: &str) {
        if let Some(Lasting { since, times }) = self.failing.holds() {
            warn!(relay = %self.name, reason, failures = times, ?since, "relay cannot deliver");
        }
    }

    /// Notes that a request has succeeded.
    pub(super) fn delivered(&self) {
        if let Some(Lasting { since, times }) = self.failing.ends() {
            info!(relay = %self.name, failures = times, after = ?since, "relay delivers again");
        }
    }

    pub(super) fn rejected(&self, points: u64, reason: &str) {
        if self.rejected.should_log() {
            let suppressed = self.rejected.take_suppressed();
            warn!(relay = %self.name, points, reason, suppressed, "relay destination rejected points");
        }
    }

    pub(super) fn disk_failing(&self, error: &(dyn Error + 'static)) {
        if let Some(Lasting { since, times }) = self.disk_failing.holds() {
            warn!(relay = %self.name, error, failures = times, ?since, "relay spool cannot be used");
        }
    }

    pub(super) fn disk_works(&self) {
        if let Some(Lasting { since, times }) = self.disk_failing.ends() {
            info!(relay = %self.name, failures = times, after = ?since, "relay spool works again");
        }
    }

    pub(super) fn spool_event(&self, event: &Event) {
        match event {
            Event::TornTail { bytes, .. } => {
                info!(relay = %self.name, bytes, "relay spool: removed an incomplete record");
            }
            Event::Failed(error) | Event::PositionNotSaved(error) => self.disk_failing(error),
            event => warn!(relay = %self.name, ?event, "relay spool: unexpected content"),
        }
    }

    pub(super) fn spool_full(&self, points: u64) {
        if self.spool_full.should_log() {
            let suppressed = self.spool_full.take_suppressed();
            warn!(relay = %self.name, points, suppressed, "relay spool is full: dropped the oldest points");
        }
    }

    pub(super) fn abandoned(&self) {
        error!(relay = %self.name, "relay spool was taken over by another process: points wait in memory only");
    }
}
