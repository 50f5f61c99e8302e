//! The reconnect policy, and its backoff with full jitter.

use std::time::Duration;

use tokio::time::Instant;

use super::durations::{MAX_DURATION, SHORTEST};

/// What a client does when its connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The ceilings of the first wait and of the longest; `None` means that it gives up.
    backoff: Option<(Duration, Duration)>,
}

impl Reconnect {
    /// Dial again, without end. The wait before each attempt is drawn at random between nothing and
    /// a ceiling, which begins with `min`, doubles with each attempt and stops at `max` ("full
    /// jitter": M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). The
    /// ceiling falls back to `min` with the first good answer, not with the connection: a server
    /// that accepts and hangs up is not hammered. After a connection that has answered, the first
    /// attempt is made at once, unless the server broke the protocol.
    ///
    /// `min` is at least 1 millisecond, for nothing doubles to nothing; only if both are zero does
    /// the client never wait. `max` is at least `min`.
    #[must_use]
    pub fn backoff(min: Duration, max: Duration) -> Self {
        let least = if max.is_zero() { Duration::ZERO } else { MIN_BACKOFF };
        let min = min.clamp(least, MAX_DURATION);
        Self { backoff: Some((min, max.clamp(min, MAX_DURATION))) }
    }

    /// Give up: the client is closed with its connection.
    #[must_use]
    pub fn never() -> Self {
        Self { backoff: None }
    }
}

/// From 50 milliseconds to 10 seconds.
impl Default for Reconnect {
    fn default() -> Self {
        Self::backoff(Duration::from_millis(50), Duration::from_secs(10))
    }
}

/// How long to wait before the next attempt to connect.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: Reconnect,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(policy: Reconnect) -> Self {
        Self { policy, attempts: 0 }
    }

    /// When to dial next; never, if that is the policy.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let (min, max) = self.policy.backoff?;
        let ceiling = min.saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1).min(31);
        Some(now + ceiling.min(max).mul_f64(fastrand::f64()))
    }

    /// Whether there is always another attempt.
    pub(super) fn is_enabled(&self) -> bool {
        self.policy.backoff.is_some()
    }

    /// The connection has proved good.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// The lowest ceiling that doubles to more: the timers of Tokio count milliseconds.
const MIN_BACKOFF: Duration = SHORTEST;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_grows_to_its_ceiling_and_starts_over_after_a_good_answer() {
        let min = Duration::from_millis(50);
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(Reconnect::backoff(min, max));
        let mut longest = Duration::ZERO;
        for attempt in 0..1000 {
            let wait = backoff.next(now).unwrap() - now;
            assert!(wait <= max.min(min * 2_u32.pow(attempt.min(10))), "{attempt}: {wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest > max / 2, "{longest:?}");
        backoff.reset();
        assert!(backoff.next(now).unwrap() - now <= min);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_grows_from_nothing_too_unless_it_is_never_to_be_more() {
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(Reconnect::backoff(Duration::ZERO, max));
        assert!(backoff.next(now).unwrap() - now <= Duration::from_millis(1));
        let waits = (0..1000).map(|_| backoff.next(now).unwrap() - now);
        assert!(waits.max().unwrap() > max / 2);

        let mut backoff = Backoff::new(Reconnect::backoff(Duration::ZERO, Duration::ZERO));
        assert!((0..1000).all(|_| backoff.next(now) == Some(now)));
    }

    #[test]
    fn a_client_that_gives_up_does_not_wait() {
        assert_eq!(Backoff::new(Reconnect::never()).next(Instant::now()), None);
    }
}
