//! Functions that compute each value of a series from that value, or from those before it.

use super::{Args, Outcome, Scope, Series};
use crate::graphite::{
    python::{format_g, round_6, slice_index, str_of_float},
    series::Consolidation,
};

/// Applies `value` to each value that is present, sets a tag, and names the result.
fn map(
    series: Vec<Series>,
    tag: Option<(&str, String)>,
    name: impl Fn(&str) -> String,
    value: impl Fn(f64) -> f64,
) -> Outcome {
    let mapped = series.into_iter().map(|mut series| {
        if let Some((tag, value)) = &tag {
            series.tags.set(*tag, value.as_str());
        }
        series.rename(name(&series.name));
        for item in &mut series.values {
            if !item.is_nan() {
                *item = value(*item);
            }
        }
        series
    });
    Ok(mapped.collect())
}

/// Replaces the values by those that `values` makes of each series, sets a tag, and names the result.
fn derive(
    series: Vec<Series>,
    (tag, tag_value): (&str, String),
    name: impl Fn(&str) -> String,
    values: impl Fn(&Series) -> Vec<f64>,
) -> Outcome {
    let derived = series.into_iter().map(|mut series| {
        series.tags.set(tag, tag_value.as_str());
        let (name, values) = (name(&series.name), values(&series));
        series.derived(name, values)
    });
    Ok(derived.collect())
}

pub(super) fn scale(_: &Scope<'_>, mut args: Args) -> Outcome {
    let factor = args.float(1).unwrap_or(1.0);
    let tag = Some(("scale", args.display(1)));
    let name = |name: &str| format!("scale({name},{})", format_g(factor));
    map(args.series(0), tag, name, |value| value * factor)
}

pub(super) fn scale_to_seconds(_: &Scope<'_>, mut args: Args) -> Outcome {
    let seconds = args.float(1).unwrap_or(1.0);
    let scaled = args.series(0).into_iter().map(|mut series| {
        series.tags.set("scaleToSeconds", str_of_float(seconds));
        series.rename(format!("scaleToSeconds({},{})", series.name, seconds.trunc()));
        let factor = seconds / series.step as f64;
        series.values.iter_mut().for_each(|value| *value = round_6(*value * factor));
        series
    });
    Ok(scaled.collect())
}

pub(super) fn offset(_: &Scope<'_>, mut args: Args) -> Outcome {
    let factor = args.float(1).unwrap_or(0.0);
    let tag = Some(("offset", args.display(1)));
    let name = |name: &str| format!("offset({name},{})", format_g(factor));
    map(args.series(0), tag, name, |value| value + factor)
}

pub(super) fn offset_to_zero(_: &Scope<'_>, mut args: Args) -> Outcome {
    let moved = args.series(0).into_iter().map(|mut series| {
        let min = super::Aggregation::Min.of(&series.values);
        let tag = if min.is_nan() { "None".into() } else { str_of_float(min) };
        series.tags.set("offsetToZero", tag);
        series.rename(format!("offsetToZero({})", series.name));
        series.values.iter_mut().for_each(|value| *value -= min);
        series
    });
    Ok(moved.collect())
}

pub(super) fn absolute(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = |name: &str| format!("absolute({name})");
    map(args.series(0), Some(("absolute", "1".into())), name, f64::abs)
}

pub(super) fn square_root(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = |name: &str| format!("squareRoot({name})");
    map(args.series(0), Some(("squareRoot", "1".into())), name, |value| power(value, 0.5))
}

pub(super) fn invert(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = |name: &str| format!("invert({name})");
    map(args.series(0), Some(("invert", "1".into())), name, |value| power(value, -1.0))
}

pub(super) fn pow(_: &Scope<'_>, mut args: Args) -> Outcome {
    let factor = args.float(1).unwrap_or(1.0);
    let tag = Some(("pow", args.display(1)));
    let name = |name: &str| format!("pow({name},{})", format_g(factor));
    map(args.series(0), tag, name, |value| power(value, factor))
}

/// Raises to a power. There is no value where the result is not a finite real number.
pub(super) fn power(value: f64, factor: f64) -> f64 {
    let power = value.powf(factor);
    if power.is_finite() || value.is_infinite() { power } else { f64::NAN }
}

pub(super) fn logarithm(_: &Scope<'_>, mut args: Args) -> Outcome {
    let base = args.integer(1).unwrap_or(10);
    if base < 2 {
        return Err("the base must be at least 2".into());
    }
    let name = |name: &str| format!("log({name}, {base})");
    let log = |value: f64| if value > 0.0 { value.ln() / (base as f64).ln() } else { f64::NAN };
    derive(args.series(0), ("log", base.to_string()), name, |series| {
        series.values.iter().map(|value| log(*value)).collect()
    })
}

pub(super) fn round(_: &Scope<'_>, mut args: Args) -> Outcome {
    let precision = args.integer(1);
    let tag = Some(("round", precision.unwrap_or(0).to_string()));
    let name = |name: &str| match precision {
        Some(precision) => format!("round({name},{precision})"),
        None => format!("round({name})"),
    };
    let digits = i32::try_from(precision.unwrap_or(0)).unwrap_or(0);
    map(args.series(0), tag, name, |value| match digits {
        0 => value.round_ties_even(),
        // No f64 has more decimals.
        1.. => format!("{value:.*}", digits.min(340) as usize).parse().unwrap_or(value),
        _ => {
            let unit = 10_f64.powi(-digits);
            let rounded = (value / unit).round_ties_even() * unit;
            if rounded.is_finite() { rounded } else { value }
        }
    })
}

pub(super) fn is_non_null(_: &Scope<'_>, mut args: Args) -> Outcome {
    let checked = args.series(0).into_iter().map(|mut series| {
        series.tags.set("isNonNull", "1");
        series.rename(format!("isNonNull({})", series.name));
        series.values.iter_mut().for_each(|value| *value = f64::from(u8::from(!value.is_nan())));
        series
    });
    Ok(checked.collect())
}

pub(super) fn transform_null(_: &Scope<'_>, mut args: Args) -> Outcome {
    let default = args.float(1).unwrap_or(0.0);
    let tag = match args.value(1) {
        super::Value::None => "0".into(),
        _ => args.display(1),
    };
    let references = args.series(2);
    // Where one of the references has a value.
    let len = references.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let has_reference = |index: usize| {
        references
            .iter()
            .any(|series| series.values.get(index).is_some_and(|value| !value.is_nan()))
    };
    let transformed = args.series(0).into_iter().map(|mut series| {
        series.tags.set("transformNull", tag.as_str());
        let reference = if references.is_empty() { "" } else { ",referenceSeries" };
        if !references.is_empty() {
            series.tags.set("referenceSeries", "1");
        }
        series.rename(format!("transformNull({},{}{reference})", series.name, format_g(default)));
        if series.values.len() < len {
            series.values.resize(len, f64::NAN);
        }
        for (index, value) in series.values.iter_mut().enumerate() {
            if value.is_nan() && (references.is_empty() || has_reference(index)) {
                *value = default;
            }
        }
        series
    });
    Ok(transformed.collect())
}

pub(super) fn changed(_: &Scope<'_>, mut args: Args) -> Outcome {
    let changed = args.series(0).into_iter().map(|mut series| {
        series.rename(format!("changed({})", series.name));
        let mut previous = f64::NAN;
        for value in &mut series.values {
            let is_changed = !previous.is_nan() && !value.is_nan() && previous != *value;
            if previous.is_nan() || is_changed {
                previous = *value;
            }
            *value = f64::from(u8::from(is_changed));
        }
        series
    });
    Ok(changed.collect())
}

pub(super) fn keep_last_value(_: &Scope<'_>, mut args: Args) -> Outcome {
    let limit = gap_limit(&args);
    let kept = args.series(0).into_iter().map(|mut series| {
        series.rename(format!("keepLastValue({})", series.name));
        fill_gaps(&mut series.values, limit, |gap, before, _| gap.fill(before));
        series
    });
    Ok(kept.collect())
}

pub(super) fn interpolate(_: &Scope<'_>, mut args: Args) -> Outcome {
    let limit = gap_limit(&args);
    let interpolated = args.series(0).into_iter().map(|mut series| {
        series.rename(format!("interpolate({})", series.name));
        fill_gaps(&mut series.values, limit, |gap, before, after| {
            let Some(after) = after else { return };
            let intervals = (gap.len() + 1) as f64;
            for (index, value) in gap.iter_mut().enumerate() {
                *value = before + (index + 1) as f64 * (after - before) / intervals;
            }
        });
        series
    });
    Ok(interpolated.collect())
}

/// Returns how long a gap may be to be filled.
fn gap_limit(args: &Args) -> usize {
    args.integer(1).map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0))
}

/// Calls `fill` for each gap of at most `limit` values, with the value before it and the one after it.
fn fill_gaps(values: &mut [f64], limit: usize, fill: impl Fn(&mut [f64], f64, Option<f64>)) {
    let mut at = values.iter().position(|value| !value.is_nan()).unwrap_or(values.len());
    while at < values.len() {
        let gap = at + 1;
        let end = values[gap..].iter().position(|value| !value.is_nan()).map(|len| gap + len);
        let after = end.map(|end| values[end]);
        let end = end.unwrap_or(values.len());
        if gap < end && end - gap <= limit {
            let before = values[at];
            fill(&mut values[gap..end], before, after);
        }
        at = end;
    }
}

pub(super) fn derivative(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = |name: &str| format!("derivative({name})");
    derive(args.series(0), ("derivative", "1".into()), name, |series| {
        let mut previous = f64::NAN;
        series.values.iter().map(|&value| value - std::mem::replace(&mut previous, value)).collect()
    })
}

pub(super) fn non_negative_derivative(_: &Scope<'_>, mut args: Args) -> Outcome {
    let counter = CounterRange { max: args.float(1), min: args.float(2) };
    let name = |name: &str| format!("nonNegativeDerivative({name})");
    let tag = ("nonNegativeDerivative", "1".into());
    derive(args.series(0), tag, name, |series| counter.deltas(&series.values).collect())
}

pub(super) fn per_second(_: &Scope<'_>, mut args: Args) -> Outcome {
    let counter = CounterRange { max: args.float(1), min: args.float(2) };
    let name = |name: &str| format!("perSecond({name})");
    derive(args.series(0), ("perSecond", "1".into()), name, |series| {
        let step = series.step as f64;
        counter.deltas(&series.values).map(|delta| round_6(delta / step)).collect()
    })
}

/// The range of a counter that wraps.
struct CounterRange {
    max: Option<f64>,
    min: Option<f64>,
}

impl CounterRange {
    /// Returns by how much the counter has grown, without what cannot be known.
    fn deltas(&self, values: &[f64]) -> impl Iterator<Item = f64> {
        let mut previous = f64::NAN;
        values.iter().map(move |&value| {
            if self.max.is_some_and(|max| value > max) || self.min.is_some_and(|min| value < min) {
                previous = f64::NAN;
                return f64::NAN;
            }
            let before = std::mem::replace(&mut previous, value);
            if before.is_nan() || value.is_nan() {
                f64::NAN
            } else if value >= before {
                value - before
            } else if let Some(max) = self.max {
                max + 1.0 + value - before - self.min.unwrap_or(0.0)
            } else {
                self.min.map_or(f64::NAN, |min| value - min)
            }
        })
    }
}

pub(super) fn integral(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = |name: &str| format!("integral({name})");
    derive(args.series(0), ("integral", "1".into()), name, |series| {
        let mut sum = 0.0;
        let total = |&value: &f64| {
            if value.is_nan() {
                return value;
            }
            sum += value;
            sum
        };
        series.values.iter().map(total).collect()
    })
}

pub(super) fn delay(_: &Scope<'_>, mut args: Args) -> Outcome {
    let steps = args.integer(1).unwrap_or(0);
    let name = |name: &str| format!("delay({name},{steps})");
    derive(args.series(0), ("delay", steps.to_string()), name, |series| {
        let len = series.values.len();
        let missing = slice_index(steps.saturating_abs(), len);
        let mut values = vec![f64::NAN; len];
        if steps < 0 {
            values[..len - missing].copy_from_slice(&series.values[missing..]);
        } else {
            values[missing..].copy_from_slice(&series.values[..len - missing]);
        }
        values
    })
}

pub(super) fn min_max(_: &Scope<'_>, mut args: Args) -> Outcome {
    let scaled = args.series(0).into_iter().map(|mut series| {
        series.rename(format!("minMax({})", series.name));
        let min = super::Aggregation::Min.of(&series.values);
        let range = super::Aggregation::Max.of(&series.values) - min;
        for value in &mut series.values {
            if !value.is_nan() {
                *value = if range == 0.0 { 0.0 } else { (*value - min) / range };
            }
        }
        series
    });
    Ok(scaled.collect())
}

pub(super) fn consolidate_by(_: &Scope<'_>, mut args: Args) -> Outcome {
    consolidate(args.series(0), args.text(1).unwrap_or_default())
}

pub(super) fn cumulative(_: &Scope<'_>, mut args: Args) -> Outcome {
    consolidate(args.series(0), "sum")
}

fn consolidate(mut series: Vec<Series>, function: &str) -> Outcome {
    let consolidation = Consolidation::parse(function).ok_or("unknown consolidation")?;
    for series in &mut series {
        series.consolidation = consolidation;
        series.tags.set("consolidateBy", function);
        series.rename(format!("consolidateBy({},\"{function}\")", series.name));
    }
    Ok(series)
}
