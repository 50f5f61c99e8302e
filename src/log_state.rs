//! Rate limits for log lines about a state that may flap.

use crate::log_limit::{Lasting, LogCondition, LogLimiter};

/// Limits the lines about the beginning and end of a [`LogCondition`] by a [`LogLimiter`]: a server that answers
/// every second batch, or a disk that accepts every second block, does not cause a line each time. Reminders
/// are rare by themselves.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    condition: LogCondition,
    edges: LogLimiter,
}

impl LogState {
    /// Creates a state that does not hold.
    pub(crate) const fn new() -> Self {
        Self { condition: LogCondition::new(), edges: LogLimiter::new() }
    }

    /// Notes that the state holds. Returns something if a line is due.
    pub(crate) fn holds(&self) -> Option<Lasting> {
        let lasting = self.condition.holds()?;
        (lasting.times > 1 || self.edges.should_log()).then_some(lasting)
    }

    /// Notes that the state is over. Returns something if it held and a line is due.
    pub(crate) fn is_over(&self) -> Option<Lasting> {
        let lasting = self.condition.is_over()?;
        self.edges.should_log().then_some(lasting)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn state_logs_begin_and_end_and_limits_flapping() {
        let state = LogState::default();
        assert!(state.is_over().is_none());
        assert_eq!(state.holds().map(|lasting| lasting.times), Some(1));
        assert!(state.holds().is_none());
        assert_eq!(state.is_over().map(|lasting| lasting.times), Some(2));
        let mut lines = 2;
        for _ in 0..100 {
            lines += usize::from(state.holds().is_some());
            lines += usize::from(state.is_over().is_some());
        }
        assert_eq!(lines, 5);
        assert!(state.holds().is_none());
        advance(Duration::from_secs(60)).await;
        assert!(state.holds().is_some(), "reminded although its beginning was suppressed");
        assert!(state.is_over().is_some());
    }
}
