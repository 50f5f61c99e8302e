//! Histograms: a sketch of the values of an interval.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use metrics::HistogramFn;
use metrics_util::storage::Summary;
use tokio::time::Instant;

use super::series::{Report, Series, SeriesKind, is_before, locked};
use crate::metric::Key;

pub(super) struct HistogramSeries {
    interval: Mutex<Interval>,
    /// The values in all reports of the last report's second. Locked before the interval.
    in_second: Mutex<Option<Distribution>>,
    keys: Option<HistogramKeys>,
    not_finite: Arc<AtomicU64>,
}

struct Interval {
    recorded: Distribution,
    used: Instant,
}

/// The distribution of recorded values.
struct Distribution {
    sketch: Summary,
    /// Saturates at the greatest finite number.
    sum: f64,
}

/// The keys of a histogram's parts.
pub(super) struct HistogramKeys {
    pub(super) count: Key,
    pub(super) sum: Key,
    pub(super) quantiles: Vec<(f64, Key)>,
}

/// The most values that a sketch counts, far from where its counters would overflow.
const MAX_VALUES: u64 = 1 << 62;

impl HistogramSeries {
    pub(super) fn new(keys: Option<HistogramKeys>, not_finite: Arc<AtomicU64>) -> Self {
        let interval =
            Mutex::new(Interval { recorded: Distribution::default(), used: Instant::now() });
        Self { interval, in_second: Mutex::default(), keys, not_finite }
    }
}

impl HistogramFn for HistogramSeries {
    fn record(&self, value: f64) {
        if value.is_finite() {
            locked(&self.interval).recorded.add(value);
        } else {
            self.not_finite.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn record_many(&self, value: f64, count: usize) {
        match (value.is_finite(), count) {
            (_, 0) => {}
            (_, 1) => self.record(value),
            (true, _) => {
                let many = Distribution::many(value, count as u64);
                locked(&self.interval).recorded.merge(&many);
            }
            (false, _) => {
                self.not_finite.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Series for HistogramSeries {
    const KIND: SeriesKind = SeriesKind::Histogram;

    fn report(&self, report: &mut Report) {
        let mut in_second = locked(&self.in_second);
        let mut interval = locked(&self.interval);
        let is_updated = interval.recorded.count() > 0;
        if is_updated {
            interval.used = report.now;
        }
        let is_idle = is_before(interval.used, report.idle_since);
        let recorded = is_updated.then(|| std::mem::take(&mut interval.recorded));
        // Callers that record need not wait for the rest.
        drop(interval);
        report.any_idle |= is_idle;
        if !report.is_shared {
            *in_second = recorded;
        } else if let Some(recorded) = recorded {
            match &mut *in_second {
                Some(said) => said.merge(&recorded),
                None => *in_second = Some(recorded),
            }
        }
        let Some(keys) = self.keys.as_ref().filter(|_| !is_idle) else {
            return;
        };
        let said = in_second.as_ref();
        report.put(&keys.count, said.map_or(0, Distribution::count) as f64);
        report.put(&keys.sum, said.map_or(0.0, |it| it.sum));
        for (quantile, key) in &keys.quantiles {
            // An interval without values has no quantiles.
            if let Some(value) = said.and_then(|it| it.quantile(*quantile)) {
                report.put(key, value);
            }
        }
    }

    fn is_updated(&self) -> bool {
        locked(&self.interval).recorded.count() > 0
    }

    fn is_idle(&self, report: &Report) -> bool {
        is_before(locked(&self.interval).used, report.idle_since)
    }

    fn each_key(&self, call: impl FnMut(&Key)) {
        if let Some(HistogramKeys { count, sum, quantiles }) = &self.keys {
            [count, sum].into_iter().chain(quantiles.iter().map(|(_, key)| key)).for_each(call);
        }
    }
}

impl Distribution {
    /// Returns `count` equal values, in as many steps as the number has bits.
    fn many(value: f64, count: u64) -> Self {
        let mut many = Self::default();
        let mut power = Self::default().sketch;
        power.add(value);
        let mut rest = count.min(MAX_VALUES);
        loop {
            if rest & 1 == 1 {
                merge(&mut many.sketch, &power);
            }
            rest >>= 1;
            if rest == 0 {
                break;
            }
            let other = power.clone();
            merge(&mut power, &other);
        }
        many.sum = finite(value * count as f64);
        many
    }

    fn add(&mut self, value: f64) {
        if self.count() < MAX_VALUES {
            self.sketch.add(value);
        }
        self.sum = finite(self.sum + value);
    }

    fn merge(&mut self, other: &Self) {
        if self.count() < MAX_VALUES {
            merge(&mut self.sketch, &other.sketch);
        }
        self.sum = finite(self.sum + other.sum);
    }

    fn count(&self) -> u64 {
        self.sketch.count() as u64
    }

    /// Returns the nearest-rank quantile: the smallest value such that this share of all values is not
    /// greater, as the sketch knows it. 0 and 1 are the smallest and the greatest value, exactly.
    fn quantile(&self, quantile: f64) -> Option<f64> {
        let last = self.count().checked_sub(1)?;
        let rank = ((quantile * self.count() as f64).ceil() as u64).saturating_sub(1).min(last);
        // The sketch takes a share of the last rank, rounded down.
        let share = match rank {
            0 => 0.0,
            rank if rank == last => 1.0,
            rank => (rank as f64 + 0.5) / last as f64,
        };
        let value = self.sketch.quantile(share.min(1.0))?;
        // The middle of a bin may be outside of all values, or infinite.
        Some(value.clamp(self.sketch.min(), self.sketch.max()))
    }
}

/// A sketch with an error of at most 1 % of the value, in at most 2,048 bins of 8 bytes on each side of zero;
/// beyond that the lowest bins are merged. That is enough for values from a nanosecond to 10^8 seconds (sections
/// 2.2 and 4 of the paper).
impl Default for Distribution {
    fn default() -> Self {
        Self { sketch: Summary::new(0.01, 2048, 1e-9), sum: 0.0 }
    }
}

fn merge(sketch: &mut Summary, other: &Summary) {
    // Merging fails only for sketches of different precision.
    let merged = sketch.merge(other);
    debug_assert!(merged.is_ok());
}

fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sketch_keeps_its_precision_and_memory_bounds() {
        let Distribution { mut sketch, .. } = Distribution::default();
        // A hundredth of a microsecond to a hundred days, and more than the sketch has bins for.
        let values = (0..200_000).map(|at| 1e-8 * 1e15_f64.powf(f64::from(at) / 200_000.0));
        values.clone().for_each(|value| sketch.add(value));
        for quantile in [0.1, 0.5, 0.9, 0.99] {
            let exact = values.clone().nth((quantile * 199_999.0) as usize).unwrap();
            let found = sketch.quantile(quantile).unwrap();
            assert!((found / exact - 1.0).abs() < 0.0101, "{quantile}: {found}, not {exact}");
        }
        assert!(sketch.estimated_size() <= 48 * 1024, "{}", sketch.estimated_size());
    }

    // FAULTS A15
    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        for count in 1..=250_u64 {
            let mut recorded = Distribution::default();
            (1..=count).for_each(|value| recorded.add(value as f64));
            for quantile in [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0] {
                let exact = (quantile * count as f64).ceil().max(1.0);
                let found = recorded.quantile(quantile).unwrap();
                assert!((found / exact - 1.0).abs() < 0.0101, "{quantile} of {count}: {found}");
            }
        }
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    /// Values of all magnitudes and both signs, more than the sketch has bins for.
    fn value() -> impl Strategy<Value = f64> {
        (-30.0..30.0_f64, any::<bool>()).prop_map(|(exponent, is_negative)| {
            let value = 10_f64.powf(exponent);
            if is_negative { -value } else { value }
        })
    }

    proptest! {
        // FAULTS A10
        #[test]
        fn record_many_equals_many_records(
            recorded in proptest::collection::vec((value(), 1..100_u64), 1..40),
        ) {
            let (mut at_once, mut by_one) = (Distribution::default(), Distribution::default());
            for &(value, count) in &recorded {
                at_once.merge(&Distribution::many(value, count));
                (0..count).for_each(|_| by_one.add(value));
            }
            prop_assert_eq!(at_once.count(), by_one.count());
            prop_assert!((at_once.sum - by_one.sum).abs() <= 1e-9 * by_one.sum.abs().max(1e30));
            for quantile in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
                prop_assert_eq!(at_once.quantile(quantile), by_one.quantile(quantile));
            }
        }
    }
}
