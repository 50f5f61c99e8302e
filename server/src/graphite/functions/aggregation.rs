//! Aggregations: one value of several, without the missing ones.

/// How several values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    Average,
    /// As if missing values were zero.
    AverageZero,
    Median,
    Sum,
    Min,
    Max,
    /// The first value less the others.
    Diff,
    Stddev,
    Count,
    Range,
    /// Missing if one of the values is.
    Multiply,
    Last,
}

impl Aggregation {
    pub(super) const NAMES: &[&str] = &[
        "average", "avg", "avg_zero", "count", "current", "diff", "last", "max", "median", "min",
        "multiply", "range", "rangeOf", "stddev", "sum", "total",
    ];

    /// Parses a name, which may end in `Series`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name.strip_suffix("Series").unwrap_or(name) {
            "average" | "avg" => Self::Average,
            "avg_zero" => Self::AverageZero,
            "median" => Self::Median,
            "sum" | "total" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            "diff" => Self::Diff,
            "stddev" => Self::Stddev,
            "count" => Self::Count,
            "range" | "rangeOf" => Self::Range,
            "multiply" => Self::Multiply,
            "last" | "current" => Self::Last,
            _ => return None,
        })
    }

    /// Returns true for a name by which series can be grouped.
    pub(super) fn is_callback(name: &str) -> bool {
        Self::parse(name).is_some()
    }

    /// Aggregates `values`; `NaN` stands for a missing value, also as the result.
    pub(super) fn of(self, values: &[f64]) -> f64 {
        let mut present = values.iter().copied().filter(|value| !value.is_nan());
        match self {
            Self::Average => average(values),
            Self::AverageZero if values.is_empty() => f64::NAN,
            Self::AverageZero => present.fold(0.0, |sum, value| sum + value) / values.len() as f64,
            Self::Median => {
                let mut sorted: Vec<_> = present.collect();
                sorted.sort_unstable_by(f64::total_cmp);
                median(&sorted)
            }
            Self::Sum => present.reduce(|sum, value| sum + value).unwrap_or(f64::NAN),
            Self::Min => present.reduce(f64::min).unwrap_or(f64::NAN),
            Self::Max => present.reduce(f64::max).unwrap_or(f64::NAN),
            Self::Diff => present.reduce(|rest, value| rest - value).unwrap_or(f64::NAN),
            Self::Stddev => {
                let average = average(values);
                let (sum, count) = present.fold((0.0, 0_usize), |(sum, count), value| {
                    (sum + (value - average) * (value - average), count + 1)
                });
                if count == 0 { f64::NAN } else { (sum / count as f64).sqrt() }
            }
            Self::Count => present.count() as f64,
            Self::Range => Self::Max.of(values) - Self::Min.of(values),
            Self::Multiply => values.iter().product(),
            Self::Last => present.next_back().unwrap_or(f64::NAN),
        }
    }
}

fn average(values: &[f64]) -> f64 {
    let present = values.iter().filter(|value| !value.is_nan());
    let (sum, count) = present.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { f64::NAN } else { sum / count as f64 }
}

/// Returns the median of sorted values.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => f64::NAN,
        Some(upper) if sorted.len().is_multiple_of(2) => (sorted[middle - 1] + upper) / 2.0,
        Some(value) => *value,
    }
}

/// Returns the percentile of values of which some may be missing.
pub(super) fn percentile(values: &[f64], n: f64, interpolate: bool) -> f64 {
    let mut sorted: Vec<_> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(&largest) = sorted.last() else { return f64::NAN };
    let fractional_rank = n / 100.0 * (sorted.len() + 1) as f64;
    let mut rank = fractional_rank.max(0.0) as usize;
    let fraction = fractional_rank - rank as f64;
    if !interpolate {
        rank += usize::from(fraction > 0.0);
    }
    let value =
        if rank == 0 { sorted[0] } else { sorted.get(rank - 1).copied().unwrap_or(largest) };
    match sorted.get(rank) {
        Some(next) if interpolate => value + fraction * (next - value),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: f64 = f64::NAN;

    #[test]
    fn aggregations_skip_missing_values() {
        let of = |name: &str, values: &[f64]| {
            let value = Aggregation::parse(name).unwrap().of(values);
            if value.is_nan() { "none".into() } else { value.to_string() }
        };
        for (name, some, none) in [
            ("average", "4", "none"),
            ("avg_zero", "3", "0"),
            ("median", "3", "none"),
            ("sum", "12", "none"),
            ("min", "1", "none"),
            ("max", "8", "none"),
            ("diff", "4", "none"),
            ("stddev", "2.943920288775949", "none"),
            ("count", "3", "0"),
            ("range", "7", "none"),
            ("multiply", "none", "none"),
            ("last", "1", "none"),
        ] {
            assert_eq!(of(name, &[8.0, 3.0, N, 1.0]), some, "{name}");
            assert_eq!(of(name, &[N, N]), none, "{name}");
        }
        assert_eq!(of("multiply", &[8.0, 3.0]), "24");
        assert_eq!(of("median", &[4.0, 1.0, 3.0, 2.0]), "2.5");
        assert_eq!(of("sumSeries", &[1.0, 2.0]), "3");
        assert!(Aggregation::parse("nothing").is_none());
        assert!(Aggregation::NAMES.iter().all(|name| Aggregation::parse(name).is_some()));
    }

    #[test]
    fn percentile_is_a_value_or_between_two() {
        let values = [5.0, N, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(percentile(&values, 50.0, false), 3.0);
        assert_eq!(percentile(&values, 51.0, false), 4.0);
        assert_eq!(percentile(&values, 25.0, true), 1.5);
        assert_eq!(percentile(&values, 100.0, false), 5.0);
        assert_eq!(percentile(&values, 1000.0, true), 5.0);
        assert_eq!(percentile(&values, 0.0, false), 1.0);
        assert!(percentile(&[N], 50.0, false).is_nan());
    }
}
