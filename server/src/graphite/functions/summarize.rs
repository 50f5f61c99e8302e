//! `summarize` and `smartSummarize`: the values of intervals.

use super::{Aggregation, Args, Failure, Outcome, RenderError, Scope, Series, parse_offset};

pub(super) fn summarize(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let interval = interval(&args)?;
    let function = args.text(2).unwrap_or("sum").to_owned();
    let align_to_from = args.is_true(3);
    let results = args.series(0).into_iter().map(|mut series| {
        let (start, end) = if align_to_from {
            (series.start, series.end)
        } else {
            let align = |second: i64| second - second.rem_euclid(interval);
            (align(series.start), align(series.end) + interval)
        };
        let (values, aligned_end) = intervals(scope, &series, &function, interval, (start, end))?;
        series.tags.set("summarize", args.display(1));
        series.tags.set("summarizeFunction", function.as_str());
        let aligned = if align_to_from { ", true" } else { "" };
        let name =
            format!("summarize({}, \"{}\", \"{function}\"{aligned})", series.name, args.display(1));
        series.start = start;
        series.end = if align_to_from { aligned_end } else { end };
        series.step = interval;
        Ok(series.derived(name, values))
    });
    results.collect()
}

pub(super) fn smart_summarize(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let interval = interval(&args)?;
    let function = args.text(2).unwrap_or("sum").to_owned();
    let results = args.series(0).into_iter().map(|mut series| {
        let range = (series.start, series.end);
        let (values, end) = intervals(scope, &series, &function, interval, range)?;
        series.tags.set("smartSummarize", args.display(1));
        series.tags.set("smartSummarizeFunction", function.as_str());
        let name =
            format!("smartSummarize({}, \"{}\", \"{function}\")", series.name, args.display(1));
        series.end = end;
        series.step = interval;
        Ok(series.derived(name, values))
    });
    results.collect()
}

fn interval(args: &Args) -> Result<i64, Failure> {
    let seconds = parse_offset(args.text(1).unwrap_or_default()).map_err(RenderError::from)?;
    if seconds < 1 { Err("the interval must be positive".into()) } else { Ok(seconds) }
}

/// Aggregates the values of each interval from `start` to `end`. Returns the end of the last one too.
fn intervals(
    scope: &Scope<'_>,
    series: &Series,
    function: &str,
    interval: i64,
    (start, end): (i64, i64),
) -> Result<(Vec<f64>, i64), Failure> {
    let aggregation = Aggregation::parse(function).ok_or("unknown aggregation")?;
    let count = (end - start).max(0) / interval + 1;
    scope.budget.charge_points(usize::try_from(count).unwrap_or(usize::MAX))?;
    scope.budget.charge_work(series.values.len())?;
    let points_per_interval = interval as f64 / series.step as f64;
    let second = |index: usize| series.start + index as i64 * series.step;
    let len = usize::try_from((series.end - series.start + series.step - 1) / series.step);
    let len = series.values.len().min(len.unwrap_or(0));
    let (mut values, mut at, mut index) = (Vec::new(), start, 0);
    while at < end {
        let (mut first, mut present) = (index, 0_usize);
        while index < len && second(index) < at + interval {
            if second(index) <= at {
                first = index;
            }
            if second(index) >= at && !series.values[index].is_nan() {
                present += 1;
            }
            index += 1;
        }
        let is_enough =
            present > 0 && present as f64 / points_per_interval >= series.x_files_factor;
        values.push(if is_enough {
            aggregation.of(&series.values[first..index])
        } else {
            f64::NAN
        });
        at += interval;
    }
    Ok((values, at))
}
