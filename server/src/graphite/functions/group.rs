//! Functions that group series by nodes or tags.

use std::collections::HashMap;

use super::{Args, Failure, Outcome, Scope, Series, combine, nodes::group_key};
use crate::graphite::series::Tags;

/// Groups series by a key, in the order in which the groups begin.
fn grouped(series: Vec<Series>, key: impl Fn(&Series) -> String) -> Vec<(String, Vec<Series>)> {
    let mut groups: Vec<(String, Vec<Series>)> = Vec::new();
    let mut indices: HashMap<String, usize> = HashMap::new();
    for series in series {
        let key = key(&series);
        let index = *indices.entry(key).or_insert_with_key(|key| {
            groups.push((key.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[index].1.push(series);
    }
    groups
}

/// Combines a group by an aggregation, or by the function of this name.
fn combine_group(scope: &Scope<'_>, group: Vec<Series>, callback: &str) -> Result<Series, Failure> {
    let mut combined = match callback {
        "countSeries" => combine::count(scope, &group)?,
        "multiplySeries" if group.len() == 1 => group,
        // The name is that of the function.
        "avg" => combine::aggregate(scope, &group, "average", None)?,
        _ => combine::aggregate(scope, &group, callback, None)?,
    };
    combined.pop().ok_or(Failure::from("a group has no series"))
}

fn group_by(
    scope: &Scope<'_>,
    series: Vec<Series>,
    callback: &str,
    key: impl Fn(&Series) -> String,
) -> Outcome {
    let groups = grouped(series, key).into_iter().map(|(key, group)| {
        let mut combined = combine_group(scope, group, callback)?;
        combined.name = key;
        Ok(combined)
    });
    groups.collect()
}

pub(super) fn group_by_node(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let nodes = [args.value(1).clone()];
    group_by(scope, series, args.text(2).unwrap_or("average"), |series| group_key(series, &nodes))
}

pub(super) fn group_by_nodes(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let nodes = args.rest(2);
    group_by(scope, series, args.text(1).unwrap_or_default(), |series| group_key(series, nodes))
}

pub(super) fn group_by_tags(scope: &Scope<'_>, mut args: Args) -> Outcome {
    let series = args.series(0);
    let callback = args.text(1).unwrap_or_default();
    let tags = (2..).map_while(|index| args.text(index)).collect::<Vec<_>>();
    let mut names: Vec<_> = series.iter().filter_map(|series| series.tags.get("name")).collect();
    names.sort_unstable();
    names.dedup();
    let common = if let [name] = names[..] { name } else { callback }.to_owned();
    let key = |series: &Series| {
        let is_by_name = tags.contains(&"name");
        let name = if is_by_name { series.tags.get("name").unwrap_or_default() } else { &common };
        let labels = tags.iter().filter(|tag| **tag != "name");
        let mut labels: Vec<_> = labels
            .map(|tag| format!("{tag}={}", series.tags.get(tag).unwrap_or_default()))
            .collect();
        labels.sort_unstable();
        labels.insert(0, name.into());
        labels.join(";")
    };
    let mut results = group_by(scope, series, callback, key)?;
    for series in &mut results {
        series.path.clone_from(&series.name);
        series.tags = Tags::of_name(&series.name);
    }
    Ok(results)
}

/// Combines series whose names are equal without the nodes at some positions.
fn with_wildcards(scope: &Scope<'_>, mut args: Args, function: &str, first: usize) -> Outcome {
    let series = args.series(0);
    let positions: Vec<_> = (first..).map_while(|index| args.integer(index)).collect();
    group_by(scope, series, function, |series| {
        let nodes = series.name.split('.').enumerate();
        let kept =
            nodes.filter(|(index, _)| !positions.iter().any(|p| usize::try_from(*p) == Ok(*index)));
        kept.map(|(_, node)| node).collect::<Vec<_>>().join(".")
    })
}

pub(super) fn sum_with_wildcards(scope: &Scope<'_>, args: Args) -> Outcome {
    with_wildcards(scope, args, "sum", 1)
}

pub(super) fn average_with_wildcards(scope: &Scope<'_>, args: Args) -> Outcome {
    with_wildcards(scope, args, "average", 1)
}

pub(super) fn multiply_with_wildcards(scope: &Scope<'_>, args: Args) -> Outcome {
    with_wildcards(scope, args, "multiply", 1)
}

pub(super) fn aggregate_with_wildcards(scope: &Scope<'_>, args: Args) -> Outcome {
    let function = args.text(1).unwrap_or_default().to_owned();
    with_wildcards(scope, args, &function, 2)
}
