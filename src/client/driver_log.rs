//! The log lines of a driver, at a limited rate: a server that cannot be reached, or that
//! closes each connection at once, must not fill a log.

use std::{
    error::Error,
    fmt::{self, Display},
    time::Duration,
};

use tracing::{error, field, info, warn};

use crate::{
    error::ConnectionError,
    log_limit::{Lasting, LogLimiter},
    log_state::LogState,
};

#[derive(Debug)]
pub(super) struct DriverLog {
    unreachable: LogState,
    connections: LogLimiter,
    disconnections: LogLimiter,
    violations: LogLimiter,
    requests: LogLimiter,
}

/// The lines are the driver's, also for filters.
const TARGET: &str = "metrics_client::client::driver";

impl DriverLog {
    pub(super) const fn new() -> Self {
        Self {
            unreachable: LogState::new(),
            connections: LogLimiter::new(),
            disconnections: LogLimiter::new(),
            violations: LogLimiter::new(),
            requests: LogLimiter::new(),
        }
    }

    /// There is a connection.
    pub(super) fn connected(&self, address: &str) {
        let over = self.unreachable.is_over();
        if over.is_some() || self.connections.should_log() {
            let unreachable = over.map(|Lasting { since, .. }| field::debug(since));
            let attempts = over.map(|Lasting { times, .. }| times);
            let suppressed = self.connections.take_suppressed();
            info!(target: TARGET, address, unreachable, attempts, suppressed, "connected");
        }
    }

    /// An attempt to connect has failed.
    pub(super) fn on_connect_failed(&self, fault: impl Display) {
        if let Some(Lasting { since, times }) = self.unreachable.holds() {
            let since = (since > Duration::ZERO).then_some(field::debug(since));
            warn!(target: TARGET, error = %fault, since, attempts = times, "no connection");
        }
    }

    /// The server has sent what it must not.
    pub(super) fn violated(&self, address: &str, fault: impl Display, retried: usize) {
        if self.violations.should_log() {
            let suppressed = self.violations.take_suppressed();
            error!(target: TARGET, address, error = %fault, suppressed, "protocol error");
            will_send_again(address, retried);
        }
    }

    /// The server closes the connection at a request, while it answers others.
    pub(super) fn request_failed(&self, address: &str, fault: impl Display) {
        if self.requests.should_log() {
            let suppressed = self.requests.take_suppressed();
            warn!(target: TARGET, address, error = %fault, suppressed, "request failed");
        }
    }

    /// The connection is lost.
    pub(super) fn disconnected(&self, address: &str, fault: impl Display, retried: usize) {
        if self.disconnections.should_log() {
            let suppressed = self.disconnections.take_suppressed();
            warn!(target: TARGET, address, error = %fault, suppressed, "disconnected");
            will_send_again(address, retried);
        }
    }
}

fn will_send_again(address: &str, requests: usize) {
    if requests > 0 {
        info!(target: TARGET, address, requests, "will send again");
    }
}

/// An error with its sources, in one line.
pub(super) struct ErrorChain<'a>(pub(super) &'a ConnectionError);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
