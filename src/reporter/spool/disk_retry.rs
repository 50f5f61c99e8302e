//! Leaves a failing disk alone for a while.

use std::{error::Error, time::Duration};

use tokio::time::Instant;

use super::error::SpoolError;
use crate::{log_limit::Lasting, log_state::LogState};

/// How long the spool waits after an error before it tries again.
pub(super) const IO_RETRY_DELAY: Duration = Duration::from_secs(1);

/// When one kind of operation, reading or writing, may be tried again: a full disk can still be read.
#[derive(Debug)]
pub(super) struct DiskRetry {
    due: Instant,
    failing: LogState,
}

impl DiskRetry {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, failing: LogState::new() }
    }

    /// Returns when the next attempt may be made.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Returns the value of a successful operation. An error delays the next attempt.
    pub(super) fn value<T>(&mut self, result: Result<T, SpoolError>) -> Option<T> {
        match result {
            Ok(value) => {
                if let Some(Lasting { since, times }) = self.failing.is_over() {
                    tracing::info!(lasted = ?since, times, "spool has recovered");
                }
                Some(value)
            }
            Err(error) => {
                self.due = Instant::now() + IO_RETRY_DELAY;
                // This one is final, and was logged as such.
                if !matches!(error, SpoolError::NotOwned { .. })
                    && let Some(Lasting { since, times }) = self.failing.holds()
                {
                    let error = &error as &dyn Error;
                    tracing::warn!(error, ?since, times, "spool failed, retrying");
                }
                None
            }
        }
    }
}
