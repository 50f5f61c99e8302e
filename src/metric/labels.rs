//! Keys with labels, in the form that Graphite users know: `name;label=value;other=value`.

use super::{InvalidKey, Key};

/// Separates the labels in a key.
const SEPARATOR: char = ';';

impl Key {
    /// Creates the key of one of several series that share a name and differ in their labels, in
    /// Graphite's form: `name;label=value;other=value`.
    ///
    /// Labels are sorted, so their order makes no difference. Characters that a key cannot contain, or
    /// that have a meaning in this form, are percent-encoded (RFC 3986, section 2.1): white space,
    /// control characters, `%` and `;`, in the name of a label also `=`, `!` and `^`, and `~` at the
    /// beginning of a value (Graphite accepts none of these three). [`labels`](Self::labels) decodes the
    /// key.
    ///
    /// ```
    /// use metrics_client::Key;
    ///
    /// let key = Key::with_labels("http.requests", [("route", "/a b"), ("method", "GET")])?;
    /// assert_eq!(key, "http.requests;method=GET;route=/a%20b");
    /// let labels = key.labels();
    /// assert_eq!(labels.name(), "http.requests");
    /// assert_eq!(labels.label("route"), Some("/a b"));
    /// # Ok::<(), metrics_client::error::InvalidKey>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if the key is longer than [`Key::MAX_LEN`], or empty.
    pub fn with_labels<L, V>(
        name: impl AsRef<str>,
        labels: impl IntoIterator<Item = (L, V)>,
    ) -> Result<Self, InvalidKey>
    where
        L: AsRef<str>,
        V: AsRef<str>,
    {
        Self::try_from(labeled_text(name, labels))
    }

    /// Returns the name and the labels of a key that [`with_labels`](Self::with_labels) made. A key
    /// without labels is a name.
    ///
    /// Every key can be read in this way: a label without `=` has an empty value, a `%` without two
    /// hexadecimal digits after it stays as it is, and bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn labels(&self) -> LabeledKey {
        let mut parts = self.as_str().split(SEPARATOR);
        let name = percent_decode(parts.next().unwrap_or_default());
        let labels = parts.map(|label| {
            let (label, value) = label.split_once('=').unwrap_or((label, ""));
            (percent_decode(label), percent_decode(value))
        });
        LabeledKey { name, labels: labels.collect() }
    }
}

/// The name and the labels of a [`Key`], decoded: see [`Key::labels`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabeledKey {
    name: String,
    labels: Vec<(String, String)>,
}

impl LabeledKey {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value of the first label called `name`.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().find(|&(label, _)| label == name).map(|(_, value)| value)
    }

    /// Returns the labels with their values, in the order of the key.
    #[must_use]
    pub fn labels(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()))
    }

    /// Returns the name, and the labels with their values.
    #[must_use]
    pub fn into_parts(self) -> (String, Vec<(String, String)>) {
        (self.name, self.labels)
    }
}

/// Writes a name with labels as [`Key::with_labels`] says. The result has not been validated.
pub(super) fn labeled_text<L, V>(
    name: impl AsRef<str>,
    labels: impl IntoIterator<Item = (L, V)>,
) -> String
where
    L: AsRef<str>,
    V: AsRef<str>,
{
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort_by(|(a, x), (b, y)| (a.as_ref(), x.as_ref()).cmp(&(b.as_ref(), y.as_ref())));
    let name = name.as_ref();
    let mut key = String::with_capacity(name.len() + 24 * labels.len());
    if name == "*" && labels.is_empty() {
        percent_encode_char(&mut key, '*');
    } else {
        percent_encode_into(&mut key, name, |c| c == SEPARATOR);
    }
    for (label, value) in &labels {
        let value = value.as_ref();
        key.push(SEPARATOR);
        percent_encode_into(&mut key, label.as_ref(), |c| matches!(c, SEPARATOR | '=' | '!' | '^'));
        key.push('=');
        let rest = value.strip_prefix('~');
        if rest.is_some() {
            percent_encode_char(&mut key, '~');
        }
        percent_encode_into(&mut key, rest.unwrap_or(value), |c| c == SEPARATOR);
    }
    key
}

fn percent_encode_into(key: &mut String, text: &str, is_special: impl Fn(char) -> bool) {
    for c in text.chars() {
        if c == '%' || c.is_whitespace() || c.is_control() || is_special(c) {
            percent_encode_char(key, c);
        } else {
            key.push(c);
        }
    }
}

fn percent_encode_char(key: &mut String, c: char) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        key.extend(['%', digit(byte >> 4), digit(byte)]);
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str, labels: &[(&str, &str)]) -> String {
        Key::with_labels(name, labels.iter().copied()).unwrap().to_string()
    }

    #[test]
    fn what_would_be_mistaken_is_escaped() {
        assert_eq!(key("a", &[]), "a");
        assert_eq!(key("*", &[]), "%2A");
        assert_eq!(key("a b;c%\n=", &[]), "a%20b%3Bc%25%0A=");
        assert_eq!(key("ключ", &[("β", "\u{2028}")]), "ключ;β=%E2%80%A8");
        assert_eq!(key("a", &[("x=!^", "y=!^")]), "a;x%3D%21%5E=y=!^");
        assert_eq!(key("a", &[("x", "~~"), ("y", "")]), "a;x=%7E~;y=");
    }

    #[test]
    fn the_order_of_labels_makes_no_difference() {
        assert_eq!(key("a", &[("y", "1"), ("x", "2"), ("x", "1")]), "a;x=1;x=2;y=1");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        let none: [(&str, &str); 0] = [];
        assert!(Key::with_labels("", none).is_err());
        assert!(Key::with_labels(" ".repeat(342), none).is_err());
        assert!(Key::with_labels(" ".repeat(341), none).is_ok());
    }

    #[test]
    fn any_key_has_a_name_and_labels() {
        let read = |text| Key::new(text).unwrap().labels().into_parts();
        assert_eq!(read("a%"), ("a%".into(), vec![]));
        assert_eq!(read("%4;%FF=%zz"), ("%4".into(), vec![("\u{fffd}".into(), "%zz".into())]));
        assert_eq!(read(";a"), (String::new(), vec![("a".into(), String::new())]));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            name in ".{1,20}",
            mut labels in proptest::collection::vec((".{0,8}", ".{0,8}"), 0..5),
        ) {
            let key = Key::with_labels(&name, labels.iter().map(|(label, value)| (label, value)));
            labels.sort();
            prop_assert_eq!(key.unwrap().labels().into_parts(), (name, labels));
        }
    }
}
