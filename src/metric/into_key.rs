//! [`IntoKey`] and [`IntoSelector`]: the arguments that are taken as a key.

use std::{borrow::Cow, sync::Arc};

use super::{InvalidKey, Key, KeyRef, Selector, labels::labeled_text};

/// An argument that is taken as a [`Key`]: text, a key, or a name with labels.
///
/// It is implemented for `&str`, `&&str`, `String`, `&String`, `Cow<str>`, `Box<str>`, `Arc<str>`,
/// [`Key`], `&Key`, [`KeyRef`](crate::codec::KeyRef), and for a name with labels as [`Key::with_labels`] takes them:
/// `("http.requests", [("method", "GET")])`. Text is validated where it is used. A `Key` has been
/// validated, and is not validated again. The trait is sealed.
///
/// ```
/// use metrics_client::{IntoKey, Key};
///
/// assert_eq!("palm.cpu".into_key()?, "palm.cpu");
/// assert_eq!(("cpu", [("host", "palm")]).into_key()?, "cpu;host=palm");
/// assert!("palm cpu".into_key().is_err());
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
pub trait IntoKey: sealed::IntoText {
    /// Converts the argument into a key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is not a valid key.
    fn into_key(self) -> Result<Key, InvalidKey> {
        self.into_text().try_into_key()
    }
}

impl<T: sealed::IntoText> IntoKey for T {}

/// An argument that is taken as a [`Selector`]: `"*"`, a selector, or anything that is taken as a key.
///
/// It is implemented for [`Selector`], `&Selector`, and all types of [`IntoKey`]. The trait is sealed.
///
/// ```
/// use metrics_client::{IntoSelector, Selector};
///
/// assert_eq!("*".into_selector()?, Selector::All);
/// assert_eq!("palm.cpu".into_selector()?, "palm.cpu".parse()?);
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
pub trait IntoSelector: sealed::Selecting {
    /// Converts the argument into a selector.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if it is neither `*` nor a valid key.
    fn into_selector(self) -> Result<Selector, InvalidKey> {
        self.select()
    }
}

impl<T: sealed::Selecting> IntoSelector for T {}

/// The text of an [`IntoKey`] argument, which may not have been validated yet.
pub trait KeyText: Sized {
    /// Returns the text.
    fn as_str(&self) -> &str;

    /// Returns the key that the text is from, if it is from one.
    #[inline]
    fn as_key(&self) -> Option<&Key> {
        None
    }

    /// Returns an error if the text is not a valid key.
    fn validate(&self) -> Result<(), InvalidKey> {
        Key::validate(self.as_str())
    }

    /// Converts text that [`validate`](Self::validate) has accepted.
    fn into_valid_key(self) -> Key;

    /// Validates the text and converts it.
    fn try_into_key(self) -> Result<Key, InvalidKey> {
        self.validate()?;
        Ok(self.into_valid_key())
    }
}

mod sealed {
    use super::{InvalidKey, KeyText, Selector};

    pub trait IntoText: Sized {
        type Text: KeyText;

        fn into_text(self) -> Self::Text;
    }

    pub trait Selecting: Sized {
        fn select(self) -> Result<Selector, InvalidKey>;
    }
}

/// Text that has to be validated.
macro_rules! text {
    ($($text:ty),*) => {$(
        impl KeyText for $text {
            #[inline]
            fn as_str(&self) -> &str {
                self
            }

            fn into_valid_key(self) -> Key {
                Key::from_valid(self)
            }
        }

        argument!($text);
    )*};
}

/// A type that is its own text.
macro_rules! argument {
    ($text:ty) => {
        impl sealed::IntoText for $text {
            type Text = Self;

            #[inline]
            fn into_text(self) -> Self {
                self
            }
        }

        impl sealed::Selecting for $text {
            fn select(self) -> Result<Selector, InvalidKey> {
                match KeyText::as_str(&self) {
                    "*" => Ok(Selector::All),
                    _ => self.try_into_key().map(Selector::Key),
                }
            }
        }
    };
}

text!(&str, String, Cow<'_, str>, Box<str>, Arc<str>);

impl KeyText for Key {
    #[inline]
    fn as_str(&self) -> &str {
        Key::as_str(self)
    }

    #[inline]
    fn as_key(&self) -> Option<&Key> {
        Some(self)
    }

    #[inline]
    fn validate(&self) -> Result<(), InvalidKey> {
        Ok(())
    }

    fn into_valid_key(self) -> Key {
        self
    }
}

argument!(Key);

impl KeyText for &Key {
    #[inline]
    fn as_str(&self) -> &str {
        Key::as_str(self)
    }

    #[inline]
    fn as_key(&self) -> Option<&Key> {
        Some(self)
    }

    #[inline]
    fn validate(&self) -> Result<(), InvalidKey> {
        Ok(())
    }

    fn into_valid_key(self) -> Key {
        self.clone()
    }
}

argument!(&Key);

impl KeyText for KeyRef<'_> {
    #[inline]
    fn as_str(&self) -> &str {
        KeyRef::as_str(*self)
    }

    #[inline]
    fn validate(&self) -> Result<(), InvalidKey> {
        Ok(())
    }

    fn into_valid_key(self) -> Key {
        self.to_key()
    }
}

argument!(KeyRef<'_>);

/// References to text are taken as the text.
macro_rules! reference {
    ($($text:ty),*) => {$(
        impl<'a> sealed::IntoText for &'a $text {
            type Text = &'a str;

            #[inline]
            fn into_text(self) -> &'a str {
                self
            }
        }

        impl sealed::Selecting for &$text {
            fn select(self) -> Result<Selector, InvalidKey> {
                Selector::new(self)
            }
        }
    )*};
}

reference!(&str, String, Cow<'_, str>, Box<str>, Arc<str>);

impl<N, I, L, V> sealed::IntoText for (N, I)
where
    N: AsRef<str>,
    I: IntoIterator<Item = (L, V)>,
    L: AsRef<str>,
    V: AsRef<str>,
{
    type Text = String;

    fn into_text(self) -> String {
        labeled_text(self.0, self.1)
    }
}

impl<N, I, L, V> sealed::Selecting for (N, I)
where
    N: AsRef<str>,
    I: IntoIterator<Item = (L, V)>,
    L: AsRef<str>,
    V: AsRef<str>,
{
    fn select(self) -> Result<Selector, InvalidKey> {
        self.into_key().map(Selector::Key)
    }
}

impl sealed::Selecting for Selector {
    fn select(self) -> Result<Selector, InvalidKey> {
        Ok(self)
    }
}

impl sealed::Selecting for &Selector {
    fn select(self) -> Result<Selector, InvalidKey> {
        Ok(self.clone())
    }
}
