//! [`Key`]: the name of a metric, valid once constructed.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    str::FromStr,
    sync::Arc,
};

use super::Excerpt;

/// The name of a metric, such as `palm.cpu`: valid once constructed.
///
/// A key has 1 to [`Key::MAX_LEN`] bytes of UTF-8 without white space and control characters, and is
/// not `*`, which selects every key. A `Key` can therefore never add a second request to a connection.
/// Cloning is cheap: clones share the text.
///
/// `Display` writes the text unchanged, which may contain invisible characters and characters that
/// change the direction of writing. `Debug` escapes these, for logs and terminals.
///
/// ```
/// use metrics_client::Key;
///
/// let key = Key::new("palm.cpu")?;
/// assert_eq!(key.as_str(), "palm.cpu");
/// assert!(Key::new("palm cpu").is_err());
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The maximum length of a key: 1,024 bytes.
    ///
    /// The protocol sets it: a request with a longer key would not fit into one Ethernet segment, and
    /// most servers cannot read a request that arrives in two pieces.
    pub const MAX_LEN: usize = 1024;

    /// Creates a key from its text.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] with the text and the reason if it is not a valid key.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let text = text.as_ref();
        Self::validate(text)?;
        Ok(Self(text.into()))
    }

    /// Returns the text of the key.
    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Creates a key from text that [`Key::validate`] has accepted.
    pub(crate) fn from_valid(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        debug_assert!(Self::validate(&text).is_ok());
        Self(text)
    }

    /// Returns an error if `text` is not a valid key.
    pub(crate) fn validate(text: &str) -> Result<(), InvalidKey> {
        let kind = if text.is_empty() {
            KeyErrorKind::Empty
        } else if text.len() > Self::MAX_LEN {
            KeyErrorKind::TooLong { len: text.len() }
        } else if text == "*" {
            KeyErrorKind::Everything
        } else if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(());
        } else {
            match text.chars().find(|c| c.is_whitespace() || c.is_control()) {
                Some(found) => KeyErrorKind::Character { found },
                None => return Ok(()),
            }
        };
        Err(InvalidKey { excerpt: Excerpt::of(text.as_bytes()), kind })
    }
}

/// A borrowed [`Key`]: a `&str` that is known to be a valid key.
///
/// A parser returns one without allocating; [`to_key`](Self::to_key) copies it to a `Key`.
///
/// ```
/// use metrics_client::codec::KeyRef;
///
/// let key = KeyRef::new("palm.cpu")?;
/// assert_eq!(key.as_str(), "palm.cpu");
/// assert!(KeyRef::new("palm cpu").is_err());
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef<'a>(&'a str);

impl<'a> KeyRef<'a> {
    /// Checks that `text` is a valid key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] with the text and the reason if it is not.
    pub fn new(text: &'a str) -> Result<Self, InvalidKey> {
        Key::validate(text)?;
        Ok(Self(text))
    }

    /// Wraps text that has been validated.
    #[inline]
    pub(crate) fn from_valid(text: &'a str) -> Self {
        debug_assert!(Key::validate(text).is_ok());
        Self(text)
    }

    /// Returns the text of the key.
    #[must_use]
    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Returns an owned key with the same text.
    #[must_use]
    pub fn to_key(self) -> Key {
        Key(self.0.into())
    }
}

impl std::ops::Deref for KeyRef<'_> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.0
    }
}

impl<'a> From<&'a Key> for KeyRef<'a> {
    #[inline]
    fn from(key: &'a Key) -> Self {
        Self(key.as_str())
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        key.to_key()
    }
}

impl fmt::Display for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for Key {
    #[inline]
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Key {
    #[inline]
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Key {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Key> for str {
    fn eq(&self, other: &Key) -> bool {
        self == other.as_str()
    }
}

impl PartialEq<Key> for &str {
    fn eq(&self, other: &Key) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<Key> for String {
    fn eq(&self, other: &Key) -> bool {
        self == other.as_str()
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

macro_rules! try_from {
    ($($text:ty),*) => {$(
        impl TryFrom<$text> for Key {
            type Error = InvalidKey;

            fn try_from(text: $text) -> Result<Self, InvalidKey> {
                Self::validate(&text)?;
                Ok(Self(text.into()))
            }
        }
    )*};
}

try_from!(&str, String, Cow<'_, str>, Box<str>, Arc<str>);

impl TryFrom<&String> for Key {
    type Error = InvalidKey;

    fn try_from(text: &String) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<Key> for Arc<str> {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.as_str().into()
    }
}

impl From<&Key> for String {
    fn from(key: &Key) -> Self {
        key.as_str().into()
    }
}

/// The error for text that is not a valid [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid key {excerpt}: {kind}")]
pub struct InvalidKey {
    excerpt: Excerpt,
    kind: KeyErrorKind,
}

impl From<std::convert::Infallible> for InvalidKey {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyErrorKind {
    Empty,
    TooLong { len: usize },
    Everything,
    Character { found: char },
}

impl fmt::Display for KeyErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong { len } => {
                write!(f, "has {len} bytes, and the maximum is {}", Key::MAX_LEN)
            }
            Self::Everything => f.write_str("selects every key"),
            Self::Character { found } if found.is_control() => {
                write!(f, "contains control character {found:?}")
            }
            Self::Character { found } => {
                write!(f, "contains white space {found:?}; use `_` or `.` instead")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_text_without_white_space_and_controls() {
        for name in ["palm.cpu", "a", "ключ", "a;b=c", "**", "\u{feff}", "\u{1f600}", "a*"] {
            assert_eq!(Key::new(name).unwrap().as_str(), name);
        }
        let longest = "k".repeat(Key::MAX_LEN);
        assert!(Key::new(&longest).is_ok());
        assert!(Key::new(longest + "k").is_err());
    }

    #[test]
    fn invalid_key_error_shows_key_and_reason() {
        for (name, message) in [
            ("", "invalid key \"\": is empty"),
            ("*", "invalid key \"*\": selects every key"),
            ("a b", "invalid key \"a b\": contains white space ' '; use `_` or `.` instead"),
            ("a\n", "invalid key \"a\\n\": contains control character '\\n'"),
            ("a\u{85}", "invalid key \"a\\u{85}\": contains control character '\\u{85}'"),
            ("a\u{1b}[2J", "invalid key \"a\\u{1b}[2J\": contains control character '\\u{1b}'"),
        ] {
            assert_eq!(Key::new(name).unwrap_err().to_string(), message);
        }
        let long = Key::new("x".repeat(2000)).unwrap_err().to_string();
        assert_eq!(
            long,
            format!(
                "invalid key \"{}\"...: has 2000 bytes, and the maximum is 1024",
                "x".repeat(64)
            )
        );
    }

    #[test]
    fn key_with_unicode_white_space_is_rejected() {
        for c in ['\u{a0}', '\u{2003}', '\u{2028}', '\u{3000}'] {
            assert!(Key::new(format!("a{c}b")).is_err(), "{c:?}");
        }
    }
}
