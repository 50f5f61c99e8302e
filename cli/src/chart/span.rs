//! The axis of time: its range, and round times on it.

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use super::Tick;

/// An axis of time, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeAxis {
    start: i64,
    end: i64,
}

/// How far apart ticks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeStep {
    Seconds(i64),
    Months(i64),
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The distances that a clock and a calendar suggest.
#[rustfmt::skip]
const STEPS: [i64; 22] = [
    1, 2, 5, 10, 15, 30,
    MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
    HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR,
    DAY, 2 * DAY, 5 * DAY, 7 * DAY, 14 * DAY,
];
const MONTH_STEPS: [i64; 14] =
    [1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1_200, 6_000, 12_000, 60_000];
const MONTH: i64 = 2_629_746;

/// What a single moment is given on each side.
const ROOM: i64 = 30;

impl TimeAxis {
    /// Returns an axis from `start` to `end`; a single moment is in the middle of a minute.
    pub(crate) fn new(start: i64, end: i64) -> Self {
        if start < end {
            Self { start, end }
        } else {
            Self { start: start.saturating_sub(ROOM), end: start.saturating_add(ROOM) }
        }
    }

    /// Returns its first and last second.
    pub(crate) fn ends(&self) -> (i64, i64) {
        (self.start, self.end)
    }

    /// Returns where a second is: 0 at the start, 1 at the end.
    pub(crate) fn fraction(&self, second: i64) -> f64 {
        let from_start = i128::from(second) - i128::from(self.start);
        from_start as f64 / (i128::from(self.end) - i128::from(self.start)) as f64
    }

    /// Returns at most about `count` ticks, from the start, in UTC.
    pub(crate) fn ticks(&self, count: usize) -> Vec<Tick> {
        let count = count.max(1) as u64;
        let least =
            i64::try_from(self.end.abs_diff(self.start).div_ceil(count)).unwrap_or(i64::MAX);
        let seconds = STEPS.into_iter().find(|step| *step >= least).map(TimeStep::Seconds);
        let months =
            || MONTH_STEPS.into_iter().find(|months| months * MONTH >= least).map(TimeStep::Months);
        let is_in_calendar = |second| Timestamp::from_second(second).is_ok();
        let step = seconds
            .or_else(months)
            .filter(|_| is_in_calendar(self.start) && is_in_calendar(self.end));
        let seconds = match step {
            Some(TimeStep::Seconds(step)) => self.multiples(step),
            Some(TimeStep::Months(step)) => self.months(step),
            // Beyond a calendar's years: numbers.
            None => self.multiples(least),
        };
        let tick = |second| Tick { at: self.fraction(second), label: label(second, step) };
        seconds.into_iter().map(tick).collect()
    }

    /// Returns the multiples of some seconds on the axis.
    fn multiples(&self, step: i64) -> Vec<i64> {
        let remainder = self.start.rem_euclid(step);
        let first = if remainder == 0 {
            Some(self.start)
        } else {
            self.start.checked_add(step - remainder)
        };
        let next = |second: &i64| second.checked_add(step);
        std::iter::successors(first, next).take_while(|second| *second <= self.end).collect()
    }

    /// Returns the beginnings of each `step`th month on the axis.
    fn months(&self, step: i64) -> Vec<i64> {
        let date = |second| utc(second).map(|time| time.date());
        let (Some(start), Some(end)) = (date(self.start), date(self.end)) else {
            return Vec::new();
        };
        let month = |date: Date| i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
        let beginning = |month: i64| {
            let year = i16::try_from(month.div_euclid(12)).ok()?;
            let date = Date::new(year, month.rem_euclid(12) as i8 + 1, 1).ok()?;
            Some(TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_second())
        };
        let months =
            (month(start).div_euclid(step)..=month(end).div_euclid(step)).map(|n| n * step);
        months
            .filter_map(beginning)
            .filter(|second| (self.start..=self.end).contains(second))
            .collect()
    }
}

fn utc(second: i64) -> Option<DateTime> {
    Some(TimeZone::UTC.to_datetime(Timestamp::from_second(second).ok()?))
}

/// Returns as much of a time as ticks at this distance need.
fn label(second: i64, step: Option<TimeStep>) -> String {
    let format = match step {
        Some(TimeStep::Months(step)) if step % 12 == 0 => "%Y",
        Some(TimeStep::Months(_)) => "%Y-%m",
        // Midnight says which day begins.
        Some(TimeStep::Seconds(_)) if second.rem_euclid(DAY) == 0 => "%m-%d",
        Some(TimeStep::Seconds(step)) if step % MINUTE == 0 => "%H:%M",
        Some(TimeStep::Seconds(_)) => "%H:%M:%S",
        None => return second.to_string(),
    };
    utc(second).map_or_else(|| second.to_string(), |time| time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times;

    fn labels(start: &str, end: &str) -> Vec<String> {
        let axis = TimeAxis::new(times::parse(start).unwrap(), times::parse(end).unwrap());
        axis.ticks(6).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_times() {
        for (start, end, expected) in [
            (
                "2026-11-27T09:00:01Z",
                "2026-11-27T09:00:06Z",
                ["09:00:01", "09:00:02", "09:00:03", "09:00:04", "09:00:05", "09:00:06"].as_slice(),
            ),
            (
                "2026-11-27T09:01:00Z",
                "2026-11-27T09:58:00Z",
                &["09:10", "09:20", "09:30", "09:40", "09:50"],
            ),
            (
                "2026-11-27T17:00:00Z",
                "2026-11-28T07:00:00Z",
                &["18:00", "21:00", "11-28", "03:00", "06:00"],
            ),
            (
                "2026-02-26T12:00:00Z",
                "2026-03-03T00:00:00Z",
                &["02-27", "02-28", "03-01", "03-02", "03-03"],
            ),
            (
                "2025-12-15T00:00:00Z",
                "2026-05-10T00:00:00Z",
                &["2026-01", "2026-02", "2026-03", "2026-04", "2026-05"],
            ),
            (
                "1970-01-01T00:00:00Z",
                "2026-05-10T00:00:00Z",
                &["1970", "1980", "1990", "2000", "2010", "2020"],
            ),
        ] {
            assert_eq!(labels(start, end), expected, "{start} to {end}");
        }
    }

    #[test]
    fn every_range_has_an_axis() {
        let ends = [
            i64::MIN,
            i64::MIN + 1,
            -62_135_596_800,
            -1,
            0,
            1,
            1_150_864_247,
            253_402_300_799,
            i64::MAX - 1,
            i64::MAX,
        ];
        for start in ends {
            for end in ends.into_iter().filter(|end| *end >= start) {
                let axis = TimeAxis::new(start, end);
                let ticks = axis.ticks(8);
                assert!((1..=12).contains(&ticks.len()), "{start} to {end}: {ticks:?}");
                assert!(
                    ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.at)),
                    "{start} to {end}: {ticks:?}"
                );
            }
        }
    }

    #[test]
    fn single_moment_is_in_the_middle() {
        assert_eq!(TimeAxis::new(100, 100).fraction(100), 0.5);
    }
}
