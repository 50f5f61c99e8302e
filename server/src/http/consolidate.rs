//! Merges the points of a series into fewer ones.

use metrics_client::Point;

/// How the values of several points become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PointAggregate {
    #[default]
    Average,
    Min,
    Max,
    Last,
    Sum,
}

impl PointAggregate {
    pub(super) const NAMES: [&str; 5] = ["avg", "min", "max", "last", "sum"];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "avg" => Self::Average,
            "min" => Self::Min,
            "max" => Self::Max,
            "last" => Self::Last,
            "sum" => Self::Sum,
            _ => return None,
        })
    }
}

/// Merges ascending points into at most `max`: each stands for as many seconds, which are doubled until they fit.
///
/// A point that is alone in its seconds stays as it is; the timestamp of others is the first one of them.
#[derive(Debug)]
pub(super) struct Consolidator {
    max: usize,
    aggregation: PointAggregate,
    /// How many seconds one point stands for.
    width: i64,
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// The number of the bucket: its first second, divided by the width.
    index: i64,
    first: i64,
    count: u64,
    /// The sum, the least, the greatest or the last value.
    value: f64,
}

impl Consolidator {
    /// `span` is the number of seconds that were asked for, if it is known.
    pub(super) fn new(max: usize, aggregation: PointAggregate, span: Option<i64>) -> Self {
        let max = max.max(1);
        let width = span.map_or(1, |span| {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            (span / max).saturating_add(i64::from(span % max > 0)).max(1)
        });
        Self { max, aggregation, width, buckets: Vec::new() }
    }

    /// Returns one without points that merges in the same way.
    pub(super) fn new_for(&self, span: Option<i64>) -> Self {
        Self::new(self.max, self.aggregation, span)
    }

    /// Adds a point behind all others.
    pub(super) fn add(&mut self, point: Point) {
        self.push(Bucket {
            index: point.timestamp.div_euclid(self.width),
            first: point.timestamp,
            count: 1,
            value: point.value,
        });
        while self.buckets.len() > self.max {
            let before = std::mem::take(&mut self.buckets);
            let width = self.width;
            self.width = width.saturating_mul(2);
            for bucket in before {
                self.push(Bucket { index: bucket.first.div_euclid(self.width), ..bucket });
            }
            if self.width == width {
                break;
            }
        }
    }

    fn push(&mut self, new: Bucket) {
        match self.buckets.last_mut().filter(|last| last.index == new.index) {
            None => self.buckets.push(new),
            Some(last) => {
                last.count += new.count;
                last.value = match self.aggregation {
                    PointAggregate::Average | PointAggregate::Sum => last.value + new.value,
                    PointAggregate::Min => last.value.min(new.value),
                    PointAggregate::Max => last.value.max(new.value),
                    PointAggregate::Last => new.value,
                };
            }
        }
    }

    /// Returns the merged points, and removes them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Point> {
        let aggregation = self.aggregation;
        std::mem::take(&mut self.buckets).into_iter().map(move |bucket| {
            let value = match aggregation {
                PointAggregate::Average => bucket.value / bucket.count as f64,
                _ => bucket.value,
            };
            Point { timestamp: bucket.first, value }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merged(
        max: usize,
        aggregation: PointAggregate,
        span: Option<i64>,
        points: impl IntoIterator<Item = (i64, f64)>,
    ) -> Vec<(i64, f64)> {
        let mut consolidator = Consolidator::new(max, aggregation, span);
        points.into_iter().for_each(|(at, value)| consolidator.add(Point::new(value, at)));
        consolidator.take().map(|point| (point.timestamp, point.value)).collect()
    }

    #[test]
    fn few_points_stay_as_they_are() {
        let points = [(1, 0.5), (7, 1.5), (1_000_000, -2.0)];
        assert_eq!(merged(3, PointAggregate::Average, None, points), points);
        assert_eq!(
            merged(3, PointAggregate::Average, Some(3_000_000), points),
            [(1, 1.0), (1_000_000, -2.0)]
        );
    }

    #[test]
    fn values_are_merged_as_wanted() {
        let points = [(0, 1.0), (1, 5.0), (2, 3.0), (3, 2.0)];
        for (aggregation, expected) in [
            ("avg", [3.0, 2.5]),
            ("min", [1.0, 2.0]),
            ("max", [5.0, 3.0]),
            ("last", [5.0, 2.0]),
            ("sum", [6.0, 5.0]),
        ] {
            let merged = merged(2, PointAggregate::parse(aggregation).unwrap(), Some(4), points);
            assert_eq!(merged, [(0, expected[0]), (2, expected[1])], "{aggregation}");
        }
        assert!(PointAggregate::NAMES.iter().all(|name| PointAggregate::parse(name).is_some()));
    }

    proptest! {
        #[test]
        fn no_more_points_than_asked_and_no_value_lost(
            seconds in prop::collection::btree_set(prop_oneof![-1000i64..1000, any::<i64>()], 0..200),
            max in 1usize..50,
            span in prop::option::of(1i64..),
        ) {
            let points: Vec<_> = seconds.iter().map(|&second| (second, 1.0)).collect();
            let merged = merged(max, PointAggregate::Sum, span, points.iter().copied());
            // Seconds before and after 1970 are never merged.
            prop_assert!(merged.len() <= max.max(2));
            prop_assert!(merged.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert_eq!(merged.iter().map(|&(_, value)| value).sum::<f64>(), points.len() as f64);
        }
    }
}
