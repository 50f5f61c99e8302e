//! [`Timer`]: what is kept of the values of a timer, histogram or distribution.

use std::fmt;

use sketches_ddsketch::{Config, DDSketch};

/// Count, smallest, largest, sum, and a sketch for percentiles within 1 %. Takes at most [`MAX_BINS`] times 16 bytes,
/// however many values there are.
pub(super) struct Timer {
    /// Of the events that the values stand for.
    pub(super) count: f64,
    /// Of the values.
    values: f64,
    sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    sketch: DDSketch,
}

/// Percentiles are exact to 1 % over six orders of magnitude below the largest value; smaller values count as one.
const MAX_BINS: u32 = 768;

impl Timer {
    pub(super) fn new() -> Self {
        Self {
            count: 0.0,
            values: 0.0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sketch: DDSketch::new(Config::new(0.01, MAX_BINS, 1e-9)),
        }
    }

    /// Adds a value that stands for `1 / rate` events.
    pub(super) fn add(&mut self, value: f64, rate: f64) {
        self.count += rate.recip();
        self.values += 1.0;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sketch.add(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values == 0.0
    }

    pub(super) fn mean(&self) -> f64 {
        (self.sum / self.values).clamp(self.min, self.max)
    }

    /// Returns a percentile, from 0 to 100.
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let quantile = self.sketch.quantile((percent / 100.0).clamp(0.0, 1.0));
        quantile.ok().flatten().unwrap_or(self.max).clamp(self.min, self.max)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, min, max, .. } = self;
        let mut timer = f.debug_struct("Timer");
        timer.field("count", count).field("min", min).field("max", max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent() {
        let mut timer = Timer::new();
        for value in 1..=10_000 {
            timer.add(f64::from(value) / 10.0, 1.0);
        }
        assert_eq!(
            (timer.count, timer.min, timer.max, timer.mean()),
            (10_000.0, 0.1, 1000.0, 500.05)
        );
        for (percent, exact) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = timer.percentile(percent);
            assert!((found / exact - 1.0).abs() <= 0.011, "{percent}: {found}");
        }
    }

    #[test]
    fn one_value_is_every_percentile() {
        let mut timer = Timer::new();
        timer.add(-3.5, 0.1);
        assert_eq!((timer.count, timer.mean(), timer.percentile(1.0)), (10.0, -3.5, -3.5));
    }

    #[test]
    fn extreme_values_stay_within_their_bounds() {
        let mut timer = Timer::new();
        for value in [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -0.0, 5e-324, 1.0, f64::MAX] {
            timer.add(value, 1.0);
        }
        for percent in [0.0, 50.0, 100.0] {
            let found = timer.percentile(percent);
            assert!((f64::MIN..=f64::MAX).contains(&found), "{percent}: {found}");
        }
        assert!(timer.mean().is_finite());
    }
}
