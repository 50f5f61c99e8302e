//! The points of a key in bounded memory, with their peaks.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use metrics_client::Point;

use super::TimeAxis;

/// Points of one key, in bins of equal width. A bin keeps its first, lowest, highest and last point: what is drawn
/// from these, at no more columns than there are bins, is what all points would look like.
#[derive(Debug)]
pub(crate) struct BinnedSeries {
    bins: BTreeMap<i64, Bin>,
    /// A bin has `1 << shift` seconds.
    shift: u32,
    /// The seconds between neighbours.
    steps: Histogram<u64>,
    summary: Option<Bin>,
    /// How many points were left out because they are not finite.
    skipped: u64,
}

/// What is kept of neighbouring points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bin {
    pub(crate) first: Point,
    pub(crate) min: Point,
    pub(crate) max: Point,
    pub(crate) last: Point,
}

/// How many bins there are at most: when there are more, neighbours are merged. Twice the columns of the widest chart, so
/// that half of them is enough.
const MAX_BINS: usize = 8192;

/// A line breaks where points are further apart than this many usual steps.
const GAP_STEPS: i64 = 3;

impl BinnedSeries {
    pub(crate) fn new() -> Self {
        // It grows by itself up to any u64, and two digits are enough.
        let steps = Histogram::new(2).expect("2 digits are valid");
        Self { bins: BTreeMap::new(), shift: 0, steps, summary: None, skipped: 0 }
    }

    /// Adds a point. Points may come in any order; of two in the same second the later call counts, as long as a bin is
    /// one second.
    pub(crate) fn push(&mut self, point: Point) {
        if !point.value.is_finite() {
            self.skipped += 1;
            return;
        }
        let new = Bin { first: point, min: point, max: point, last: point };
        if let Some(summary) = &mut self.summary {
            if summary.last.timestamp < point.timestamp {
                self.steps.saturating_record(point.timestamp.abs_diff(summary.last.timestamp));
            }
            summary.merge(new);
        } else {
            self.summary = Some(new);
        }
        let bin = self.bins.entry(point.timestamp >> self.shift).or_insert(new);
        if self.shift == 0 {
            *bin = new;
        } else {
            bin.merge(new);
        }
        while self.bins.len() > MAX_BINS {
            self.halve();
        }
    }

    /// Merges each two neighbours.
    fn halve(&mut self) {
        self.shift += 1;
        let mut merged = BTreeMap::<i64, Bin>::new();
        for (index, bin) in std::mem::take(&mut self.bins) {
            merged.entry(index >> 1).and_modify(|earlier| earlier.merge(bin)).or_insert(bin);
        }
        self.bins = merged;
    }

    /// Returns the first, lowest, highest and last point; `None` if there is no finite one.
    pub(crate) fn summary(&self) -> Option<Bin> {
        self.summary
    }

    /// Returns how many points were left out because they are not finite.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns the lines that show the points in `columns` columns, each as points in ascending order. Between two lines is a
    /// gap: no point for more than three times the usual step.
    pub(crate) fn lines(&self, axis: &TimeAxis, columns: usize) -> Vec<Vec<Point>> {
        let column = |timestamp| (axis.fraction(timestamp) * columns as f64) as i64;
        let usual = i64::try_from(self.steps.value_at_quantile(0.75)).unwrap_or(i64::MAX);
        let max_step = usual.saturating_mul(GAP_STEPS);
        let mut lines = Vec::<Vec<Point>>::new();
        let mut bins = self.bins.values().copied().peekable();
        while let Some(mut bin) = bins.next() {
            let at = column(bin.first.timestamp);
            while let Some(next) = bins.next_if(|next| column(next.first.timestamp) == at) {
                bin.merge(next);
            }
            let last = lines.last().and_then(|line| line.last());
            if last.is_none_or(|last| bin.first.timestamp.saturating_sub(last.timestamp) > max_step)
            {
                lines.push(Vec::new());
            }
            if let Some(line) = lines.last_mut() {
                bin.append_to(line);
            }
        }
        lines
    }
}

impl Bin {
    fn merge(&mut self, other: Self) {
        if other.first.timestamp < self.first.timestamp {
            self.first = other.first;
        }
        if other.last.timestamp >= self.last.timestamp {
            self.last = other.last;
        }
        if other.min.value < self.min.value {
            self.min = other.min;
        }
        if other.max.value > self.max.value {
            self.max = other.max;
        }
    }

    /// Appends its points, in the order of time.
    fn append_to(&self, line: &mut Vec<Point>) {
        let (early, late) = if self.min.timestamp <= self.max.timestamp {
            (self.min, self.max)
        } else {
            (self.max, self.min)
        };
        for point in [self.first, early, late, self.last] {
            if line.last() != Some(&point) {
                line.push(point);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: impl IntoIterator<Item = (i64, f64)>) -> BinnedSeries {
        let mut series = BinnedSeries::new();
        points.into_iter().for_each(|(second, value)| series.push(Point::new(value, second)));
        series
    }

    fn axis(series: &BinnedSeries) -> TimeAxis {
        let summary = series.summary().unwrap();
        TimeAxis::new(summary.first.timestamp, summary.last.timestamp)
    }

    #[test]
    fn peaks_survive_any_number_of_points() {
        let spike = |second| if second == 777_777 { 1e6 } else { f64::from(second as i32 % 10) };
        let series = series((0..1_000_000).map(|second| (second, spike(second))));
        assert!(series.bins.len() <= MAX_BINS, "{}", series.bins.len());
        let lines = series.lines(&axis(&series), 100);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains(&Point::new(1e6, 777_777)));
        assert!(lines[0].is_sorted_by_key(|point| point.timestamp));
        assert!(lines[0].len() <= 4 * 101, "{}", lines[0].len());
        assert_eq!(lines[0].first().unwrap().timestamp, 0);
        assert_eq!(lines[0].last().unwrap().timestamp, 999_999);
    }

    #[test]
    fn gap_breaks_the_line() {
        let regular =
            (0..100).map(|n| (n * 10, 1.0)).filter(|(second, _)| !(300..340).contains(second));
        let lines = series(regular.clone());
        let lines = lines.lines(&axis(&lines), 1000);
        assert_eq!(lines.iter().map(|line| line[0].timestamp).collect::<Vec<_>>(), [0, 340]);
        // Neither one missing point nor a gap narrower than a column breaks it.
        let one_missing =
            series((0..100).map(|n| (n * 10, 1.0)).filter(|(second, _)| *second != 300));
        assert_eq!(one_missing.lines(&axis(&one_missing), 1000).len(), 1);
        let narrow = series(regular);
        assert_eq!(narrow.lines(&axis(&narrow), 4).len(), 1);
    }

    #[test]
    fn points_come_in_any_order_and_twice() {
        let series = series([(30, 3.0), (10, 1.0), (20, 9.0), (20, 2.0)]);
        let lines = series.lines(&axis(&series), 100);
        let expected =
            [(1.0, 10), (2.0, 20), (3.0, 30)].map(|(value, second)| Point::new(value, second));
        assert_eq!(lines.concat(), expected);
    }

    #[test]
    fn values_that_are_not_finite_are_skipped() {
        let series = series([(1, f64::NAN), (2, f64::INFINITY), (3, 1.0), (4, f64::NEG_INFINITY)]);
        assert_eq!(series.skipped(), 3);
        assert_eq!(series.lines(&axis(&series), 10), [[Point::new(1.0, 3)]]);
        assert!(super::BinnedSeries::new().summary().is_none());
    }

    #[test]
    fn extreme_seconds_are_points_too() {
        let series = series([(i64::MIN, 1.0), (0, 2.0), (i64::MAX, 3.0)]);
        let points = series.lines(&axis(&series), 10).concat();
        assert_eq!(points.len(), 3);
    }
}
