//! The nodes of a series: the parts of its path, or its tags.

use super::{Series, Value};
use crate::graphite::target::Expr;

/// Returns the nodes or tags of a series, joined by dots.
pub(super) fn group_key(series: &Series, nodes: &[Value]) -> String {
    // The nodes of a function's result are those of the path that it was made of.
    let path =
        series.name.ends_with(')').then(|| Expr::parse(&series.name, MAX_DEPTH).ok()).flatten();
    let path = path.as_ref().and_then(Expr::first_path).unwrap_or(&series.name);
    let path = path.split(';').next().unwrap_or_default();
    let parts = nodes.iter().map(|node| node_or_tag(series, path, node));
    parts.collect::<Vec<_>>().join(".")
}

/// How deep a name is looked into: deeper than targets are nested.
const MAX_DEPTH: usize = 100;

fn node_or_tag<'a>(series: &'a Series, path: &'a str, node: &Value) -> &'a str {
    match node {
        Value::Integer(index) => {
            let found = if *index < 0 {
                usize::try_from(-(index + 1)).ok().and_then(|index| path.rsplit('.').nth(index))
            } else {
                usize::try_from(*index).ok().and_then(|index| path.split('.').nth(index))
            };
            found.or_else(|| series.tags.get(&index.to_string())).unwrap_or_default()
        }
        Value::Text(tag) => series.tags.get(tag).unwrap_or_default(),
        _ => "",
    }
}
