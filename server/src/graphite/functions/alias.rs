//! Functions that name series.

use super::{Args, Outcome, Scope, Series, filter::regex, nodes::group_key};
use crate::graphite::python::{Replacement, slice_index};

pub(super) fn alias(_: &Scope<'_>, mut args: Args) -> Outcome {
    let name = args.text(1).unwrap_or_default().to_owned();
    renamed(args.series(0), |_| name.clone())
}

pub(super) fn alias_sub(_: &Scope<'_>, mut args: Args) -> Outcome {
    let search = regex(args.text(1).unwrap_or_default())?;
    let replacement = Replacement::new(args.text(2).unwrap_or_default());
    renamed(args.series(0), |series| replacement.replace_all(&search, &series.name))
}

pub(super) fn alias_by_node(_: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let nodes = args.rest(1);
    renamed(series, |series| group_key(series, nodes))
}

pub(super) fn alias_by_metric(_: &Scope<'_>, mut args: Args) -> Outcome {
    renamed(args.series(0), |series| nodes_of(&series.name, -1, 0))
}

pub(super) fn substr(_: &Scope<'_>, mut args: Args) -> Outcome {
    let (start, stop) = (args.integer(1).unwrap_or(0), args.integer(2).unwrap_or(0));
    renamed(args.series(0), |series| nodes_of(&series.name, start, stop))
}

fn renamed(mut series: Vec<Series>, name: impl Fn(&Series) -> String) -> Outcome {
    for series in &mut series {
        series.name = name(series);
    }
    Ok(series)
}

/// Returns some nodes of what is in the innermost parentheses of a name, up to a comma.
fn nodes_of(name: &str, start: i64, stop: i64) -> String {
    let inner = name.rfind('(').map_or(0, |at| at + 1);
    let end = name.find(')').unwrap_or(name.len());
    let nodes: Vec<_> = name.get(inner..end).unwrap_or_default().split('.').collect();
    let start = slice_index(start, nodes.len());
    let stop = if stop == 0 { nodes.len() } else { slice_index(stop, nodes.len()) };
    let joined = nodes.get(start..stop).unwrap_or_default().join(".");
    joined.split(',').next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_those_of_the_innermost_path() {
        for (name, start, stop, expected) in [
            ("palm.cpu.load", -1, 0, "load"),
            ("scale(sum(palm.cpu,x),2)", -1, 0, "cpu"),
            ("palm.cpu.load", 1, 0, "cpu.load"),
            ("palm.cpu.load", 0, 2, "palm.cpu"),
            ("palm.cpu.load", -2, -1, "cpu"),
            ("palm.cpu.load", 2, 1, ""),
            ("a) f(b.c", 0, 0, ""),
        ] {
            assert_eq!(nodes_of(name, start, stop), expected, "{name}");
        }
    }
}
