//! Functions that combine several series into one, or each of them with another.

use std::borrow::Cow;

use super::{
    Aggregation, Args, Failure, Outcome, Scope, Series, Value, aggregation::percentile,
    nodes::group_key,
};
use crate::graphite::python::{format_g, str_of_float};

/// Several series at one step.
pub(super) struct Aligned<'a> {
    columns: Vec<Cow<'a, [f64]>>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: i64,
}

impl<'a> Aligned<'a> {
    /// Consolidates series to the smallest step that is a multiple of every step. `None` without series.
    pub(super) fn new(
        scope: &Scope<'_>,
        series: impl IntoIterator<Item = &'a Series> + Clone,
    ) -> Result<Option<Self>, Failure> {
        let (mut step, mut count) = (1_i64, 0);
        let (mut start, mut end) = (i64::MAX, i64::MIN);
        for series in series.clone() {
            step =
                lcm(step, series.step).ok_or("the steps of the series have nothing in common")?;
            start = start.min(series.start);
            end = end.max(series.end);
            count += series.values.len();
        }
        if start > end {
            return Ok(None);
        }
        scope.budget.charge_work(count)?;
        let consolidated = |series: &'a Series| {
            series.consolidated(usize::try_from(step / series.step).unwrap_or(1))
        };
        let columns: Vec<_> = series.into_iter().map(consolidated).collect();
        end -= (end - start) % step;
        Ok(Some(Self { columns, start, end, step }))
    }

    pub(super) fn interval(&self) -> (i64, i64, i64) {
        (self.start, self.end, self.step)
    }

    /// Returns a value for each row: the values of all series at the same index.
    pub(super) fn rows(&self, mut value: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
        let rows = self.columns.iter().map(|column| column.len()).max().unwrap_or(0);
        let mut row = vec![f64::NAN; self.columns.len()];
        (0..rows)
            .map(|index| {
                for (value, column) in row.iter_mut().zip(&self.columns) {
                    *value = column.get(index).copied().unwrap_or(f64::NAN);
                }
                value(&row)
            })
            .collect()
    }
}

fn lcm(a: i64, b: i64) -> Option<i64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b)
}

/// Returns the expressions of the series, each once, as they are written in the name of a result.
pub(super) fn paths<'a>(series: impl IntoIterator<Item = &'a Series>) -> String {
    let mut paths: Vec<&str> = Vec::new();
    for series in series {
        if !paths.contains(&series.path.as_str()) {
            paths.push(&series.path);
        }
    }
    paths.join(",")
}

/// Combines all series by an aggregation, which is in the name of the result as it was written.
pub(super) fn aggregate(
    scope: &Scope<'_>,
    series: &[Series],
    function: &str,
    x_files_factor: Option<f64>,
) -> Outcome {
    let function = function.strip_suffix("Series").unwrap_or(function);
    let aggregation = Aggregation::parse(function).ok_or("unknown aggregation")?;
    let Some(aligned) = Aligned::new(scope, series)? else { return Ok(Vec::new()) };
    let x_files_factor = x_files_factor.unwrap_or(scope.x_files_factor);
    let values = aligned
        .rows(|row| if has_enough(row, x_files_factor) { aggregation.of(row) } else { f64::NAN });
    let name = format!("{function}Series({})", paths(series));
    let mut tags = series[0].tags.clone();
    for other in series {
        tags.intersect(&other.tags);
    }
    if tags.get("name").is_none() {
        tags.set("name", name.as_str());
    }
    tags.set("aggregatedBy", function);
    let mut result = scope.series(name, aligned.interval(), values);
    result.tags = tags;
    result.x_files_factor = x_files_factor;
    Ok(vec![result])
}

/// Returns true if the part of the values that are present is at least `x_files_factor`, and one is.
pub(super) fn has_enough(values: &[f64], x_files_factor: f64) -> bool {
    let present = values.iter().filter(|value| !value.is_nan()).count();
    present > 0 && present as f64 / values.len() as f64 >= x_files_factor
}

/// Defines functions that combine all their series by an aggregation.
macro_rules! aggregates {
    ($($function:ident $name:literal)*) => {$(
        pub(super) fn $function(scope: &Scope<'_>, mut args: Args) -> Outcome {
            aggregate(scope, &args.all_series(), $name, None)
        }
    )*};
}

aggregates! {
    sum_series "sum"
    average_series "average"
    min_series "min"
    max_series "max"
    diff_series "diff"
    stddev_series "stddev"
    range_of_series "rangeOf"
}

pub(super) fn aggregate_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    aggregate(scope, &series, args.text(1).unwrap_or_default(), args.float(2))
}

pub(super) fn multiply_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let is_one_list = args.rest(1).is_empty();
    let series = args.all_series();
    if is_one_list && series.len() == 1 {
        return Ok(series);
    }
    aggregate(scope, &series, "multiply", None)
}

pub(super) fn count_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.all_series();
    if series.is_empty() && args.rest(0).is_empty() {
        let mut line = super::special::constant_line_of(scope, 0.0)?;
        line[0].rename("0".into());
        line[0].tags.set("name", "0");
        line[0].path = "countSeries()".into();
        return Ok(line);
    }
    count(scope, &series)
}

/// Counts the series, missing values included.
pub(super) fn count(scope: &Scope<'_>, series: &[Series]) -> Outcome {
    let Some(aligned) = Aligned::new(scope, series)? else { return Ok(Vec::new()) };
    let values = aligned.rows(|row| row.len() as f64);
    let name = format!("countSeries({})", paths(series));
    Ok(vec![scope.series(name, aligned.interval(), values)])
}

pub(super) fn group(_: &Scope<'_>, mut args: Args) -> Outcome {
    Ok(args.all_series())
}

pub(super) fn percentile_of_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let n = args.float(1).filter(|n| *n > 0.0).ok_or("n must be greater than 0")?;
    let interpolate = args.is_true(2);
    let Some(aligned) = Aligned::new(scope, &series)? else { return Ok(Vec::new()) };
    let values = aligned.rows(|row| percentile(row, n, interpolate));
    let name = format!("percentileOfSeries({},{})", series[0].path, format_g(n));
    Ok(vec![scope.series(name, aligned.interval(), values)])
}

pub(super) fn pow_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.all_series();
    let Some(aligned) = Aligned::new(scope, &series)? else { return Ok(Vec::new()) };
    let values = aligned.rows(|row| {
        row[1..].iter().fold(row[0], |power, &factor| super::transform::power(power, factor))
    });
    let names: Vec<_> = series.iter().map(|series| series.name.as_str()).collect();
    Ok(vec![scope.series(format!("powSeries({})", names.join(",")), aligned.interval(), values)])
}

pub(super) fn divide_series(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let (dividends, divisors) = (args.series(0), args.series(1));
    match &divisors[..] {
        [] => Ok(dividends
            .into_iter()
            .map(|mut series| {
                series.rename(format!("divideSeries({},MISSING)", series.name));
                series.values.fill(f64::NAN);
                series
            })
            .collect()),
        [divisor] => dividends.iter().map(|dividend| quotient(scope, dividend, divisor)).collect(),
        _ => Err(format!("the divisor must be one series, and is {}", divisors.len()).into()),
    }
}

pub(super) fn divide_series_lists(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let (dividends, divisors) = (args.series(0), args.series(1));
    if dividends.len() != divisors.len() {
        return Err("both lists must have the same number of series".into());
    }
    let pairs = dividends.iter().zip(&divisors);
    pairs.map(|(dividend, divisor)| quotient(scope, dividend, divisor)).collect()
}

fn quotient(scope: &Scope<'_>, dividend: &Series, divisor: &Series) -> Result<Series, Failure> {
    let aligned = Aligned::new(scope, [dividend, divisor])?.ok_or("no series")?;
    let values = aligned.rows(|row| divide(row[0], row[1]));
    let name = format!("divideSeries({},{})", dividend.name, divisor.name);
    Ok(scope.series(name, aligned.interval(), values))
}

/// Divides; there is no value if the divisor is zero.
fn divide(dividend: f64, divisor: f64) -> f64 {
    if divisor == 0.0 { f64::NAN } else { dividend / divisor }
}

pub(super) fn as_percent(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let nodes = args.rest(2).to_vec();
    let total = match args.value(1) {
        Value::Series(_) => Total::Series(args.series(1)),
        Value::None => Total::Sum,
        Value::Integer(total) => Total::Constant(*total as f64, total.to_string()),
        Value::Float(total) => Total::Constant(*total, str_of_float(*total)),
        Value::Text(_) | Value::Bool(_) => {
            return Err("the total must be missing, a number, or series".into());
        }
    };
    if !nodes.is_empty() {
        return percent_by_nodes(scope, &series, total, &nodes);
    }
    match total {
        Total::Sum => {
            let Some(aligned) = Aligned::new(scope, &series)? else { return Ok(Vec::new()) };
            let sums = aligned.rows(|row| Aggregation::Sum.of(row));
            let name = format!("sumSeries({})", paths(&series));
            let total = scope.series(name, aligned.interval(), sums);
            series.iter().map(|part| percent(scope, part, &total)).collect()
        }
        Total::Constant(total, name) => Ok(series
            .into_iter()
            .map(|part| {
                let values =
                    part.values.iter().map(|value| divide(*value, total) * 100.0).collect();
                let name = format!("asPercent({},{name})", part.name);
                scope.series(name, (part.start, part.end, part.step), values)
            })
            .collect()),
        Total::Series(totals) if totals.len() == series.len() => {
            let (mut series, mut totals) = (series, totals);
            series.sort_by(|a, b| a.name.cmp(&b.name));
            totals.sort_by(|a, b| a.name.cmp(&b.name));
            series.iter().zip(&totals).map(|(part, total)| percent(scope, part, total)).collect()
        }
        Total::Series(totals) => match &totals[..] {
            [total] => series.iter().map(|part| percent(scope, part, total)).collect(),
            _ => Err("the total must be one series, or as many as there are parts".into()),
        },
    }
}

enum Total {
    Sum,
    Constant(f64, String),
    Series(Vec<Series>),
}

fn percent(scope: &Scope<'_>, part: &Series, total: &Series) -> Result<Series, Failure> {
    let aligned = Aligned::new(scope, [part, total])?.ok_or("no series")?;
    let values = aligned.rows(|row| divide(row[0], row[1]) * 100.0);
    let name = format!("asPercent({},{})", part.name, total.name);
    Ok(scope.series(name, aligned.interval(), values))
}

/// Divides each series by the total of those that share its nodes.
fn percent_by_nodes(
    scope: &Scope<'_>,
    series: &[Series],
    total: Total,
    nodes: &[Value],
) -> Outcome {
    let parts = groups(series, nodes);
    let total_series;
    let totals = match total {
        Total::Sum => None,
        Total::Series(totals) => {
            total_series = totals;
            Some(groups(&total_series, nodes))
        }
        Total::Constant(..) => return Err("the total must be missing or series, with nodes".into()),
    };
    let sum = |group: &[&Series]| -> Result<Series, Failure> {
        if let [one] = group {
            return Ok((*one).clone());
        }
        let aligned = Aligned::new(scope, group.iter().copied())?.ok_or("no series")?;
        let values = aligned.rows(|row| Aggregation::Sum.of(row));
        let name = format!("sumSeries({})", paths(group.iter().copied()));
        Ok(scope.series(name, aligned.interval(), values))
    };
    let missing = |name: String, like: &Series| {
        let values = vec![f64::NAN; like.values.len()];
        scope.series(name, (like.start, like.end, like.step), values)
    };
    let mut results = Vec::new();
    for (key, group) in &parts {
        let total = match &totals {
            None => Some(sum(group)?),
            Some(totals) => match totals.iter().find(|(other, _)| other == key) {
                Some((_, group)) => Some(sum(group)?),
                None => None,
            },
        };
        for part in group {
            results.push(match &total {
                Some(total) => percent(scope, part, total)?,
                None => missing(format!("asPercent({},MISSING)", part.name), part),
            });
        }
    }
    for (key, group) in totals.iter().flatten() {
        if !parts.iter().any(|(other, _)| other == key) {
            let total = sum(group)?;
            results.push(missing(format!("asPercent(MISSING,{})", total.name), &total));
        }
    }
    Ok(results)
}

/// Groups series by their nodes, in the order in which the groups begin.
fn groups<'a>(series: &'a [Series], nodes: &[Value]) -> Vec<(String, Vec<&'a Series>)> {
    let mut groups: Vec<(String, Vec<&Series>)> = Vec::new();
    for series in series {
        let key = group_key(series, nodes);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(series),
            None => groups.push((key, vec![series])),
        }
    }
    groups
}
