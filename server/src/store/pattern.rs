//! Patterns of keys.

use std::fmt;

/// A pattern that selects keys: `*` matches any number of characters, `?` matches one, and every other
/// character matches itself. The entire key has to match.
///
/// ```
/// use metrics_server::store::KeyPattern;
///
/// let pattern = KeyPattern::new("palm.*.load?");
/// assert!(pattern.matches("palm.cpu.0.load5"));
/// assert!(!pattern.matches("palm.cpu.load15"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyPattern(Box<str>);

impl KeyPattern {
    /// Creates a pattern. Every text is one.
    #[must_use]
    pub fn new(pattern: impl Into<Box<str>>) -> Self {
        Self(pattern.into())
    }

    /// Returns the text of the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if `key` matches. Takes at most as many steps as the product of both lengths.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let (mut pattern, mut key) = (self.0.chars(), key.chars());
        // Where to resume if the characters behind the last `*` do not match: it then matches one more.
        let mut retry = None;
        loop {
            let rest = key.clone();
            match (pattern.next(), key.next()) {
                (Some('*'), _) => {
                    retry = Some((pattern.clone(), rest.clone()));
                    key = rest;
                }
                (None, None) => return true,
                (Some(expected), Some(found)) if expected == '?' || expected == found => {}
                _ => {
                    let Some((behind, mut from)) = retry.take() else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    (pattern, key) = (behind.clone(), from.clone());
                    retry = Some((behind, from));
                }
            }
        }
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, without care for its cost.
    fn model(pattern: &[char], key: &[char]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ['*', rest @ ..] => (0..=key.len()).any(|skip| model(rest, &key[skip..])),
            ['?', rest @ ..] => !key.is_empty() && model(rest, &key[1..]),
            [first, rest @ ..] => key.first() == Some(first) && model(rest, &key[1..]),
        }
    }

    proptest! {
        #[test]
        fn pattern_matches_as_the_model(pattern in "[ab*?é]{0,8}", key in "[abé*]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = model(&chars(&pattern), &chars(&key));
            prop_assert_eq!(KeyPattern::new(pattern).matches(&key), expected);
        }
    }

    #[test]
    fn pattern_with_many_stars_is_not_exponential() {
        let pattern = KeyPattern::new("*a".repeat(200) + "b");
        assert!(!pattern.matches(&"a".repeat(1024)));
    }
}
