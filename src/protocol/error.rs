//! The errors of encoding and decoding.

use std::io;

use crate::metric::{Excerpt, InvalidKey, Key};

/// Why a framed stream of requests or responses is at its end.
///
/// After one of these the two ends may no longer agree on where a message begins, so the connection
/// is of no more use. What a stream survives is no error of the codec but an item of it: a refused
/// command, a record that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Reading or writing failed.
    #[error("the stream failed")]
    Io(#[from] io::Error),
    /// A response began with something else than `ok` or `error`.
    #[error("a response must begin with a line `ok` or `error`, and this began with {0}")]
    Status(Line),
    /// Instead of a response there came an alert of TLS.
    #[error(
        "the server speaks TLS at this address and we do not: connect with `TlsConnector` (feature `tls`)"
    )]
    TlsAlert,
    /// A line grew past its limit.
    #[error("a line is longer than the {limit} bytes that it may have")]
    LineTooLong {
        /// The most that a line may have, in bytes.
        limit: usize,
    },
    /// The stream ended in the middle of a message.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// A value that the protocol does not carry was to be sent; nothing of it was written.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),
    /// A response that stands for unreadable data, or for too much of it, was to be sent; nothing of
    /// it was written.
    #[error("a response that is malformed or too large can be received, but not sent")]
    Malformed,
}

/// The beginning of a line that a peer sent, escaped, so that it can be shown anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(Excerpt);

impl Line {
    pub(crate) fn of(line: &[u8]) -> Self {
        Self(Excerpt::of(line))
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that cannot be sent because it is NaN or infinite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the value of {key:?} is {value}, and only finite values can be sent")]
pub struct NonFiniteValue {
    key: Box<str>,
    value: f64,
}

impl NonFiniteValue {
    /// Lets a finite value pass.
    pub(crate) fn ensure_finite(key: impl AsRef<str>, value: f64) -> Result<(), Self> {
        if value.is_finite() { Ok(()) } else { Err(Self { key: key.as_ref().into(), value }) }
    }

    /// The key whose value it is.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value: NaN, or one of the infinities.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }
}

/// A sample that cannot be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidSample {
    /// Its key is none.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Its value is NaN or infinite.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),
}

/// A record in an answer that is not `key value timestamp`.
///
/// The answer's framing was sound, so the connection it came over lives on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record must be `key value timestamp`, and this is {line}")]
pub struct InvalidRecord {
    line: Excerpt,
}

impl InvalidRecord {
    pub(crate) fn of(line: &[u8]) -> Self {
        Self { line: Excerpt::of(line) }
    }
}

/// Why a server refuses a line. On the wire all of these are `wrong command`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The first word is neither `put` nor `get`.
    #[error("a request begins with `put` or `get`, and this is {0}")]
    Command(Line),
    /// There are too few or too many fields.
    #[error("a request is `put key value timestamp` or `get key`, and this is {0}")]
    Fields(Line),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// The key is not UTF-8.
    #[error("a key is UTF-8 text of at most {max} bytes, and this is {0}", max = Key::MAX_LEN)]
    Encoding(Line),
    /// The value is no finite decimal number.
    #[error("a value is a finite decimal number, and this is {0}")]
    Value(Line),
    /// The timestamp is no whole number of seconds that fits an i64.
    #[error("a timestamp is whole seconds since the Unix epoch, and this is {0}")]
    Timestamp(Line),
}
