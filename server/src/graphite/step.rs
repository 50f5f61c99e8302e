//! The native step of a series, and the interval of points that a range of seconds covers.

use metrics_client::Point;

/// The step of a series that has no two points.
pub(super) const DEFAULT_STEP: i64 = 60;

/// Returns the commonest gap between consecutive points, the smallest if there are several. `None` if there are
/// fewer than two points.
pub(super) fn native_step(points: &[Point]) -> Option<i64> {
    let gaps = points.windows(2).map(|pair| pair[1].timestamp.saturating_sub(pair[0].timestamp));
    // Most series have few different gaps, and the commonest one is met first.
    let mut counts: Vec<(i64, usize)> = Vec::new();
    for gap in gaps {
        match counts.iter().position(|(known, _)| *known == gap) {
            Some(index) => counts[index].1 += 1,
            None if counts.len() < MAX_GAPS => counts.push((gap, 1)),
            // A series this irregular has no step; a few gaps are as good as all.
            None => {}
        }
    }
    counts.into_iter().max_by_key(|&(gap, count)| (count, -gap)).map(|(gap, _)| gap.max(1))
}

/// How many different gaps are counted.
const MAX_GAPS: usize = 32;

/// An interval that begins and ends at multiples of its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: i64,
    /// The second behind the last point's interval.
    pub(super) end: i64,
    pub(super) step: i64,
}

impl Interval {
    /// Returns the interval of the points after `from`, up to `until`, with at least one point.
    pub(super) fn new(from: i64, until: i64, step: i64) -> Self {
        let start = from - from.rem_euclid(step) + step;
        let end = until - until.rem_euclid(step) + step;
        Self { start, end: if end > start { end } else { start + step }, step }
    }

    /// Returns the number of points.
    pub(super) fn len(&self) -> usize {
        usize::try_from((self.end - self.start) / self.step).unwrap_or(0)
    }

    /// Returns the index of the point that covers this second, if it is in the interval.
    pub(super) fn index(&self, second: i64) -> Option<usize> {
        if second < self.start || second >= self.end {
            return None;
        }
        usize::try_from((second - self.start) / self.step).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: &[i64]) -> Option<i64> {
        native_step(&seconds.iter().map(|&at| Point::new(0.0, at)).collect::<Vec<_>>())
    }

    #[test]
    fn step_is_the_commonest_gap() {
        assert_eq!(step(&[]), None);
        assert_eq!(step(&[5]), None);
        assert_eq!(step(&[0, 10, 20, 60, 70]), Some(10));
        assert_eq!(step(&[0, 60, 120, 121]), Some(60));
        assert_eq!(step(&[0, 30, 40]), Some(10));
        assert_eq!(step(&[i64::MIN, i64::MAX]), Some(i64::MAX));
        let irregular: Vec<_> = (0..100).map(|n| n * n).collect();
        assert!(step(&irregular).is_some());
    }

    #[test]
    fn interval_excludes_from_and_includes_until() {
        let interval = |from, until, step| {
            let Interval { start, end, .. } = Interval::new(from, until, step);
            (start, end)
        };
        assert_eq!(interval(586, 596, 1), (587, 597));
        assert_eq!(interval(100, 200, 10), (110, 210));
        assert_eq!(interval(101, 209, 10), (110, 210));
        assert_eq!(interval(101, 105, 60), (120, 180));
        assert_eq!(interval(-15, -5, 10), (-10, 0));
        let interval = Interval::new(100, 120, 10);
        assert_eq!(interval.len(), 2);
        assert_eq!(
            [109, 110, 119, 120, 129, 130].map(|at| interval.index(at)),
            [None, Some(0), Some(0), Some(1), Some(1), None]
        );
    }
}
