//! Functions that make series, move them in time, or change only how they are drawn.

use jiff::Timestamp;

use super::{
    Aggregation, Args, Failure, Outcome, RenderError, Scope, Series, TimeRange, Value, parse_offset,
};
use crate::graphite::python::{format_g, str_of_float};

pub(super) fn constant_line(scope: &Scope<'_>, args: Args) -> Outcome {
    constant_line_of(scope, args.float(0).unwrap_or(0.0))
}

/// Returns a line of three points over the whole range.
pub(super) fn constant_line_of(scope: &Scope<'_>, value: f64) -> Outcome {
    let TimeRange { from, until, .. } = scope.range;
    let step = ((until - from) / 2).max(1);
    let mut series = scope.series(str_of_float(value), (from, until, step), vec![value; 3]);
    series.path = format!("constantLine({})", str_of_float(value));
    Ok(vec![series])
}

pub(super) fn threshold(scope: &Scope<'_>, args: Args) -> Outcome {
    let mut series = constant_line_of(scope, args.float(0).unwrap_or(0.0))?;
    if let Some(label) = args.text(1).filter(|label| !label.is_empty()) {
        label.clone_into(&mut series[0].name);
    }
    Ok(series)
}

pub(super) fn aggregate_line(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let aggregation = Aggregation::parse(args.text(1).unwrap_or("average"));
    let aggregation = aggregation.ok_or("unknown aggregation")?;
    let keep_step = args.is_true(2);
    let lines = args.series(0).into_iter().map(|series| {
        let value = aggregation.of(&series.values);
        let shown = if value.is_nan() { "None".into() } else { format_g(value) };
        let name = format!("aggregateLine({}, {shown})", series.name);
        if keep_step {
            let values = vec![value; series.values.len()];
            return Ok(series.derived(name, values));
        }
        let mut line = constant_line_of(scope, value)?.remove(0);
        line.rename(name);
        Ok(line)
    });
    lines.collect()
}

/// Returns the text of an interval that is in the past if it has no sign.
fn shift_text(args: &Args) -> String {
    let text = args.text(1).unwrap_or_default();
    if text.starts_with(|c: char| c.is_ascii_digit()) { format!("-{text}") } else { text.into() }
}

pub(super) fn time_shift_range(scope: &Scope<'_>, args: &Args) -> Result<TimeRange, Failure> {
    let shift = parse_offset(&shift_text(args)).map_err(RenderError::from)?;
    let shifted = scope.range.shifted(shift);
    if !args.is_true(3) {
        return Ok(shifted);
    }
    // Both ends are in summer time, or both in winter time.
    let summer = |range: TimeRange| {
        let is_summer = |second| {
            let at = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            scope.tz.to_offset_info(at).dst().is_dst()
        };
        let (from, until) = (is_summer(range.from), is_summer(range.until));
        (from == until).then_some(from)
    };
    const HOUR: i64 = 60 * 60;
    Ok(match (summer(scope.range), summer(shifted)) {
        (Some(true), Some(false)) => shifted.shifted(HOUR),
        (Some(false), Some(true)) => shifted.shifted(-HOUR),
        _ => shifted,
    })
}

pub(super) fn time_shift(_: &Scope<'_>, mut args: Args, read: Vec<Series>) -> Outcome {
    let shift = shift_text(&args);
    let reset_end = matches!(args.value(2), Value::None) || args.is_true(2);
    let Some(first) = args.series(0).into_iter().next() else { return Ok(Vec::new()) };
    let shifted = read.into_iter().map(|mut series| {
        series.tags.set("timeShift", shift.as_str());
        series.name = format!("timeShift({}, \"{shift}\")", series.name);
        series.end = if reset_end { first.end } else { series.end - series.start + first.start };
        series.start = first.start;
        series
    });
    Ok(shifted.collect())
}

/// Returns the series as they are: what changes is how they would be drawn.
pub(super) fn unchanged(_: &Scope<'_>, mut args: Args) -> Outcome {
    Ok(args.series(0))
}

/// Defines functions that change how series are drawn, and their names.
macro_rules! drawn {
    ($($function:ident $name:literal)*) => {$(
        pub(super) fn $function(_: &Scope<'_>, mut args: Args) -> Outcome {
            let mut series = args.series(0);
            for series in &mut series {
                series.tags.set($name, "1");
                series.name = format!(concat!($name, "({})"), series.name);
            }
            Ok(series)
        }
    )*};
}

drawn! {
    draw_as_infinite "drawAsInfinite"
    second_y_axis "secondYAxis"
}

pub(super) fn dashed(_: &Scope<'_>, mut args: Args) -> Outcome {
    let length = args.integer(1).unwrap_or(5);
    let mut series = args.series(0);
    for series in &mut series {
        series.tags.set("dashed", length.to_string());
        series.name = format!("dashed({}, {length})", series.name);
    }
    Ok(series)
}
