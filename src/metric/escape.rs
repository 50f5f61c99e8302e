//! Escapes text that a peer chose, for errors, log lines and terminals.

use std::fmt;

/// The beginning of some input, quoted and escaped, for a message or a log line.
///
/// Whatever the input holds (line breaks, terminal escapes, characters that turn the direction of
/// writing, bytes that are no text), this shows it as one harmless line of bounded length.
///
/// What it shows is made when it is shown: a server that refuses a flood of requests shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt {
    beginning: Box<[u8]>,
    is_all: bool,
}

impl Excerpt {
    /// Enough to recognise a line by, too little to fill a log.
    const MAX_LEN: usize = 64;

    /// Keeps the first 64 bytes of `input`.
    #[must_use]
    pub fn of(input: &[u8]) -> Self {
        let beginning = &input[..input.len().min(Self::MAX_LEN)];
        Self { beginning: beginning.into(), is_all: beginning.len() == input.len() }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { beginning, is_all } = self;
        let more = if *is_all { "" } else { "..." };
        // A character that the cut went through is left out.
        let shown = match std::str::from_utf8(beginning) {
            Err(fault) if !is_all && fault.error_len().is_none() => {
                &beginning[..fault.valid_up_to()]
            }
            _ => beginning,
        };
        write!(f, "\"{}\"{more}", String::from_utf8_lossy(shown).escape_debug())
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message of a peer, escaped like an [`Excerpt`] but not quoted: it is a sentence. At most 200
/// characters are shown.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Escaped<'_> {
    /// Room for any message that was meant to be read.
    const MAX_CHARS: usize = 200;
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, more) = match self.0.char_indices().nth(Self::MAX_CHARS) {
            Some((end, _)) => (&self.0[..end], "..."),
            None => (self.0, ""),
        };
        // Quotes are no danger, and messages are full of them.
        while let Some(at) = rest.find(['"', '\'']) {
            write!(f, "{}{}", rest[..at].escape_debug(), &rest[at..=at])?;
            rest = &rest[at + 1..];
        }
        write!(f, "{}{more}", rest.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Error, Key,
        codec::{InvalidRequest, Request},
        error::{InvalidAddress, InvalidSample},
        protocol::{CodecError, InvalidRecord, LineExcerpt, NonFiniteValue},
    };

    /// What must reach no terminal and no log line as it is: breaks a line, moves the cursor, turns
    /// the direction of writing, or cannot be seen. The first few may not stand in a key either.
    const DANGEROUS: [char; 20] = [
        '\n',
        '\r',
        '\0',
        '\u{7}',
        '\u{8}',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202e}',
        '\u{2066}',
        '\u{2069}',
        '\u{200b}',
        '\u{200f}',
        '\u{feff}',
        '\u{ad}',
        '\u{e0041}',
    ];

    #[track_caller]
    fn assert_harmless(shown: &str) {
        let harmful = shown.chars().find(|&c| DANGEROUS.contains(&c) || c.is_control());
        assert_eq!(harmful, None, "{shown:?}");
    }

    #[test]
    fn an_excerpt_is_not_cut_amid_a_character() {
        let long = format!("x{}", "ключ".repeat(10));
        assert_eq!(
            Excerpt::of(long.as_bytes()).to_string(),
            format!("\"x{}клю\"...", "ключ".repeat(7))
        );
        assert_eq!(Excerpt::of(b"\xd0").to_string(), "\"\u{fffd}\"");
    }

    #[test]
    fn a_message_stays_readable() {
        let shown = |text: &str| Escaped(text).to_string();
        assert_eq!(shown("no \"key\", it's \u{1b}[2J gone"), "no \"key\", it's \\u{1b}[2J gone");
        assert_eq!(shown("нет места"), "нет места");
        assert_eq!(shown(&"я".repeat(200)), "я".repeat(200));
        assert_eq!(shown(&"я".repeat(201)), "я".repeat(200) + "...");
    }

    #[test]
    fn no_error_shows_what_a_peer_chose_as_it_is() {
        for c in DANGEROUS {
            let text = format!("a{c}b");
            let key = Key::new(&text);
            let errors: Vec<Box<dyn std::error::Error>> = vec![
                Box::new(Key::new(format!("*{c} ")).unwrap_err()),
                Box::new(InvalidSample::from(Key::new(format!("{c} ")).unwrap_err())),
                Box::new(NonFiniteValue::ensure_finite(&text, f64::NAN).unwrap_err()),
                Box::new(InvalidRecord::of(text.as_bytes())),
                Box::new(InvalidRequest::Command(LineExcerpt::of(text.as_bytes()))),
                Box::new(CodecError::Status(LineExcerpt::of(text.as_bytes()))),
                Box::new(Error::Rejected { message: text.as_str().into() }),
                Box::new(Error::InvalidResponse(InvalidRecord::of(text.as_bytes()))),
                Box::new(InvalidAddress::new(&text, "it is invalid", "host:port")),
                Box::new(Error::InvalidKey(Key::new(format!("{c} ")).unwrap_err())),
            ];
            for error in errors {
                assert_harmless(&error.to_string());
                assert_harmless(&format!("{error:?}"));
            }
            assert_harmless(&Escaped(&text).to_string());
            if let Ok(key) = key {
                assert_harmless(&format!("{key:?} {:?}", Request::put(key.clone(), 1.0, 1)));
                assert_eq!(key.to_string(), text, "on the wire it is what it is");
            }
        }
    }
}
