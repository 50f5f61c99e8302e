//! Tagged series: keys of the form `name;tag=value`, found by their tags.

use metrics_client::Key;
use regex::Regex;

use super::{RenderError, series::Tags};
use crate::store::{KeyPattern, Store};

/// Conditions on tags, all of which have to hold.
#[derive(Debug)]
pub(super) struct TagQuery(Vec<Condition>);

#[derive(Debug)]
struct Condition {
    tag: String,
    test: Test,
    negated: bool,
}

#[derive(Debug)]
enum Test {
    Equals(String),
    Matches(Regex),
}

impl TagQuery {
    /// Parses conditions: `tag=value`, `tag!=value`, `tag=~regex`, `tag!=~regex`.
    ///
    /// A tag that a series does not have is empty. At least one condition has to require a value.
    pub(super) fn new<'a>(exprs: impl IntoIterator<Item = &'a str>) -> Result<Self, RenderError> {
        let conditions = exprs.into_iter().map(Condition::parse);
        let query = Self(conditions.collect::<Result<_, _>>()?);
        if query.0.iter().all(|condition| condition.holds("")) {
            return Err(invalid("at least one tag expression must require a value".into()));
        }
        Ok(query)
    }

    /// Returns true if the key is that of a tagged series, and every condition holds.
    pub(super) fn matches(&self, key: &Key) -> bool {
        key.as_str().contains(';') && self.matches_tags(&Tags::of_name(key.as_str()))
    }

    fn matches_tags(&self, tags: &Tags) -> bool {
        self.0.iter().all(|condition| condition.holds(tags.get(&condition.tag).unwrap_or_default()))
    }
}

impl Condition {
    fn parse(expr: &str) -> Result<Self, RenderError> {
        let malformed = || invalid(format!("invalid tag expression {expr:?}"));
        let at = expr.find(['=', '!']).filter(|&at| at > 0).ok_or_else(malformed)?;
        let (tag, rest) = expr.split_at(at);
        let (negated, rest) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest));
        let rest = rest.strip_prefix('=').ok_or_else(malformed)?;
        let test = match rest.strip_prefix('~') {
            // Anchored at the beginning only.
            Some(regex) => Regex::new(&format!("^(?:{regex})"))
                .map(Test::Matches)
                .map_err(|_| invalid(format!("invalid regular expression {regex:?}")))?,
            None => Test::Equals(rest.into()),
        };
        Ok(Self { tag: tag.into(), test, negated })
    }

    fn holds(&self, value: &str) -> bool {
        let holds = match &self.test {
            Test::Equals(expected) => value == expected,
            Test::Matches(regex) => regex.is_match(value),
        };
        holds != self.negated
    }
}

fn invalid(reason: String) -> RenderError {
    RenderError::Argument { function: "seriesByTag".into(), reason }
}

/// A tag, as `/tags` lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TagInfo {
    /// The name of the tag.
    pub tag: String,
}

/// Lists the tags of all tagged series, sorted (`/tags`).
///
/// # Errors
///
/// If the store cannot be read.
pub async fn list_tags<S: Store>(store: &S) -> Result<Vec<TagInfo>, RenderError> {
    let tags = autocomplete_tags(store, &[], "", usize::MAX).await?;
    Ok(tags.into_iter().map(|tag| TagInfo { tag }).collect())
}

/// Lists tags that begin with `prefix` and are not in `exprs`, of the series that match `exprs`, sorted
/// (`/tags/autoComplete/tags`).
///
/// # Errors
///
/// If an expression is invalid, or the store cannot be read.
pub async fn autocomplete_tags<S: Store>(
    store: &S,
    exprs: &[String],
    prefix: &str,
    limit: usize,
) -> Result<Vec<String>, RenderError> {
    let searched: Vec<_> = exprs.iter().filter_map(|expr| expr.split(['=', '!']).next()).collect();
    let mut found = Vec::new();
    for tags in tags_of_matching(store, exprs, None).await? {
        for (tag, _) in tags.iter() {
            if tag.starts_with(prefix) && !searched.contains(&tag) {
                insert(&mut found, tag, limit);
            }
        }
    }
    Ok(found)
}

/// Lists values of `tag` that begin with `prefix`, of the series that match `exprs`, sorted
/// (`/tags/autoComplete/values`).
///
/// # Errors
///
/// If an expression is invalid, or the store cannot be read.
pub async fn autocomplete_values<S: Store>(
    store: &S,
    exprs: &[String],
    tag: &str,
    prefix: &str,
    limit: usize,
) -> Result<Vec<String>, RenderError> {
    let mut found = Vec::new();
    for tags in tags_of_matching(store, exprs, Some(tag)).await? {
        if let Some(value) = tags.get(tag).filter(|value| value.starts_with(prefix)) {
            insert(&mut found, value, limit);
        }
    }
    Ok(found)
}

/// The limit of the lists of tags and values if a request names none, that of graphite-web.
pub const DEFAULT_AUTOCOMPLETE_LIMIT: usize = 100;

/// Keeps the first `limit` texts, sorted, each once.
fn insert(found: &mut Vec<String>, text: &str, limit: usize) {
    if let Err(at) = found.binary_search_by(|known| known.as_str().cmp(text))
        && at < limit
    {
        found.insert(at, text.into());
        found.truncate(limit);
    }
}

async fn tags_of_matching<S: Store>(
    store: &S,
    exprs: &[String],
    required: Option<&str>,
) -> Result<Vec<Tags>, RenderError> {
    let query = if exprs.is_empty() {
        None
    } else {
        let required = required.map(|tag| format!("{tag}!="));
        Some(TagQuery::new(exprs.iter().map(String::as_str).chain(required.as_deref()))?)
    };
    let keys = store.keys(&KeyPattern::new("*;*")).await?;
    let tags = keys.iter().map(|key| Tags::of_name(key.as_str()));
    Ok(tags.filter(|tags| query.as_ref().is_none_or(|query| query.matches_tags(tags))).collect())
}

#[cfg(test)]
mod tests {
    use metrics_client::Point;

    use super::*;
    use crate::store::{MemoryStore, PutBatch};

    fn matches(exprs: &[&str], key: &str) -> bool {
        TagQuery::new(exprs.iter().copied()).unwrap().matches(&Key::new(key).unwrap())
    }

    #[test]
    fn tag_expressions_are_tested_one_by_one() {
        let key = "cpu;dc=a;host=palm";
        for (exprs, expected) in [
            (&["name=cpu"][..], true),
            (&["host=palm", "dc=b"], false),
            (&["host!=elm"], true),
            (&["host=palm", "rack="], true),
            (&["host=palm", "dc="], false),
            (&["host=~p"], true),
            (&["host=~alm"], false),
            (&["host=~elm|palm", "dc!=~b|c"], true),
            (&["host=palm", "dc!=~a"], false),
        ] {
            if exprs == ["host!=elm"] {
                assert!(TagQuery::new(exprs.iter().copied()).is_err());
            } else {
                assert_eq!(matches(exprs, key), expected, "{exprs:?}");
            }
        }
        assert!(!matches(&["name=palm.cpu"], "palm.cpu"));
        for expr in ["host", "=a", "host!a", "host=~("] {
            assert!(TagQuery::new([expr]).is_err(), "{expr}");
        }
    }

    #[tokio::test]
    async fn tags_and_values_are_completed() {
        let store = MemoryStore::new();
        let mut puts = PutBatch::new();
        for key in ["cpu;dc=a;host=palm", "cpu;dc=b;host=elm", "mem;host=oak", "palm.cpu"] {
            puts.push(&Key::new(key).unwrap(), Point::new(1.0, 1));
        }
        store.apply(&puts).await.unwrap();
        let tags = async |exprs: &[String], prefix: &str, limit| {
            autocomplete_tags(&store, exprs, prefix, limit).await.unwrap().join(" ")
        };
        assert_eq!(tags(&[], "", 100).await, "dc host name");
        assert_eq!(tags(&[], "", 2).await, "dc host");
        assert_eq!(tags(&[], "h", 100).await, "host");
        assert_eq!(tags(&["name=mem".into()], "", 100).await, "host");
        let values = async |exprs: &[String], tag: &str, prefix: &str| {
            autocomplete_values(&store, exprs, tag, prefix, 100).await.unwrap().join(" ")
        };
        assert_eq!(values(&[], "host", "").await, "elm oak palm");
        assert_eq!(values(&["name=cpu".into()], "host", "p").await, "palm");
        assert_eq!(values(&["rack=".into()], "dc", "").await, "a b");
        assert_eq!(list_tags(&store).await.unwrap().len(), 3);
    }
}
