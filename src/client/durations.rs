//! The bounds of all durations that a client is configured with.

use std::time::Duration;

/// As good as for ever, and small enough to be added to any time: ten years.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The least that a time limit can be: the timers of Tokio count milliseconds.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
