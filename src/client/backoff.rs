//! When the client reconnects: [`ReconnectPolicy`].

use std::time::Duration;

use tokio::time::Instant;

use super::durations::{MAX_DURATION, SHORTEST};

/// What a client does when its connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// The limits of the first wait and of the longest; `None` means that the client does not reconnect.
    backoff: Option<(Duration, Duration)>,
    max_attempts: Option<u32>,
}

impl ReconnectPolicy {
    /// Reconnects, without end unless there is a [limit](Self::max_attempts). The wait before each attempt is drawn
    /// at random between zero and a limit, which begins with `min`, doubles with each attempt and stops at `max`
    /// ("full jitter": M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). It
    /// returns to `min` with the first good response, not with the connection: a server that accepts and
    /// closes is not hammered. After a connection that has answered, the first attempt is made at once,
    /// unless the server broke the protocol. With several servers, an attempt tries each of them.
    ///
    /// `min` is at least 1 millisecond, so that it can double; only if both are zero does
    /// the client never wait. `max` is at least `min`.
    #[must_use]
    pub fn backoff(min: Duration, max: Duration) -> Self {
        let least = if max.is_zero() { Duration::ZERO } else { MIN_BACKOFF };
        let min = min.clamp(least, MAX_DURATION);
        Self { backoff: Some((min, max.clamp(min, MAX_DURATION))), max_attempts: None }
    }

    /// Does not reconnect: the client is closed when its connection ends.
    #[must_use]
    pub fn never() -> Self {
        Self { backoff: None, max_attempts: None }
    }

    /// Sets after how many attempts in a row, without a good response between them, the client is closed: from 1 to
    /// 4,294,967,295. Calls that wait then fail with the reason of the last attempt. Default: `None`, no
    /// limit.
    #[must_use]
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.max_attempts = attempts.into().map(|attempts| attempts.max(1));
        self
    }
}

/// From 50 milliseconds to 10 seconds, without a limit of attempts.
impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self::backoff(Duration::from_millis(50), Duration::from_secs(10))
    }
}

/// Decides when the next attempt to connect is made.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: ReconnectPolicy,
    /// How many attempts in a row have failed.
    failed: u32,
}

impl Backoff {
    pub(super) fn new(policy: ReconnectPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// Counts an attempt that has failed, and returns when to make the next one; `None` means never.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let (min, max) = self.policy.backoff?;
        let ceiling = min.saturating_mul(1_u32.checked_shl(self.failed).unwrap_or(u32::MAX));
        self.failed = self.failed.saturating_add(1);
        if self.policy.max_attempts.is_some_and(|most| self.failed >= most) {
            return None;
        }
        Some(now + ceiling.min(max).mul_f64(fastrand::f64()))
    }

    /// Returns true if the client reconnects at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.policy.backoff.is_some()
    }

    /// Starts over, after a good response.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}

/// The lowest ceiling that doubles to more: the timers of Tokio count milliseconds.
const MIN_BACKOFF: Duration = SHORTEST;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn backoff_grows_to_its_limit_until_a_good_response() {
        let min = Duration::from_millis(50);
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(ReconnectPolicy::backoff(min, max));
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
    async fn backoff_grows_from_zero_unless_the_limit_is_zero() {
        let max = Duration::from_secs(10);
        let now = Instant::now();
        let mut backoff = Backoff::new(ReconnectPolicy::backoff(Duration::ZERO, max));
        assert!(backoff.next(now).unwrap() - now <= Duration::from_millis(1));
        let waits = (0..1000).map(|_| backoff.next(now).unwrap() - now);
        assert!(waits.max().unwrap() > max / 2);

        let mut backoff = Backoff::new(ReconnectPolicy::backoff(Duration::ZERO, Duration::ZERO));
        assert!((0..1000).all(|_| backoff.next(now) == Some(now)));
    }

    #[test]
    fn backoff_ends_after_max_attempts_in_a_row() {
        let (min, now) = (Duration::from_millis(1), Instant::now());
        let mut backoff = Backoff::new(ReconnectPolicy::backoff(min, min).max_attempts(3));
        for _ in 0..2 {
            assert!(backoff.next(now).is_some() && backoff.next(now).is_some());
            backoff.reset();
        }
        assert!(backoff.next(now).is_some() && backoff.next(now).is_some());
        assert_eq!(backoff.next(now), None);
    }

    #[test]
    fn backoff_never_has_no_next_attempt() {
        assert_eq!(Backoff::new(ReconnectPolicy::never()).next(Instant::now()), None);
    }
}
