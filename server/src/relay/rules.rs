//! Which keys a relay sends, and under which names.

use std::{borrow::Cow, fmt};

use metrics_client::codec::KeyRef;

use crate::store::KeyPattern;

/// Which keys a relay sends, and under which names. Without rules every key is sent as it is.
///
/// ```
/// use metrics_server::relay::{Rename, Rules};
///
/// let rules = Rules::new()
///     .only(["palm.*", "eardrum.*"])
///     .except(["*.debug.*"])
///     .rename(Rename::new("palm.*", "site1.$1")?);
/// assert_eq!(rules.name_of("palm.cpu").as_deref(), Some("site1.cpu"));
/// assert_eq!(rules.name_of("eardrum.cpu").as_deref(), Some("eardrum.cpu"));
/// assert_eq!(rules.name_of("palm.debug.cpu"), None);
/// assert_eq!(rules.name_of("olive.cpu"), None);
/// # Ok::<(), metrics_server::relay::InvalidRename>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    only: Vec<KeyPattern>,
    except: Vec<KeyPattern>,
    renames: Vec<Rename>,
}

impl Rules {
    /// Returns no rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends only keys that match one of these patterns. Without any, all keys match.
    #[must_use]
    pub fn only(mut self, patterns: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        self.only.extend(patterns.into_iter().map(KeyPattern::new));
        self
    }

    /// Sends no key that matches one of these patterns.
    #[must_use]
    pub fn except(mut self, patterns: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        self.except.extend(patterns.into_iter().map(KeyPattern::new));
        self
    }

    /// Adds a rename. The first one whose pattern matches a key is applied, and no other.
    #[must_use]
    pub fn rename(mut self, rename: Rename) -> Self {
        self.renames.push(rename);
        self
    }

    /// Returns the name under which a key is sent, or `None` if it is not sent. The patterns of
    /// [`only`](Self::only) and [`except`](Self::except) see the name before it is changed.
    #[must_use]
    pub fn name_of<'a>(&self, key: &'a str) -> Option<Cow<'a, str>> {
        let is_any = |patterns: &[KeyPattern]| patterns.iter().any(|pattern| pattern.matches(key));
        if !self.only.is_empty() && !is_any(&self.only) || is_any(&self.except) {
            return None;
        }
        let renamed = self.renames.iter().find_map(|rename| rename.apply(key));
        Some(renamed.map_or(Cow::Borrowed(key), Cow::Owned))
    }

    pub(super) fn apply<'a>(&self, key: &'a str) -> Ruling<'a> {
        match self.name_of(key) {
            None => Ruling::Filtered,
            Some(Cow::Owned(name)) if KeyRef::new(&name).is_err() => Ruling::Invalid,
            Some(name) => Ruling::Send(name),
        }
    }
}

/// What the rules say about a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling<'a> {
    Send(Cow<'a, str>),
    Filtered,
    /// Its new name is not a valid key.
    Invalid,
}

/// A change of names: what each `*` and `?` of a pattern matches can be used in the new name.
///
/// `$1` to `$9` in the new name stand for the first to the ninth of them, `$$` for a dollar sign. If a
/// pattern can match in several ways, its first `*` matches as little as it can.
#[derive(Clone, PartialEq, Eq)]
pub struct Rename {
    pattern: Box<str>,
    to: Box<[NamePart]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NamePart {
    Text(String),
    /// What a wildcard has matched, by its index.
    Match(usize),
}

/// Why a rename is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid new name {to:?}: {reason}")]
pub struct InvalidRename {
    to: String,
    reason: String,
}

impl Rename {
    /// Creates a rename of the keys that match `pattern`.
    ///
    /// # Errors
    ///
    /// If `to` has a `$` without a digit after it, or a number that the pattern has no wildcard for.
    pub fn new(pattern: impl Into<Box<str>>, to: &str) -> Result<Self, InvalidRename> {
        let pattern = pattern.into();
        let wildcards = pattern.chars().filter(|&c| is_wildcard(c)).count();
        let invalid = |reason: String| InvalidRename { to: to.to_owned(), reason };
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut chars = to.chars();
        while let Some(c) = chars.next() {
            if c != '$' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some('$') => text.push('$'),
                Some(digit @ '1'..='9') => {
                    let number = digit as usize - '0' as usize;
                    if number > wildcards {
                        let reason = format!("{pattern:?} has {wildcards} wildcards");
                        return Err(invalid(reason));
                    }
                    parts.push(NamePart::Text(std::mem::take(&mut text)));
                    parts.push(NamePart::Match(number - 1));
                }
                _ => return Err(invalid("write $1 to $9, or $$ for a dollar sign".into())),
            }
        }
        parts.push(NamePart::Text(text));
        Ok(Self { pattern, to: parts.into() })
    }

    /// Returns the new name of a key, or `None` if the pattern does not match.
    fn apply(&self, key: &str) -> Option<String> {
        let matches = captures(&self.pattern, key)?;
        let parts = self.to.iter().map(|part| match part {
            NamePart::Text(text) => text.as_str(),
            NamePart::Match(index) => matches.get(*index).copied().unwrap_or_default(),
        });
        Some(parts.collect())
    }
}

impl fmt::Debug for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rename").field("pattern", &self.pattern).field("to", &self.to).finish()
    }
}

fn is_wildcard(c: char) -> bool {
    matches!(c, '*' | '?')
}

/// Returns what each wildcard of a pattern matches, as [`KeyPattern::matches`] does. Takes at most as many
/// steps as the product of both lengths.
fn captures<'a>(pattern: &str, key: &'a str) -> Option<Vec<&'a str>> {
    let (mut pattern_at, mut key_at) = (0, 0);
    // Where each wildcard before `pattern_at` begins and ends in the key.
    let mut found: Vec<(usize, usize)> = Vec::new();
    // Where to resume: behind the last `*`, which then matches one character more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let expected = pattern[pattern_at..].chars().next();
        let next = key[key_at..].chars().next();
        match (expected, next) {
            (Some('*'), _) => {
                found.push((key_at, key_at));
                pattern_at += 1;
                retry = Some((pattern_at, found.len()));
            }
            (None, None) => return Some(found.iter().map(|&(from, to)| &key[from..to]).collect()),
            (Some('?'), Some(c)) => {
                found.push((key_at, key_at + c.len_utf8()));
                (pattern_at, key_at) = (pattern_at + 1, key_at + c.len_utf8());
            }
            (Some(expected), Some(c)) if expected == c => {
                (pattern_at, key_at) = (pattern_at + c.len_utf8(), key_at + c.len_utf8());
            }
            _ => {
                let (behind, count) = retry?;
                found.truncate(count);
                let (_, end) = found.last_mut()?;
                *end += key[*end..].chars().next()?.len_utf8();
                (pattern_at, key_at) = (behind, *end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn renamed(pattern: &str, to: &str, key: &str) -> Option<String> {
        Rename::new(pattern, to).unwrap().apply(key)
    }

    #[test]
    fn rename_uses_what_wildcards_match() {
        assert_eq!(renamed("a.*.c", "x.$1", "a.b.b.c").as_deref(), Some("x.b.b"));
        assert_eq!(renamed("*.*", "$2.$1", "a.b.c").as_deref(), Some("b.c.a"));
        assert_eq!(renamed("cpu?.*", "$2;core=$1", "cpu7.idle").as_deref(), Some("idle;core=7"));
        assert_eq!(renamed("*ö*", "$1$$$2$1", "aöb").as_deref(), Some("a$ba"));
        assert_eq!(renamed("*", "dc1.$1", "ключ").as_deref(), Some("dc1.ключ"));
        assert_eq!(renamed("a", "b", "a").as_deref(), Some("b"));
        assert_eq!(renamed("a.*", "b", "b.a"), None);
    }

    #[test]
    fn invalid_rename_says_why() {
        for (pattern, to, reason) in [
            ("a.*", "$2", "has 1 wildcards"),
            ("a", "$1", "has 0 wildcards"),
            ("*", "$0", "write $1 to $9"),
            ("*", "a$", "write $1 to $9"),
            ("*", "$x", "write $1 to $9"),
        ] {
            let error = Rename::new(pattern, to).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn first_matching_rename_is_applied() {
        let rules = Rules::new()
            .rename(Rename::new("a.*", "b.$1").unwrap())
            .rename(Rename::new("b.*", "c.$1").unwrap())
            .rename(Rename::new("x*", "$1").unwrap());
        assert_eq!(rules.apply("a.1"), Ruling::Send("b.1".into()));
        assert_eq!(rules.apply("b.1"), Ruling::Send("c.1".into()));
        assert_eq!(rules.apply("c.1"), Ruling::Send("c.1".into()));
        // An empty name, and the one that selects everything.
        assert_eq!(rules.apply("x"), Ruling::Invalid);
        assert_eq!(rules.apply("x*"), Ruling::Invalid);
    }

    #[test]
    fn patterns_see_the_name_before_the_rename() {
        let rules = Rules::new()
            .only(["a.*", "b.*"])
            .except(["*.secret"])
            .rename(Rename::new("b.*", "c.secret").unwrap());
        assert_eq!(rules.apply("a.1"), Ruling::Send("a.1".into()));
        assert_eq!(rules.apply("b.1"), Ruling::Send("c.secret".into()));
        assert_eq!(rules.apply("a.secret"), Ruling::Filtered);
        assert_eq!(rules.apply("c.1"), Ruling::Filtered);
    }

    proptest! {
        #[test]
        fn captures_agree_with_patterns(pattern in "[ab*?ö]{0,8}", key in "[abö]{0,10}") {
            let found = captures(&pattern, &key);
            prop_assert_eq!(found.is_some(), KeyPattern::new(pattern.as_str()).matches(&key));
            if let Some(found) = found {
                // In the place of the wildcards they make up the key.
                let mut found = found.into_iter();
                let mut rebuilt = String::new();
                for c in pattern.chars() {
                    if is_wildcard(c) {
                        rebuilt.push_str(found.next().unwrap());
                    } else {
                        rebuilt.push(c);
                    }
                }
                prop_assert_eq!(rebuilt, key);
            }
        }
    }
}
