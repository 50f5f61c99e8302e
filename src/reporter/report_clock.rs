//! The seconds under which reports are stored.
//!
//! A server keeps one value for each key and second. So reports of one second must be merged by the
//! code that makes them, and the stamp says whether there has been one already.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// The wall clock, as the time since the Unix epoch. Tests set their own.
#[derive(Clone, Default)]
pub(crate) struct WallClock {
    #[cfg(test)]
    by_test: Option<std::sync::Arc<dyn Fn() -> Duration + Send + Sync>>,
}

/// Hands out the seconds of consecutive reports. None is in the future.
#[derive(Debug, Default)]
pub(crate) struct UniqueSeconds {
    last: Option<i64>,
}

/// Where a report is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// In seconds since the Unix epoch.
    pub(crate) second: i64,
    /// The last report had the same second: what it said must be merged into this one, which
    /// replaces it.
    pub(crate) is_shared: bool,
}

impl WallClock {
    #[cfg(test)]
    pub(crate) fn from_fn(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { by_test: Some(std::sync::Arc::new(now)) }
    }

    /// Returns the time since the Unix epoch, zero where the clock stands before it.
    pub(crate) fn now(&self) -> Duration {
        #[cfg(test)]
        if let Some(now) = &self.by_test {
            return now();
        }
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl UniqueSeconds {
    /// Returns the stamp of a report that was due at `due` and is made at `now`, both in seconds.
    ///
    /// A report that is late keeps the second in which it was due, unless a later second has been
    /// used already. Where the clock has been set back, its seconds are used a second time.
    pub(crate) fn stamp(&mut self, due: i64, now: i64) -> Stamp {
        let due = due.min(now);
        let second = match self.last {
            Some(last) if due < last && last <= now => last,
            _ => due,
        };
        let is_shared = self.last.replace(second) == Some(second);
        Stamp { second, is_shared }
    }
}

/// Returns the whole seconds of a time since the Unix epoch.
pub(crate) fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS A2, A6
    #[test]
    fn stamps_are_never_in_the_future() {
        let mut seconds = UniqueSeconds::default();
        let given = [500, 500, 500, 501, 503, 400, 400, 401].map(|now| {
            let Stamp { second, is_shared } = seconds.stamp(now, now);
            assert!(second <= now);
            (second, is_shared)
        });
        let expected = [
            (500, false),
            (500, true),
            (500, true),
            (501, false),
            (503, false),
            (400, false),
            (400, true),
            (401, false),
        ];
        assert_eq!(given, expected);
    }

    #[test]
    fn late_report_keeps_its_second_if_it_is_free() {
        let mut seconds = UniqueSeconds::default();
        assert_eq!(seconds.stamp(10, 11), Stamp { second: 10, is_shared: false });
        assert_eq!(seconds.stamp(11, 11), Stamp { second: 11, is_shared: false });
        assert_eq!(seconds.stamp(10, 12), Stamp { second: 11, is_shared: true });
        assert_eq!(seconds.stamp(20, 12), Stamp { second: 12, is_shared: false });
    }
}
