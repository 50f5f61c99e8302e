//! How long a relay waits after a request that failed.

use std::time::Duration;

/// Exponential backoff: between half of the delay and all of it, so that many relays of one destination do
/// not come back at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure, and returns how long to wait.
    pub(super) fn next(&mut self) -> Duration {
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(16)).min(MAX_DELAY);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A destination that is back gets the first points within this time.
const MAX_DELAY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::default();
        for round in 0..2 {
            let mut expected = FIRST_DELAY;
            for failure in 0..100 {
                let delay = backoff.next();
                assert!(delay >= expected / 2 && delay <= expected, "{round} {failure}: {delay:?}");
                expected = (2 * expected).min(MAX_DELAY);
            }
            backoff.reset();
        }
    }
}
