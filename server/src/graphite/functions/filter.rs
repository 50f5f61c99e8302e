//! Functions that select series, put them in order, or remove values.

use regex::Regex;

use super::{
    Aggregation, Args, Failure, Outcome, Scope, Series, aggregation::percentile,
    combine::has_enough,
};
use crate::graphite::python::{format_g, slice_index, str_of_float};

/// Compiles a regular expression of an argument.
pub(super) fn regex(text: &str) -> Result<Regex, Failure> {
    let built = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
    built.map_err(|_| format!("invalid or too large regular expression {text:?}").into())
}

pub(super) fn exclude(_: &Scope<'_>, mut args: Args) -> Outcome {
    let pattern = regex(args.text(1).unwrap_or_default())?;
    let mut series = args.series(0);
    series.retain(|series| !pattern.is_match(&series.name));
    Ok(series)
}

pub(super) fn grep(_: &Scope<'_>, mut args: Args) -> Outcome {
    let pattern = regex(args.text(1).unwrap_or_default())?;
    let mut series = args.series(0);
    series.retain(|series| pattern.is_match(&series.name));
    Ok(series)
}

pub(super) fn limit(_: &Scope<'_>, mut args: Args) -> Outcome {
    first(args.series(0), args.integer(1))
}

/// Keeps the first `n` series; a negative `n` leaves out as many at the end.
fn first(mut series: Vec<Series>, n: Option<i64>) -> Outcome {
    series.truncate(slice_index(n.unwrap_or(1), series.len()));
    Ok(series)
}

pub(super) fn remove_empty(_: &Scope<'_>, mut args: Args) -> Outcome {
    let x_files_factor = args.float(1).unwrap_or(0.0);
    let mut series = args.series(0);
    series.retain(|series| has_enough(&series.values, x_files_factor));
    Ok(series)
}

pub(super) fn unique(_: &Scope<'_>, mut args: Args) -> Outcome {
    let mut names = std::collections::HashSet::new();
    let mut series = args.all_series();
    series.retain(|series| names.insert(series.name.clone()));
    Ok(series)
}

pub(super) fn fallback(_: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    Ok(if series.is_empty() { args.series(1) } else { series })
}

/// Keeps the series whose aggregated value passes. A missing value is less than every other.
fn keep(
    mut series: Vec<Series>,
    aggregation: Aggregation,
    operator: &str,
    threshold: f64,
) -> Outcome {
    series.retain(|series| {
        let value = aggregation.of(&series.values);
        match operator {
            "=" => value == threshold,
            "!=" => value != threshold,
            ">" => value > threshold,
            ">=" => value >= threshold,
            "<" => value.is_nan() || value < threshold,
            _ => value.is_nan() || value <= threshold,
        }
    });
    Ok(series)
}

pub(super) const OPERATORS: &[&str] = &["!=", "<", "<=", "=", ">", ">="];

pub(super) fn filter_series(_: &Scope<'_>, mut args: Args) -> Outcome {
    let aggregation = Aggregation::parse(args.text(1).unwrap_or_default());
    let aggregation = aggregation.ok_or("unknown aggregation")?;
    let series = args.series(0);
    keep(series, aggregation, args.text(2).unwrap_or_default(), args.float(3).unwrap_or(0.0))
}

/// Defines functions that keep the series whose aggregated value is above or below a threshold.
macro_rules! thresholds {
    ($($function:ident $aggregation:ident $operator:literal)*) => {$(
        pub(super) fn $function(_: &Scope<'_>, mut args: Args) -> Outcome {
            keep(args.series(0), Aggregation::$aggregation, $operator, args.float(1).unwrap_or(0.0))
        }
    )*};
}

thresholds! {
    average_above Average ">"
    average_below Average "<="
    current_above Last ">"
    current_below Last "<="
    maximum_above Max ">"
    maximum_below Max "<="
    minimum_above Min ">"
    minimum_below Min "<="
}

/// Sorts by an aggregated value; a missing one is the lowest. Series with the same value keep their order.
fn sort(series: &mut [Series], aggregation: Aggregation, descending: bool) {
    series.sort_by_cached_key(|series| {
        let value = aggregation.of(&series.values);
        Sortable(if value.is_nan() { f64::NEG_INFINITY } else { value }, descending)
    });
}

/// A number that is sorted in one direction.
#[derive(Debug)]
struct Sortable(f64, bool);

impl Ord for Sortable {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Zeros of both signs are equal.
        let ordering = (self.0 + 0.0).total_cmp(&(other.0 + 0.0));
        if self.1 { ordering.reverse() } else { ordering }
    }
}

impl PartialOrd for Sortable {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sortable {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Sortable {}

/// Defines functions that keep the `n` series with the highest or the lowest aggregated value.
macro_rules! extremes {
    ($($function:ident $aggregation:ident $descending:literal)*) => {$(
        pub(super) fn $function(_: &Scope<'_>, mut args: Args) -> Outcome {
            let mut series = args.series(0);
            sort(&mut series, Aggregation::$aggregation, $descending);
            first(series, args.integer(1))
        }
    )*};
}

extremes! {
    highest_average Average true
    highest_current Last true
    highest_max Max true
    lowest_average Average false
    lowest_current Last false
}

fn extreme(mut args: Args, descending: bool) -> Outcome {
    let aggregation = Aggregation::parse(args.text(2).unwrap_or("average"));
    let mut series = args.series(0);
    sort(&mut series, aggregation.ok_or("unknown aggregation")?, descending);
    first(series, args.integer(1))
}

pub(super) fn highest(_: &Scope<'_>, args: Args) -> Outcome {
    extreme(args, true)
}

pub(super) fn lowest(_: &Scope<'_>, args: Args) -> Outcome {
    extreme(args, false)
}

pub(super) fn sort_by(_: &Scope<'_>, mut args: Args) -> Outcome {
    let aggregation = Aggregation::parse(args.text(1).unwrap_or("average"));
    let mut series = args.series(0);
    sort(&mut series, aggregation.ok_or("unknown aggregation")?, args.is_true(2));
    Ok(series)
}

pub(super) fn sort_by_total(_: &Scope<'_>, mut args: Args) -> Outcome {
    let mut series = args.series(0);
    sort(&mut series, Aggregation::Sum, true);
    Ok(series)
}

pub(super) fn sort_by_maxima(_: &Scope<'_>, mut args: Args) -> Outcome {
    let mut series = args.series(0);
    sort(&mut series, Aggregation::Max, true);
    Ok(series)
}

pub(super) fn sort_by_minima(_: &Scope<'_>, mut args: Args) -> Outcome {
    let mut series = args.series(0);
    series.retain(|series| Aggregation::Max.of(&series.values) > 0.0);
    sort(&mut series, Aggregation::Min, false);
    Ok(series)
}

pub(super) fn sort_by_name(_: &Scope<'_>, mut args: Args) -> Outcome {
    let is_natural = args.is_true(1);
    let descending = args.is_true(2);
    let mut series = args.series(0);
    let key =
        |series: &Series| if is_natural { natural_key(&series.name) } else { series.name.clone() };
    if descending {
        series.sort_by_cached_key(|series| std::cmp::Reverse(key(series)));
    } else {
        series.sort_by_cached_key(key);
    }
    Ok(series)
}

/// Writes numbers with ten digits, so that they are sorted by their size.
fn natural_key(name: &str) -> String {
    let mut key = String::new();
    let mut rest = name;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        key.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[..end].trim_start_matches('0');
        key.push_str(&format!("{digits:0>10}"));
        rest = &rest[end..];
    }
    key + rest
}

pub(super) fn most_deviant(_: &Scope<'_>, mut args: Args) -> Outcome {
    let mut series = args.series(0);
    series.retain(|series| !Aggregation::Average.of(&series.values).is_nan());
    sort(&mut series, Aggregation::Stddev, true);
    first(series, args.integer(1))
}

pub(super) fn n_percentile(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let n = args.float(1).filter(|n| *n != 0.0).ok_or("n must be greater than 0")?;
    let mut results = Vec::new();
    for mut series in args.series(0) {
        let value = percentile(&series.values, n, false);
        if value.is_nan() {
            continue;
        }
        scope.budget.charge_work(series.values.len())?;
        series.tags.set("nPercentile", str_of_float(n));
        let name = format!("nPercentile({}, {})", series.name, format_g(n));
        let count = usize::try_from((series.end - series.start) / series.step).unwrap_or(0);
        scope.budget.charge_points(count)?;
        results.push(series.derived(name, vec![value; count]));
    }
    Ok(results)
}

/// Removes the values of each series that are beyond its percentile, or beyond a value.
fn remove(
    mut args: Args,
    function: &str,
    is_percentile: bool,
    is_beyond: fn(f64, f64) -> bool,
) -> Outcome {
    let n = args.float(1).unwrap_or(0.0);
    let removed = args.series(0).into_iter().map(|mut series| {
        series.rename(format!("{function}({}, {})", series.name, format_g(n)));
        let bound = if is_percentile { percentile(&series.values, n, false) } else { n };
        if is_percentile && !bound.is_nan() {
            series.tags.set("nPercentile", str_of_float(n));
        }
        for value in &mut series.values {
            if is_beyond(*value, bound) {
                *value = f64::NAN;
            }
        }
        series
    });
    Ok(removed.collect())
}

pub(super) fn remove_above_percentile(_: &Scope<'_>, args: Args) -> Outcome {
    remove(args, "removeAbovePercentile", true, |value, bound| value > bound)
}

pub(super) fn remove_below_percentile(_: &Scope<'_>, args: Args) -> Outcome {
    remove(args, "removeBelowPercentile", true, |value, bound| value < bound)
}

pub(super) fn remove_above_value(_: &Scope<'_>, args: Args) -> Outcome {
    remove(args, "removeAboveValue", false, |value, bound| value > bound)
}

pub(super) fn remove_below_value(_: &Scope<'_>, args: Args) -> Outcome {
    remove(args, "removeBelowValue", false, |value, bound| value < bound)
}
