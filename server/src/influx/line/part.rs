//! Parts of a line as they are written in a key.

use std::borrow::Cow;

use metrics_client::Key;

/// A part of a key with labels.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Name,
    Field,
    Label,
    Value,
}

impl Part {
    /// Returns true if a backslash before the character is removed.
    fn is_escaped(self, char: char) -> bool {
        match char {
            ',' | ' ' => true,
            '=' => !matches!(self, Self::Name),
            '"' => matches!(self, Self::Name | Self::Field),
            _ => false,
        }
    }
}

/// Adds a part of a line as it is written in a key: without the line's escapes, with those of a key.
#[inline]
pub(super) fn push_part(text: &mut String, part: &str, is_plain: bool, kind: Part) {
    if is_plain {
        text.push_str(part);
    } else {
        text.push_str(&escaped(part, kind));
    }
}

fn escaped(text: &str, part: Part) -> Cow<'static, str> {
    let unescaped = unescape(text, part);
    if unescaped == "*" {
        // Special only as the whole key.
        return Cow::Borrowed("*");
    }
    // As a key with one label, which has the rules of all parts.
    let none: [(&str, &str); 0] = [];
    let written = match part {
        Part::Name | Part::Field => {
            Key::with_labels(&unescaped, none).map(|key| key.as_str().to_owned())
        }
        Part::Label => Key::with_labels("", [(&*unescaped, "")])
            .map(|key| key.as_str().trim_start_matches(';').trim_end_matches('=').to_owned()),
        Part::Value => Key::with_labels("", [("", &*unescaped)])
            .map(|key| key.as_str().trim_start_matches(";=").to_owned()),
    };
    // Too long: so is the whole key.
    Cow::Owned(written.unwrap_or_else(|_| "x".repeat(Key::MAX_LEN + 1)))
}

/// Removes the backslashes before what they escape.
fn unescape(text: &str, part: Part) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let escaped = (char == '\\').then(|| chars.next_if(|next| part.is_escaped(*next)));
        unescaped.push(escaped.flatten().unwrap_or(char));
    }
    unescaped
}
