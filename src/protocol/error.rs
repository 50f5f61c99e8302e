//! The errors of encoding and decoding.

use std::io;

use crate::metric::{Excerpt, InvalidKey};

/// The error of a framed stream of requests or responses.
///
/// After such an error the two ends may disagree about where a message begins, so the connection
/// cannot be used any more. What a stream survives is an item of the codec: an invalid request, an invalid
/// record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Reading or writing failed.
    #[error("stream failed")]
    Io(#[from] io::Error),
    /// A response did not begin with `ok` or `error`.
    #[error("invalid status line {0}: expected `ok` or `error`")]
    Status(LineExcerpt),
    /// The server sent a TLS alert instead of a response.
    #[error("the server expects TLS; connect with `TlsConnector` (feature `tls`)")]
    TlsAlert,
    /// A line exceeded its limit.
    #[error("line exceeds {limit} bytes")]
    #[non_exhaustive]
    LineTooLong {
        /// The maximum length of a line, in bytes.
        limit: usize,
    },
    /// The stream ended in the middle of a message.
    #[error("stream ended in the middle of a message")]
    Truncated,
    /// The value of a request to be encoded is NaN or infinite; nothing was written.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),
}

/// The beginning of a line that a peer sent, escaped, so that it is safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineExcerpt(Excerpt);

impl LineExcerpt {
    pub(crate) fn of(line: &[u8]) -> Self {
        Self(Excerpt::of(line))
    }
}

impl std::fmt::Display for LineExcerpt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The error for a value that cannot be sent because it is NaN or infinite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("invalid value {value} of key {key:?}: not finite")]
pub struct NonFiniteValue {
    key: Box<str>,
    value: f64,
}

impl NonFiniteValue {
    /// Returns an error if `value` is not finite.
    ///
    /// [`Point::value`](crate::Point::value) is public and may be anything, since servers send such values. So this is called
    /// once for each value wherever values enter that are to be sent: by a call, a batch, a reporter, or a codec.
    #[inline]
    pub(crate) fn ensure_finite(key: impl AsRef<str>, value: f64) -> Result<(), Self> {
        if value.is_finite() { Ok(()) } else { Err(Self { key: key.as_ref().into(), value }) }
    }

    /// Returns the key of the value.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the value: NaN, or an infinity.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }
}

/// The error for a sample that cannot be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSample {
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// The value is NaN or infinite.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),
}

/// The error for a record that is not `key value timestamp`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid record {line}: expected `key value timestamp`")]
pub struct InvalidRecord {
    line: Excerpt,
}

impl InvalidRecord {
    pub(crate) fn of(line: &[u8]) -> Self {
        Self { line: Excerpt::of(line) }
    }
}

/// The error for a response that was received whole but cannot be used. The stream continues with the
/// next response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidResponse {
    /// A record of the data is invalid.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// The data exceeded the limit on a response, and was discarded.
    #[error("response exceeds {limit} bytes")]
    #[non_exhaustive]
    TooLarge {
        /// The maximum size of a response, in bytes.
        limit: usize,
    },
}

/// The error for a line that is not a request. On the wire all of these are `wrong command`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The first word is neither `put` nor `get`.
    #[error("invalid command in {0}: expected `put` or `get`")]
    Command(LineExcerpt),
    /// There are too few or too many fields.
    #[error("invalid request {0}: expected `put key value timestamp` or `get key`")]
    Fields(LineExcerpt),
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// The key is not UTF-8.
    #[error("invalid key {0}: not UTF-8")]
    Encoding(LineExcerpt),
    /// The value is not a finite decimal number.
    #[error("invalid value {0}: expected a finite decimal number")]
    Value(LineExcerpt),
    /// The timestamp is not a whole number of seconds that fits an i64.
    #[error("invalid timestamp {0}: expected whole seconds since the Unix epoch")]
    Timestamp(LineExcerpt),
}
