//! [`Schedule`]: when to measure, whatever the wall clock does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tells the time of day, which can be set, and goes on while the host is suspended.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Due seconds: the multiples of an interval since the Unix epoch, so that the points of all hosts have the same
/// seconds. Each agent measures a little after a due second, by an offset of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: u64,
    offset: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Measure for this second.
    Due(i64),
    /// Wait for this long, and look again.
    Wait(Duration),
}

impl Schedule {
    /// Creates a schedule that measures every `interval`, in whole seconds, at least one; `offset` after the due
    /// second, less than the interval.
    #[must_use]
    pub fn new(interval: Duration, offset: Duration) -> Self {
        let interval = interval.as_secs().max(1);
        let most = Duration::from_secs(interval) - Duration::from_millis(1);
        Self { interval, offset: offset.min(most) }
    }

    /// Creates a schedule with a random offset below `jitter`.
    #[must_use]
    pub fn with_jitter(interval: Duration, jitter: Duration) -> Self {
        let most = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX).max(1);
        Self::new(interval, Duration::from_millis(fastrand::u64(..most)))
    }

    /// Returns the interval.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }

    /// Returns the latest due second.
    pub(crate) fn latest(&self, now: SystemTime) -> i64 {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs() / self.interval * self.interval).unwrap_or(i64::MAX)
    }

    /// Returns what to do at this time of day, after a measurement for the second `last`. Seconds that have been
    /// missed, because the host was suspended or busy, are not made up for. When the clock is set back by more than
    /// the interval, its seconds are due again; by less, the next one that was not measured is.
    pub(crate) fn next(&self, now: SystemTime, last: i64) -> Next {
        let second = self.latest(now);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = Duration::from_secs(second.unsigned_abs()) + self.offset;
        if now < at {
            return Next::Wait(at - now);
        }
        let is_set_back = last.saturating_sub(second).unsigned_abs() > self.interval;
        if second > last || is_set_back {
            Next::Due(second)
        } else {
            Next::Wait(at + self.interval() - now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn wait(seconds: f64) -> Next {
        Next::Wait(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn due_seconds_are_multiples_of_the_interval() {
        let schedule = Schedule::new(Duration::from_secs(10), Duration::from_millis(500));
        assert_eq!(schedule.next(at(1000.25), 990), wait(0.25));
        assert_eq!(schedule.next(at(1000.5), 990), Next::Due(1000));
        assert_eq!(schedule.next(at(1000.5), 1000), wait(10.0));
        assert_eq!(schedule.next(at(1009.0), 1000), wait(1.5));
    }

    #[test]
    fn start_waits_for_the_next_due_second() {
        let schedule = Schedule::new(Duration::from_secs(10), Duration::ZERO);
        assert_eq!(schedule.next(at(1003.0), schedule.latest(at(1003.0))), wait(7.0));
    }

    #[test]
    fn suspended_host_makes_up_for_nothing() {
        let schedule = Schedule::new(Duration::from_secs(10), Duration::ZERO);
        assert_eq!(schedule.next(at(9004.0), 1000), Next::Due(9000));
        assert_eq!(schedule.next(at(9004.0), 9000), wait(6.0));
    }

    #[test]
    fn clock_set_back_measures_each_second_once() {
        let schedule = Schedule::new(Duration::from_secs(10), Duration::ZERO);
        assert_eq!(schedule.next(at(500.0), 1000), Next::Due(500));
        assert_eq!(schedule.next(at(500.0), 500), wait(10.0));
        // By a moment, as when time is synchronized.
        assert_eq!(schedule.next(at(999.75), 1000), wait(0.25));
        assert_eq!(schedule.next(at(1000.0), 1000), wait(10.0));
        // Before 1970, on a host whose clock has no battery.
        let before = UNIX_EPOCH - Duration::from_secs(3);
        assert_eq!(schedule.next(before, 1000), Next::Due(0));
        assert_eq!(schedule.next(before, 0), wait(10.0));
    }

    #[test]
    fn offset_stays_within_the_interval() {
        let schedule = Schedule::new(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(schedule.next(at(1000.0), 998), wait(1.999));
        for _ in 0..100 {
            let Schedule { offset, .. } =
                Schedule::with_jitter(Duration::from_secs(10), Duration::from_secs(1));
            assert!(offset < Duration::from_secs(1), "{offset:?}");
        }
    }
}
