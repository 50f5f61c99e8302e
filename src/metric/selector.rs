//! [`Selector`]: what a `get` asks for.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use super::{InvalidKey, Key};

/// What a `get` asks for: one key, or every key.
///
/// ```
/// use metrics_client::{Key, Selector};
///
/// assert_eq!(Selector::new("*")?, Selector::All);
/// assert_eq!("palm.cpu".parse(), Ok(Selector::Key(Key::new("palm.cpu")?)));
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// Every stored key: `*` on the wire.
    All,
    /// One key.
    Key(Key),
}

impl Selector {
    /// Parses a selector: `*`, or a key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is neither.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidKey> {
        match text.as_ref() {
            "*" => Ok(Self::All),
            text => Key::new(text).map(Self::Key),
        }
    }

    /// Returns the selector as it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Key(key) => key.as_str(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl AsRef<str> for Selector {
    fn as_ref(&self) -> &str {
        self.as_str()
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

impl From<&Selector> for Selector {
    fn from(selector: &Selector) -> Self {
        selector.clone()
    }
}

impl FromStr for Selector {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

macro_rules! try_from {
    ($($text:ty),*) => {$(
        impl TryFrom<$text> for Selector {
            type Error = InvalidKey;

            fn try_from(text: $text) -> Result<Self, InvalidKey> {
                Self::new(text)
            }
        }
    )*};
}

try_from!(&str, &String, String, Cow<'_, str>, Box<str>, Arc<str>);
