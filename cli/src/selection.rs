//! Which keys a command is about: keys, and patterns of them.

use metrics_client::Key;
use metrics_server::store::KeyPattern;

use crate::failure::Failure;

/// Keys and patterns, as a command line has them.
#[derive(Debug)]
pub(crate) struct Selection {
    /// What has neither `*` nor `?`.
    keys: Vec<Key>,
    patterns: Vec<KeyPattern>,
}

impl Selection {
    /// Reads what a command line has. What contains `*` or `?` is a pattern.
    ///
    /// # Errors
    ///
    /// Returns an error if one can be no key, nor match any.
    pub(crate) fn new(texts: &[impl AsRef<str>]) -> Result<Self, Failure> {
        let (mut keys, mut patterns) = (Vec::new(), Vec::new());
        for text in texts.iter().map(AsRef::as_ref) {
            let key =
                if text == "*" { None } else { Some(Key::new(text).map_err(Failure::usage)?) };
            match key {
                Some(key) if !text.contains(['*', '?']) => {
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                }
                _ => patterns.push(KeyPattern::new(text)),
            }
        }
        Ok(Self { keys, patterns })
    }

    /// Returns the keys, if there is no pattern.
    pub(crate) fn keys(&self) -> Option<&[Key]> {
        self.patterns.is_empty().then_some(&self.keys)
    }

    pub(crate) fn matches(&self, key: &Key) -> bool {
        self.keys.contains(key) || self.patterns.iter().any(|pattern| pattern.matches(key.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_make_a_pattern() {
        let keys = Selection::new(&["palm.cpu", "a;b=c", "palm.cpu"]).unwrap();
        assert_eq!(
            keys.keys().unwrap(),
            [Key::new("palm.cpu").unwrap(), Key::new("a;b=c").unwrap()]
        );
        for (texts, key, is_selected) in [
            (["*"].as_slice(), "palm.cpu", true),
            (&["palm.*", "a"], "a", true),
            (&["palm.*", "a"], "palm.cpu", true),
            (&["palm.*", "a"], "b", false),
            (&["palm.cp?"], "palm.cpu", true),
        ] {
            let selection = Selection::new(texts).unwrap();
            assert!(selection.keys().is_none());
            assert_eq!(selection.matches(&Key::new(key).unwrap()), is_selected, "{texts:?}");
        }
        for text in ["", "a b", "a b*"] {
            assert!(Selection::new(&[text]).is_err(), "{text:?}");
        }
    }
}
