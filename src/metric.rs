//! The values that travel: keys, points, samples, and what a `get` brings back.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc, time::SystemTime};

mod escape;
mod labels;
mod metrics;
mod sort;

pub use escape::{Escaped, Excerpt};
pub(crate) use metrics::MetricsBuilder;
pub use metrics::{IntoIter, Iter, Metrics};

/// The name of a metric, such as `palm.cpu`: valid once constructed.
///
/// A key is 1 to [`Key::MAX_LEN`] bytes of UTF-8 without white space and without control
/// characters, and it is not `*`, which on the wire means "everything". A `Key` can therefore never
/// smuggle a second request onto the connection. Cloning one is cheap: the text is shared.
///
/// Its `Display` is the text as it is, in which characters without a width of their own, or that
/// turn the direction of writing, may stand; its `Debug` escapes these, which is for logs and
/// terminals.
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
    /// The longest key, in bytes.
    ///
    /// The protocol sets it: a request with a longer key would no longer fit one Ethernet segment,
    /// and most servers in the field cannot take a request in two pieces.
    pub const MAX_LEN: usize = 1024;

    /// Checks `name` and makes it a key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says what is wrong with the name, and shows it.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let name = name.as_ref();
        Self::check(name)?;
        Ok(Self(name.into()))
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a key of a name that [`Key::check`] let pass.
    #[cfg(feature = "reporter")]
    pub(crate) fn from_checked(name: &str) -> Self {
        debug_assert!(Self::check(name).is_ok());
        Self(name.into())
    }

    /// Whether `name` may be a key; what [`Key::new`] does, without keeping the name.
    pub(crate) fn check(name: &str) -> Result<(), InvalidKey> {
        let reason = if name.is_empty() {
            KeyErrorKind::Empty
        } else if name.len() > Self::MAX_LEN {
            KeyErrorKind::TooLong { len: name.len() }
        } else if name == "*" {
            KeyErrorKind::Everything
        } else if name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(());
        } else {
            match name.chars().find(|c| c.is_whitespace() || c.is_control()) {
                Some(found) => KeyErrorKind::Character { found },
                None => return Ok(()),
            }
        };
        Err(InvalidKey { escape: Excerpt::of(name.as_bytes()), reason })
    }
}

/// A borrowed [`Key`]: text that is known to be valid, wherever it is stored.
///
/// A parser returns one without allocating; [`to_key`](Self::to_key) makes it a `Key`.
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
    /// Checks that `name` is a valid key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says what is wrong with the name, and shows it.
    pub fn new(name: &'a str) -> Result<Self, InvalidKey> {
        Key::check(name)?;
        Ok(Self(name))
    }

    /// Wraps text that has been checked.
    #[inline]
    pub(crate) fn from_checked(name: &'a str) -> Self {
        debug_assert!(Key::check(name).is_ok());
        Self(name)
    }

    /// Returns the key's text.
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
        Self(key)
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
        f.pad(self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl std::ops::Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self
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

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(name: &str) -> Result<Self, InvalidKey> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Key {
    type Error = InvalidKey;

    fn try_from(name: &str) -> Result<Self, InvalidKey> {
        Self::new(name)
    }
}

impl TryFrom<&String> for Key {
    type Error = InvalidKey;

    fn try_from(name: &String) -> Result<Self, InvalidKey> {
        Self::new(name)
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(name: String) -> Result<Self, InvalidKey> {
        Self::check(&name)?;
        Ok(Self(name.into()))
    }
}

impl TryFrom<&Key> for Key {
    type Error = InvalidKey;

    fn try_from(key: &Key) -> Result<Self, InvalidKey> {
        Ok(key.clone())
    }
}

/// A name that cannot be a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{escape} cannot be a key: {reason}")]
pub struct InvalidKey {
    escape: Excerpt,
    reason: KeyErrorKind,
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
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { len } => {
                write!(f, "it is {len} bytes long, and {} is the most", Key::MAX_LEN)
            }
            Self::Everything => f.write_str("on the wire it means every key"),
            Self::Character { found } if found.is_control() => {
                write!(f, "it holds the control character {found:?}")
            }
            Self::Character { found } => {
                write!(f, "it holds the white space {found:?}; use `_` or `.` instead")
            }
        }
    }
}

/// One measurement of one metric: a value and the second it was taken.
///
/// ```
/// use metrics_client::Point;
///
/// let point = Point::new(1150864247, 23.7);
/// assert_eq!((point.timestamp, point.value), (1150864247, 23.7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When it was measured, in whole seconds since the Unix epoch.
    pub timestamp: i64,
    /// What was measured. What a server sends back may be NaN or infinite; what this client sends
    /// never is.
    pub value: f64,
}

impl Point {
    /// A point at `timestamp`, in seconds since the Unix epoch.
    #[must_use]
    pub fn new(timestamp: i64, value: f64) -> Self {
        Self { timestamp, value }
    }

    /// A point at the current second.
    #[must_use]
    pub fn now(value: f64) -> Self {
        Self::new(unix_seconds(), value)
    }
}

/// The current second by the system's clock.
pub(crate) fn unix_seconds() -> i64 {
    let since = |from: SystemTime, to: SystemTime| {
        to.duration_since(from).ok().and_then(|age| i64::try_from(age.as_secs()).ok())
    };
    let now = SystemTime::now();
    since(SystemTime::UNIX_EPOCH, now)
        .or_else(|| since(now, SystemTime::UNIX_EPOCH).map(|before| -before))
        .unwrap_or_default()
}

/// A [`Point`] with the [`Key`] that it belongs to: what one `put` carries.
///
/// ```
/// use metrics_client::Sample;
///
/// let sample = Sample::new("palm.cpu", 23.7, 1150864247)?;
/// assert_eq!(sample.to_string(), "palm.cpu 23.7 1150864247");
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What was measured.
    pub key: Key,
    /// The value and its time.
    pub point: Point,
}

impl Sample {
    /// A measurement of `key` at `timestamp`, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if `key` is no key.
    pub fn new<K>(key: K, value: f64, timestamp: i64) -> Result<Self, InvalidKey>
    where
        K: TryInto<Key>,
        InvalidKey: From<K::Error>,
    {
        Ok(Self { key: key.try_into()?, point: Point::new(timestamp, value) })
    }

    /// A measurement of `key` at the current second.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if `key` is no key.
    pub fn now<K>(key: K, value: f64) -> Result<Self, InvalidKey>
    where
        K: TryInto<Key>,
        InvalidKey: From<K::Error>,
    {
        Self::new(key, value, unix_seconds())
    }
}

/// What a `get` asks for: one key, or everything.
///
/// ```
/// use metrics_client::{Key, Selector};
///
/// assert_eq!(Selector::new("*")?, Selector::All);
/// assert_eq!(Selector::new("palm.cpu")?, Selector::Key(Key::new("palm.cpu")?));
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// Every key that is stored: `*` on the wire.
    All,
    /// The points of this key.
    Key(Key),
}

impl Selector {
    /// Reads a selector: `*`, or a key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is neither.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidKey> {
        match text.as_ref() {
            "*" => Ok(Self::All),
            name => Key::new(name).map(Self::Key),
        }
    }

    /// The selector as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Key(key) => key,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Key> for Selector {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

impl From<&Key> for Selector {
    fn from(key: &Key) -> Self {
        Self::Key(key.clone())
    }
}

impl TryFrom<&str> for Selector {
    type Error = InvalidKey;

    fn try_from(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl TryFrom<&String> for Selector {
    type Error = InvalidKey;

    fn try_from(text: &String) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_any_text_without_white_space_and_controls() {
        for name in ["palm.cpu", "a", "ключ", "a;b=c", "**", "\u{feff}", "\u{1f600}", "a*"] {
            assert_eq!(Key::new(name).unwrap().as_str(), name);
        }
        let longest = "k".repeat(Key::MAX_LEN);
        assert!(Key::new(&longest).is_ok());
        assert!(Key::new(longest + "k").is_err());
    }

    #[test]
    fn a_refused_key_says_what_is_wrong_with_it() {
        for (name, message) in [
            ("", "\"\" cannot be a key: it is empty"),
            ("*", "\"*\" cannot be a key: on the wire it means every key"),
            (
                "a b",
                "\"a b\" cannot be a key: it holds the white space ' '; use `_` or `.` instead",
            ),
            ("a\n", "\"a\\n\" cannot be a key: it holds the control character '\\n'"),
            ("a\u{85}", "\"a\\u{85}\" cannot be a key: it holds the control character '\\u{85}'"),
            (
                "a\u{1b}[2J",
                "\"a\\u{1b}[2J\" cannot be a key: it holds the control character '\\u{1b}'",
            ),
        ] {
            assert_eq!(Key::new(name).unwrap_err().to_string(), message);
        }
        let long = Key::new("x".repeat(2000)).unwrap_err().to_string();
        assert_eq!(
            long,
            format!(
                "\"{}\"... cannot be a key: it is 2000 bytes long, and 1024 is the most",
                "x".repeat(64)
            )
        );
    }

    #[test]
    fn white_space_beyond_ascii_is_refused() {
        for c in ['\u{a0}', '\u{2003}', '\u{2028}', '\u{3000}'] {
            assert!(Key::new(format!("a{c}b")).is_err(), "{c:?}");
        }
    }
}
