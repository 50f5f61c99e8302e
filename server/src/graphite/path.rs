//! Paths: patterns of dotted names, with Graphite's wildcards.

use std::fmt;

use regex::Regex;

use crate::store::KeyPattern;

/// A pattern of paths, whose nodes are separated by dots, such as `palm.*.cpu{0,1}`.
///
/// `*` matches any characters of a node, `?` one, `[a-f]` one of a set, `[!a-f]` one outside of it, `{a,b}`
/// each of the alternatives, and a node `**` any number of nodes. A backslash takes the meaning from the next
/// character.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    text: String,
    /// `None` if the pattern matches itself alone.
    regex: Option<Regex>,
}

impl PathPattern {
    /// Compiles a pattern.
    pub(super) fn new(text: &str) -> Result<Self, InvalidPattern> {
        let is_literal = !text.contains(['*', '?', '[', '{', '\\']);
        let regex = if is_literal {
            None
        } else {
            let built =
                regex::RegexBuilder::new(&to_regex(text)).size_limit(MAX_REGEX_BYTES).build();
            Some(built.map_err(|_| InvalidPattern { pattern: text.into() })?)
        };
        Ok(Self { text: text.into(), regex })
    }

    /// Returns the path, if the pattern matches one only.
    pub(super) fn literal(&self) -> Option<&str> {
        self.regex.is_none().then_some(&self.text)
    }

    /// Returns true if the entire path matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.regex.as_ref().map_or(path == self.text, |regex| regex.is_match(path))
    }

    /// Returns the number of nodes. A `**` counts as one.
    pub(super) fn nodes(&self) -> usize {
        1 + self.text.matches('.').count()
    }

    /// Returns a pattern of the store that matches at least what this one matches.
    pub(super) fn key_pattern(&self) -> KeyPattern {
        KeyPattern::new(self.widened())
    }

    /// Returns a pattern of the store that matches at least what this one matches, and all nodes below.
    pub(super) fn key_pattern_with_children(&self) -> KeyPattern {
        KeyPattern::new(self.widened() + "*")
    }

    fn widened(&self) -> String {
        let mut wide = String::with_capacity(self.text.len());
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '[' => match class(rest) {
                    Some((_, after)) => {
                        rest = after;
                        wide.push('?');
                    }
                    None => wide.push('['),
                },
                '{' => {
                    // Up to the last brace: others may be nested, and alternatives may have any length.
                    wide.push('*');
                    let Some(end) = rest.rfind('}') else { return wide };
                    let count = |c| rest[..=end].matches(c).count();
                    // A brace that is not closed goes up to the end, and so does, maybe, one whose braces may be
                    // in a set or escaped.
                    if count('{') + 1 != count('}') || count('[') + count('\\') > 0 {
                        return wide;
                    }
                    rest = &rest[end + 1..];
                }
                // What is behind it may be a wildcard of the store.
                '\\' => {
                    let mut chars = rest.chars();
                    if chars.next().is_some() {
                        wide.push('?');
                    }
                    rest = chars.as_str();
                }
                // `a.**.b` matches `a.b` too.
                '*' if wide.ends_with('*') => {
                    while wide.ends_with(['*', '.']) {
                        wide.pop();
                    }
                    wide.push('*');
                    return wide;
                }
                c => wide.push(c),
            }
        }
        wide
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The error for a pattern that is not one, or is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid or too large pattern {pattern:?}")]
pub struct InvalidPattern {
    pattern: String,
}

/// How large a compiled pattern may be: thousands of alternatives.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Translates a pattern to a regular expression.
fn to_regex(text: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = text;
    let mut braces = 0;
    while let Some(c) = rest.chars().next() {
        let at_node_start = rest.len() == text.len() || regex.ends_with("\\.");
        if at_node_start && rest == "**" {
            regex.push_str(".+");
            break;
        }
        if at_node_start && let Some(after) = rest.strip_prefix("**.") {
            regex.push_str(r"(?:[^.]+\.)*");
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => regex.push_str("[^.]*"),
            '?' => regex.push_str("[^.]"),
            '[' => match class(rest) {
                Some((class, after)) => {
                    regex.push_str(&class);
                    rest = after;
                }
                None => regex.push_str(r"\["),
            },
            '{' => {
                braces += 1;
                regex.push_str("(?:");
            }
            '}' if braces > 0 => {
                braces -= 1;
                regex.push(')');
            }
            ',' if braces > 0 => regex.push('|'),
            '\\' => {
                let mut chars = rest.chars();
                if let Some(escaped) = chars.next() {
                    regex.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4])));
                }
                rest = chars.as_str();
            }
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    // A brace that is not closed ends with the pattern.
    regex.extend(std::iter::repeat_n(')', braces));
    regex.push('$');
    regex
}

/// Translates the set behind a `[`, and returns it with what is behind the `]`.
fn class(text: &str) -> Option<(String, &str)> {
    let (negated, body) = text.strip_prefix('!').map_or((false, text), |body| (true, body));
    // A `]` at the beginning is in the set.
    let first = body.chars().next()?;
    let end = first.len_utf8() + body[first.len_utf8()..].find(']')?;
    let mut class = String::from(if negated { "[^." } else { "[" });
    let chars: Vec<_> = body[..end].chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let from = chars[at];
        let to = match chars.get(at + 1..at + 3) {
            Some(&['-', to]) => {
                at += 2;
                to
            }
            _ => from,
        };
        at += 1;
        // As with fnmatch, a range whose ends are in the wrong order is empty.
        if from <= to {
            class.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(from), u32::from(to)));
        }
    }
    if class == "[" {
        // Matches nothing.
        return Some((r"[^\s\S]".into(), &body[end + 1..]));
    }
    class.push(']');
    Some((class, &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let compiled = PathPattern::new(pattern).unwrap();
        let matches = compiled.matches(path);
        if matches {
            assert!(compiled.key_pattern().matches(path), "{pattern} {path}");
            let below = format!("{path}.x");
            assert!(compiled.key_pattern_with_children().matches(&below), "{pattern} {path}");
        }
        matches
    }

    #[test]
    fn wildcards_stay_within_a_node() {
        for (pattern, path, expected) in [
            ("palm.cpu", "palm.cpu", true),
            ("{,{}[", "", true),
            ("{a,b}.{c,d}.e", "a.d.e", true),
            ("palm.cpu", "palm.cpus", false),
            ("palm.*", "palm.cpu", true),
            ("palm.*", "palm.cpu.0", false),
            ("palm.*", "palm.", true),
            ("*.c?u", "palm.cpu", true),
            ("*.c?u", "palm.c.u", false),
            ("cpu[0-2x]", "cpu1", true),
            ("cpu[0-2x]", "cpux", true),
            ("cpu[0-2x]", "cpu3", false),
            ("cpu[!0-2]", "cpu3", true),
            ("cpu[!0-2]", "cpu.", false),
            ("a[]]b", "a]b", true),
            ("a[b", "a[b", true),
            ("a[z-a]b", "azb", false),
            ("{palm,elm}.{c,m}*", "elm.mem", true),
            ("{palm,elm}.{c,m}*", "oak.mem", false),
            ("a{b,c{d,e}}f", "acef", true),
            ("a{b,c", "ac", true),
            ("a}b,c", "a}b,c", true),
            ("a.**", "a.b.c", true),
            ("a.**.d", "a.b.c.d", true),
            ("a.**.d", "a.d", true),
            ("a.**.d", "a.bd", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("ключ.?", "ключ.я", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        assert_eq!(PathPattern::new("a.b").unwrap().literal(), Some("a.b"));
        assert_eq!(PathPattern::new("a.*").unwrap().literal(), None);
        assert_eq!(PathPattern::new("a.*.c").unwrap().nodes(), 3);
    }

    #[test]
    fn pattern_that_is_too_large_is_an_error() {
        assert!(PathPattern::new(&"{a*,b?}[a-z]".repeat(20_000)).is_err());
    }

    proptest! {
        #[test]
        fn store_pattern_matches_all_that_the_pattern_matches(
            pattern in r"[ab.*?\[\]!{},\\-]{0,12}", path in "[ab.*,]{0,6}",
        ) {
            if PathPattern::new(&pattern).is_ok() {
                matches(&pattern, &path);
            }
        }
    }
}
