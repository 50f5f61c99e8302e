//! `/metrics/find`, `/metrics/expand` and `/metrics/index.json`: the tree of paths.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{RenderError, path::PathPattern};
use crate::store::{KeyPattern, Store};

/// A node of the tree of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathNode {
    /// The path from the root, such as `palm.cpu`.
    pub path: String,
    /// True if it is a series.
    pub is_leaf: bool,
    /// True if there are nodes below.
    pub is_branch: bool,
}

impl PathNode {
    /// Returns the last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }
}

/// Returns the nodes that match a pattern, sorted by path. Tagged series are not among them.
///
/// # Errors
///
/// If the pattern is invalid, or the store cannot be read.
pub async fn find_nodes<S: Store>(store: &S, pattern: &str) -> Result<Vec<PathNode>, RenderError> {
    let pattern = PathPattern::new(pattern)?;
    let depth = pattern.nodes();
    let mut nodes: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for key in store.keys(&pattern.key_pattern_with_children()).await? {
        let key = key.as_str();
        if key.contains(';') {
            continue;
        }
        let end = key.match_indices('.').nth(depth - 1).map(|(at, _)| at);
        let path = &key[..end.unwrap_or(key.len())];
        if let Some((is_leaf, is_branch)) = nodes.get_mut(path) {
            *is_leaf |= end.is_none();
            *is_branch |= end.is_some();
        } else if pattern.matches(path) {
            nodes.insert(path.into(), (end.is_none(), end.is_some()));
        } else if pattern.matches(key) {
            // `**` matches series at any depth.
            nodes.insert(key.into(), (true, false));
        }
    }
    let node = |(path, (is_leaf, is_branch))| PathNode { path, is_leaf, is_branch };
    Ok(nodes.into_iter().map(node).collect())
}

/// A node as `/metrics/find` shows it to Grafana (`format=treejson`, the default).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeNode {
    /// The last part of the path.
    pub text: String,
    /// The path as the pattern has it, with the last part.
    pub id: String,
    /// 1 if there are nodes below.
    pub allow_children: u8,
    /// 1 if there are nodes below.
    pub expandable: u8,
    /// 1 if it is a series.
    pub leaf: u8,
}

/// Returns the nodes that match a pattern, each name once, branches first; with `wildcards`, a node `*` for all of
/// them if there are several.
///
/// # Errors
///
/// As [`find_nodes`].
pub async fn find_tree<S: Store>(
    store: &S,
    pattern: &str,
    wildcards: bool,
) -> Result<Vec<TreeNode>, RenderError> {
    let base = &pattern[..pattern.rfind('.').map_or(0, |at| at + 1)];
    let found = find_nodes(store, pattern).await?;
    let mut names: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for node in &found {
        let (is_leaf, is_branch) = names.entry(node.name()).or_default();
        *is_leaf |= node.is_leaf;
        *is_branch |= node.is_branch;
    }
    let node = |name: &str, is_leaf: bool, is_branch: bool| TreeNode {
        text: name.into(),
        id: format!("{base}{name}"),
        allow_children: u8::from(is_branch),
        expandable: u8::from(is_branch),
        leaf: u8::from(is_leaf),
    };
    let mut tree = Vec::with_capacity(names.len() + 1);
    if wildcards && found.len() > 1 {
        let is_branch = found.iter().any(|node| node.is_branch);
        tree.push(node("*", !is_branch, is_branch));
    }
    for branches in [true, false] {
        let these = names.iter().filter(|(_, (_, is_branch))| *is_branch == branches);
        tree.extend(these.map(|(name, (is_leaf, is_branch))| node(name, *is_leaf, *is_branch)));
    }
    Ok(tree)
}

/// The answer of `/metrics/find` with `format=completer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Completions {
    /// The nodes with which the query can go on.
    pub metrics: Vec<Completion>,
}

/// A node with which a query can go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// The path; it ends in a dot if there are nodes below.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The last part of the path.
    pub name: String,
    /// `1` for a series, `0` for a branch.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub is_leaf: &'static str,
}

/// Returns the nodes that begin with what a user has typed; with `wildcards`, a node `*` for all of them if there
/// are several.
///
/// # Errors
///
/// As [`find_nodes`].
pub async fn find_completions<S: Store>(
    store: &S,
    typed: &str,
    wildcards: bool,
) -> Result<Completions, RenderError> {
    let mut pattern = typed.replace("..", "*.");
    if !pattern.ends_with('*') {
        pattern.push('*');
    }
    let mut nodes = find_nodes(store, &pattern).await?;
    nodes.sort_by(|a, b| a.name().cmp(b.name()));
    let mut metrics = Vec::with_capacity(nodes.len());
    for node in &nodes {
        let name = node.name().to_owned();
        if node.is_branch {
            let path = format!("{}.", node.path);
            metrics.push(Completion { path, name: name.clone(), is_leaf: "0" });
        }
        if node.is_leaf {
            metrics.push(Completion { path: node.path.clone(), name, is_leaf: "1" });
        }
    }
    if wildcards && metrics.len() > 1 {
        metrics.push(Completion { path: String::new(), name: "*".into(), is_leaf: "" });
    }
    Ok(Completions { metrics })
}

/// The answer of `/metrics/expand`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expansion {
    /// The paths.
    pub results: ExpandedPaths,
}

/// The paths of an [`Expansion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ExpandedPaths {
    /// Of all patterns, each once.
    All(Vec<String>),
    /// By pattern (`groupByExpr=1`).
    ByPattern(BTreeMap<String, Vec<String>>),
}

/// Returns the paths that match some patterns, sorted; only those of series with `leaves_only`.
///
/// # Errors
///
/// As [`find_nodes`].
pub async fn expand<S: Store>(
    store: &S,
    patterns: &[String],
    group_by_pattern: bool,
    leaves_only: bool,
) -> Result<Expansion, RenderError> {
    let mut by_pattern = BTreeMap::new();
    for pattern in patterns {
        let nodes = find_nodes(store, pattern).await?.into_iter();
        let paths = nodes.filter(|node| node.is_leaf || !leaves_only).map(|node| node.path);
        by_pattern.insert(pattern.clone(), paths.collect::<Vec<_>>());
    }
    let results = if group_by_pattern {
        ExpandedPaths::ByPattern(by_pattern)
    } else {
        let mut all: Vec<_> = by_pattern.into_values().flatten().collect();
        all.sort_unstable();
        all.dedup();
        ExpandedPaths::All(all)
    };
    Ok(Expansion { results })
}

/// Returns the paths of all series, sorted (`/metrics/index.json`). Tagged series are not among them.
///
/// # Errors
///
/// If the store cannot be read.
pub async fn index<S: Store>(store: &S) -> Result<Vec<String>, RenderError> {
    let keys = store.keys(&KeyPattern::new("*")).await?.into_iter();
    let mut paths: Vec<String> =
        keys.map(String::from).filter(|path: &String| !path.contains(';')).collect();
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use metrics_client::{Key, Point};

    use super::*;
    use crate::store::{MemoryStore, PutBatch};

    async fn store(keys: &[&str]) -> MemoryStore {
        let store = MemoryStore::new();
        let mut puts = PutBatch::new();
        for key in keys {
            puts.push(&Key::new(key).unwrap(), Point::new(1.0, 1));
        }
        store.apply(&puts).await.unwrap();
        store
    }

    #[tokio::test]
    async fn nodes_are_branches_series_or_both() {
        let store = store(&["palm.b.cpu", "palm.a", "palm.a.cpu", "palm.c", "x;host=palm"]).await;
        let tree = async |pattern: &str, wildcards| {
            let tree = find_tree(&store, pattern, wildcards).await.unwrap();
            let show = |node: &TreeNode| {
                format!("{}={} {}{}", node.text, node.id, node.expandable, node.leaf)
            };
            tree.iter().map(show).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(tree("*", false).await, "palm=palm 10");
        assert_eq!(tree("palm.*", false).await, "a=palm.a 11, b=palm.b 10, c=palm.c 01");
        assert_eq!(tree("palm.[bc]", true).await, "*=palm.* 10, b=palm.b 10, c=palm.c 01");
        assert_eq!(tree("*.*.cpu", false).await, "cpu=*.*.cpu 01");
        assert_eq!(tree("palm.**", false).await, "a=palm.a 11, b=palm.b 10, c=palm.c 01");
        assert_eq!(tree("nothing.*", false).await, "");
    }

    #[tokio::test]
    async fn patterns_are_expanded_together_or_one_by_one() {
        let store = store(&["palm.b.cpu", "palm.a.cpu", "elm.cpu"]).await;
        let expanded = async |patterns: &[&str], by_pattern, leaves_only| {
            let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
            let expansion = expand(&store, &patterns, by_pattern, leaves_only).await.unwrap();
            serde_json::to_string(&expansion).unwrap()
        };
        assert_eq!(
            expanded(&["palm.*", "*.a", "elm.cpu"], false, false).await,
            r#"{"results":["elm.cpu","palm.a","palm.b"]}"#
        );
        assert_eq!(
            expanded(&["palm.*", "elm.*"], true, true).await,
            r#"{"results":{"elm.*":["elm.cpu"],"palm.*":[]}}"#
        );
        assert_eq!(index(&store).await.unwrap(), ["elm.cpu", "palm.a.cpu", "palm.b.cpu"]);
    }

    #[tokio::test]
    async fn what_is_typed_is_completed() {
        let store = store(&["palm.b.cpu", "palm.bx", "elm.cpu"]).await;
        let completed = async |typed: &str, wildcards| {
            serde_json::to_string(&find_completions(&store, typed, wildcards).await.unwrap())
                .unwrap()
        };
        assert_eq!(
            completed("palm.b", true).await,
            r#"{"metrics":[{"path":"palm.b.","name":"b","is_leaf":"0"},{"path":"palm.bx","name":"bx","is_leaf":"1"},{"name":"*"}]}"#
        );
        assert_eq!(completed("nothing", true).await, r#"{"metrics":[]}"#);
    }
}
