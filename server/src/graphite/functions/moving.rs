//! Functions over a window that moves: they read the points before the range too.

use std::collections::VecDeque;

use super::{
    Aggregation, Args, Failure, Outcome, RenderError, Scope, Series, TimeRange, Value,
    aggregation::median, parse_offset,
};
use crate::graphite::python::round_6;

/// Returns the range with the window before it.
pub(super) fn range(scope: &Scope<'_>, args: &Args) -> Result<TimeRange, Failure> {
    let TimeRange { from, until, now } = scope.range;
    Ok(TimeRange { from: from.saturating_sub(preview_seconds(args)?), until, now })
}

/// Returns how many seconds the window has.
fn preview_seconds(args: &Args) -> Result<i64, Failure> {
    let seconds = match args.value(1) {
        Value::Text(interval) => parse_offset(interval).map_err(RenderError::from)?.abs(),
        _ => {
            let points = args.integer(1).unwrap_or(0);
            if points < 1 {
                return Err("the window must have at least one point".into());
            }
            points.checked_mul(args.max_step(0)).ok_or("the window is too large")?
        }
    };
    if seconds > MAX_WINDOW_SECONDS {
        return Err("the window is too large".into());
    }
    Ok(seconds)
}

/// Ten years.
const MAX_WINDOW_SECONDS: i64 = 10 * 366 * 24 * 60 * 60;

pub(super) fn window(scope: &Scope<'_>, args: Args, read: Vec<Series>) -> Outcome {
    let function = args.text(2).unwrap_or("average").to_owned();
    moving(scope, &args, read, &function, args.float(3))
}

/// Defines functions of a window, each by one aggregation.
macro_rules! windows {
    ($($function:ident $name:literal)*) => {$(
        pub(super) fn $function(scope: &Scope<'_>, args: Args, read: Vec<Series>) -> Outcome {
            moving(scope, &args, read, $name, args.float(2))
        }
    )*};
}

windows! {
    average "average"
    median_of "median"
    sum "sum"
    min "min"
    max "max"
}

fn moving(
    scope: &Scope<'_>,
    args: &Args,
    read: Vec<Series>,
    function: &str,
    x_files_factor: Option<f64>,
) -> Outcome {
    let aggregation = Aggregation::parse(function).ok_or("unknown aggregation")?;
    let preview = preview_seconds(args)?;
    let (first, rest) = function.split_at(1);
    let tag = format!("moving{}{}", first.to_ascii_uppercase(), rest.to_ascii_lowercase());
    let results = read.into_iter().map(|mut series| {
        let (points, window) = window_of(args, &series, preview);
        series.tags.set(tag.as_str(), args.display(1));
        let x_files_factor = x_files_factor.unwrap_or(series.x_files_factor);
        let values = windows_of(scope, &series.values, points, aggregation, x_files_factor)?;
        let name = format!("{tag}({},{window})", series.name);
        series.start += preview;
        Ok(series.derived(name, values))
    });
    results.collect()
}

/// Returns the points of a window, and how it is shown in a name.
fn window_of(args: &Args, series: &Series, preview: i64) -> (usize, String) {
    match args.value(1) {
        Value::Text(interval) => {
            (usize::try_from(preview / series.step).unwrap_or(0), format!("\"{interval}\""))
        }
        _ => (usize::try_from(args.integer(1).unwrap_or(1)).unwrap_or(1), args.display(1)),
    }
}

/// Aggregates the window before each value, from the first that has a whole one.
fn windows_of(
    scope: &Scope<'_>,
    values: &[f64],
    points: usize,
    aggregation: Aggregation,
    x_files_factor: f64,
) -> Result<Vec<f64>, Failure> {
    if values.len() <= points {
        return Ok(Vec::new());
    }
    let windows = values.len() - points;
    let is_incremental = matches!(
        aggregation,
        Aggregation::Average
            | Aggregation::Sum
            | Aggregation::Min
            | Aggregation::Max
            | Aggregation::Count
            | Aggregation::Range
    );
    let work = match aggregation {
        _ if is_incremental => values.len(),
        // Moves values in memory, many at once.
        Aggregation::Median => values.len().saturating_mul(1 + points / 16),
        _ => windows.saturating_mul(points),
    };
    scope.budget.charge_work(work)?;
    let is_enough = |present: usize| {
        present > 0 && points > 0 && present as f64 / points as f64 >= x_files_factor
    };
    let mut results = Vec::with_capacity(windows);
    if is_incremental {
        let mut window = SlidingWindow::default();
        for (index, &value) in values[..values.len() - 1].iter().enumerate() {
            if index >= points {
                results.push(window.value(aggregation, is_enough));
                window.pop();
            }
            window.push(value);
        }
        results.push(window.value(aggregation, is_enough));
    } else if aggregation == Aggregation::Median {
        let mut sorted: Vec<f64> = Vec::with_capacity(points);
        let position = |sorted: &[f64], value: f64| sorted.partition_point(|other| *other < value);
        for index in 0..values.len() {
            if index >= points {
                results.push(if is_enough(sorted.len()) { median(&sorted) } else { f64::NAN });
                if let Some(old) = values.get(index - points).filter(|value| !value.is_nan()) {
                    let at = position(&sorted, *old);
                    if at < sorted.len() {
                        sorted.remove(at);
                    }
                }
            }
            if !values[index].is_nan() {
                sorted.insert(position(&sorted, values[index]), values[index]);
            }
        }
    } else {
        let mut present = Vec::with_capacity(points);
        for window in values[..values.len() - 1].windows(points.max(1)) {
            present.clear();
            present.extend(window.iter().filter(|value| !value.is_nan()));
            results.push(if is_enough(present.len()) {
                aggregation.of(&present)
            } else {
                f64::NAN
            });
        }
    }
    Ok(results)
}

/// A window whose totals are known at each moment: two stacks, so that no sum is reduced by what leaves, which
/// would leave rounding errors behind.
#[derive(Debug, Default)]
struct SlidingWindow {
    /// Totals of the older part: each is that of its value and all newer ones of this part.
    older: Vec<WindowTotals>,
    newer: VecDeque<f64>,
    newer_totals: WindowTotals,
}

#[derive(Clone, Copy, Debug)]
struct WindowTotals {
    count: usize,
    sum: f64,
    min: f64,
    max: f64,
}

impl Default for WindowTotals {
    fn default() -> Self {
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl WindowTotals {
    fn with(self, value: f64) -> Self {
        if value.is_nan() {
            return self;
        }
        self.and(Self { count: 1, sum: value, min: value, max: value })
    }

    fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

impl SlidingWindow {
    fn push(&mut self, value: f64) {
        self.newer.push_back(value);
        self.newer_totals = self.newer_totals.with(value);
    }

    /// Removes the oldest value.
    fn pop(&mut self) {
        if self.older.is_empty() {
            let mut totals = WindowTotals::default();
            while let Some(value) = self.newer.pop_back() {
                totals = totals.with(value);
                self.older.push(totals);
            }
            self.newer_totals = WindowTotals::default();
        }
        self.older.pop();
    }

    fn value(&self, aggregation: Aggregation, is_enough: impl Fn(usize) -> bool) -> f64 {
        let totals = self.older.last().copied().unwrap_or_default().and(self.newer_totals);
        if !is_enough(totals.count) {
            return f64::NAN;
        }
        match aggregation {
            Aggregation::Average => totals.sum / totals.count as f64,
            Aggregation::Sum => totals.sum,
            Aggregation::Min => totals.min,
            Aggregation::Max => totals.max,
            Aggregation::Range => totals.max - totals.min,
            _ => totals.count as f64,
        }
    }
}

pub(super) fn exponential(scope: &Scope<'_>, args: Args, read: Vec<Series>) -> Outcome {
    let preview = preview_seconds(&args)?;
    let constant = match args.value(1) {
        Value::Text(_) => 2.0 / (preview + 1) as f64,
        _ => 2.0 / (args.integer(1).unwrap_or(1) + 1) as f64,
    };
    let results = read.into_iter().map(|mut series| {
        let (points, window) = window_of(&args, &series, preview);
        scope.budget.charge_work(series.values.len())?;
        series.tags.set("exponentialMovingAverage", args.display(1));
        let (before, after) = series.values.split_at(points.min(series.values.len()));
        let mut average = Aggregation::Average.of(before);
        if average.is_nan() {
            average = 0.0;
        }
        let mut values = vec![round_6(average)];
        values.extend(after.iter().map(|&value| {
            if value.is_nan() {
                return value;
            }
            average = constant * value + (1.0 - constant) * average;
            round_6(average)
        }));
        let name = format!("exponentialMovingAverage({},{window})", series.name);
        series.start += preview;
        Ok(series.derived(name, values))
    });
    results.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graphite::{
        TimeZone,
        limits::{Budget, RenderLimits},
    };

    proptest! {
        #[test]
        fn windows_are_those_of_the_definition(
            values in prop::collection::vec(prop_oneof![-9.0..9.0, Just(f64::NAN)], 0..40),
            points in 0_usize..12,
            x_files_factor in prop_oneof![Just(0.0), Just(0.5)],
        ) {
            let budget = Budget::new(RenderLimits::default());
            let range = TimeRange { from: 0, until: 1, now: 1 };
            let scope = Scope { range, tz: &TimeZone::UTC, x_files_factor: 0.0, budget: &budget };
            for name in Aggregation::NAMES {
                let aggregation = Aggregation::parse(name).unwrap();
                let got = windows_of(&scope, &values, points, aggregation, x_files_factor).unwrap();
                let expected: Vec<_> = (points..values.len())
                    .map(|end| {
                        let mut window = values[end - points..end].to_vec();
                        window.retain(|value| !value.is_nan());
                        let enough = !window.is_empty()
                            && window.len() as f64 / points as f64 >= x_files_factor;
                        if enough { aggregation.of(&window) } else { f64::NAN }
                    })
                    .collect();
                if points > 0 {
                    prop_assert_eq!(got.len(), expected.len());
                }
                for (got, expected) in got.iter().zip(&expected) {
                    prop_assert!(
                        (got - expected).abs() < 1e-9 || got.is_nan() && expected.is_nan(),
                        "{} {} {}", name, got, expected
                    );
                }
            }
        }
    }
}
