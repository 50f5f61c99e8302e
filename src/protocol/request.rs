//! What a client asks: `put key value timestamp`, `get key`.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::{
    error::{InvalidRequest, InvalidSample, Line, NonFiniteValue},
    number::{self, Number},
};
use crate::metric::{IntoKey, IntoSelector, InvalidKey, Key, KeyRef, Point, Sample, Selector};

/// One request.
///
/// ```
/// use metrics_client::codec::Request;
///
/// let put = Request::put("palm.cpu", 23.7, 1150864247)?;
/// assert_eq!(put.to_string(), "put palm.cpu 23.7 1150864247");
/// let get = Request::get("*")?;
/// assert_eq!(get.to_string(), "get *");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Store this sample.
    Put(Sample),
    /// Send what is stored.
    Get(Selector),
}

impl Request {
    /// A request to store `value` for `key` at `timestamp`, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// If `key` is no key, or `value` is not finite.
    pub fn put(
        key: impl IntoKey,
        value: impl Into<f64>,
        timestamp: i64,
    ) -> Result<Self, InvalidSample> {
        let sample = Sample::new(key, value, timestamp)?;
        NonFiniteValue::ensure_finite(sample.key.as_str(), sample.point.value)?;
        Ok(Self::Put(sample))
    }

    /// A request for the points that `selector` names: a key, or `*` for everything.
    ///
    /// # Errors
    ///
    /// If `selector` is neither.
    pub fn get(selector: impl IntoSelector) -> Result<Self, InvalidKey> {
        Ok(Self::Get(selector.into_selector()?))
    }
}

/// Shows the request as it stands on the wire, without the line break.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(sample) => write!(f, "put {sample}"),
            Self::Get(selector) => write!(f, "get {selector}"),
        }
    }
}

/// Shows the sample as a record of the protocol: `palm.cpu 23.7 1150864247`.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, point: Point { timestamp, value } } = self;
        write!(f, "{key} {} {timestamp}", Number(*value))
    }
}

/// Appends a `put`. The key must have been checked, and the value be finite.
#[inline]
pub(crate) fn encode_put(dst: &mut BytesMut, key: &str, point: Point) {
    debug_assert!(Key::validate(key).is_ok() && point.value.is_finite());
    dst.reserve(5 + record_len(key));
    dst.put_slice(b"put ");
    put_record(dst, key, point);
}

/// Appends a `get`.
pub(crate) fn encode_get(dst: &mut BytesMut, selector: &Selector) {
    let selector = selector.as_str();
    dst.reserve(5 + selector.len());
    dst.put_slice(b"get ");
    dst.put_slice(selector.as_bytes());
    dst.put_u8(b'\n');
}

/// Appends `key value timestamp` and a line break: a record of an answer, or the data of a `put`.
#[inline]
pub(crate) fn encode_record(dst: &mut BytesMut, key: &str, point: Point) {
    dst.reserve(record_len(key));
    put_record(dst, key, point);
}

/// The most that a record of `key` can take.
#[inline]
fn record_len(key: &str) -> usize {
    key.len() + NUMBERS_LEN
}

#[inline(always)]
fn put_record(dst: &mut BytesMut, key: &str, point: Point) {
    dst.put_slice(key.as_bytes());
    // The numbers are written where they belong, into room that is cut back to what they took.
    let start = dst.len();
    dst.put_slice(&[b' '; NUMBERS_LEN]);
    let len = write_numbers(&mut dst[start..start + NUMBERS_LEN], point);
    dst.truncate(start + len);
}

/// Writes ` value timestamp` and a line break over the blanks that `room` begins with, and says how
/// long that is.
#[inline(always)]
fn write_numbers(room: &mut [u8], point: Point) -> usize {
    let mut len = 1 + number::write_value(&mut room[1..], point.value);
    room[len] = b' ';
    len += 1;
    len += number::write_timestamp(&mut room[len..], point.timestamp);
    room[len] = b'\n';
    len + 1
}

/// The text that follows the key in a `put`, of a finite value, formatted before there is a buffer to
/// append it to.
#[derive(Debug)]
pub(crate) struct PutSuffix {
    text: [u8; NUMBERS_LEN],
    len: usize,
}

impl PutSuffix {
    #[inline]
    pub(crate) fn new(key: &str, point: Point) -> Result<Self, NonFiniteValue> {
        NonFiniteValue::ensure_finite(key, point.value)?;
        let mut text = [b' '; NUMBERS_LEN];
        let len = write_numbers(&mut text, point);
        Ok(Self { text, len })
    }

    /// Appends the `put` of `key`, which must be valid.
    #[inline]
    pub(crate) fn append_put(&self, dst: &mut BytesMut, key: &str) {
        debug_assert!(Key::validate(key).is_ok());
        dst.reserve(5 + record_len(key));
        dst.put_slice(b"put ");
        dst.put_slice(key.as_bytes());
        dst.put_slice(&self.text[..self.len]);
    }
}

/// The length of the longest request, in bytes, with its line break.
pub const MAX_REQUEST_LEN: usize = "put ".len() + Key::MAX_LEN + NUMBERS_LEN;

/// The most that a space, a value, a space, a timestamp and a line break take.
const NUMBERS_LEN: usize = number::MAX_VALUE_LEN + number::MAX_TIMESTAMP_LEN + 3;

/// A request that borrows from the line that it was read from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RequestRef<'a> {
    /// Stores a point under the key.
    Put(KeyRef<'a>, Point),
    /// Asks for the points of the key.
    Get(KeyRef<'a>),
    /// Asks for everything.
    GetAll,
}

impl<'a> RequestRef<'a> {
    /// Reads the `put` that `lines` begin with, in its most common form: a key in ASCII, a value
    /// that is not too long, whole seconds, one space between. Says how long it is with its line break. `None`
    /// means: [`parse`](Self::parse) the line.
    #[inline]
    #[must_use]
    pub fn scan_put(lines: &'a [u8]) -> Option<(KeyRef<'a>, Point, usize)> {
        let rest = lines.strip_prefix(b"put ")?;
        let (key, rest) = rest.split_at(graphic_len(rest));
        let (value, value_len) = number::scan_value(rest.strip_prefix(b" ")?)?;
        let rest = rest[1 + value_len..].strip_prefix(b" ")?;
        let (timestamp, timestamp_len) = number::scan_integer(rest)?;
        if rest.get(timestamp_len) != Some(&b'\n')
            || !value.is_finite()
            || !(1..=Key::MAX_LEN).contains(&key.len())
            || key == b"*"
        {
            return None;
        }
        let len = b"put ".len() + key.len() + value_len + timestamp_len + 3;
        let key = KeyRef::from_valid(std::str::from_utf8(key).ok()?);
        Some((key, Point { timestamp, value }, len))
    }

    /// Reads a line without its line break; an empty one is not a request. Blanks may stand before,
    /// between and after the fields.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`] says what is wrong with the line, and shows its beginning.
    pub fn parse(line: &'a [u8]) -> Result<Option<Self>, InvalidRequest> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(first) = line.iter().position(|&byte| !is_blank(byte)) else { return Ok(None) };
        let line = match line.iter().rposition(|&byte| !is_blank(byte)) {
            Some(last) => &line[first..=last],
            None => return Ok(None),
        };
        let (command, mut rest) = split_field(line);
        let mut fields: [&[u8]; 3] = [&[]; 3];
        let mut count = 0;
        while !rest.is_empty() {
            let Some(field) = fields.get_mut(count) else {
                return Err(Self::fault(command, line));
            };
            (*field, rest) = split_field(rest);
            count += 1;
        }
        match (command, &fields[..count]) {
            (b"put", [key, value, timestamp]) => {
                let key = parse_key(key)?;
                let value = number::parse_value(value)
                    .filter(|value| value.is_finite())
                    .ok_or_else(|| InvalidRequest::Value(Line::of(value)))?;
                let timestamp = number::parse_timestamp(timestamp)
                    .ok_or_else(|| InvalidRequest::Timestamp(Line::of(timestamp)))?;
                Ok(Some(Self::Put(key, Point { timestamp, value })))
            }
            (b"get", [b"*"]) => Ok(Some(Self::GetAll)),
            (b"get", [key]) => Ok(Some(Self::Get(parse_key(key)?))),
            _ => Err(Self::fault(command, line)),
        }
    }

    fn fault(command: &[u8], line: &[u8]) -> InvalidRequest {
        match command {
            b"put" | b"get" => InvalidRequest::Fields(Line::of(line)),
            _ => InvalidRequest::Command(Line::of(line)),
        }
    }
}

impl From<RequestRef<'_>> for Request {
    fn from(request: RequestRef<'_>) -> Self {
        match request {
            RequestRef::Put(key, point) => Self::Put(Sample { key: key.to_key(), point }),
            RequestRef::Get(key) => Self::Get(Selector::Key(key.to_key())),
            RequestRef::GetAll => Self::Get(Selector::All),
        }
    }
}

/// Splits off the first field and the blanks after it.
#[inline]
pub(super) fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
    let (field, rest) = line.split_at(end);
    let next = rest.iter().position(|&byte| !is_blank(byte)).unwrap_or(rest.len());
    (field, &rest[next..])
}

/// How many bytes `text` begins with that are ASCII, and neither blank nor control characters.
#[inline]
fn graphic_len(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    let (words, rest) = text.as_chunks();
    for (place, word) in words.iter().enumerate() {
        // Eight bytes at a time, found by their highest bits (S. E. Anderson, "Bit Twiddling Hacks",
        // on a byte less or more than n). A carry marks bytes above the first one found, only.
        let word = u64::from_le_bytes(*word);
        let below = word.wrapping_sub(ONES * u64::from(b'!')) & !word;
        let above = word.wrapping_add(ONES * u64::from(0x7f - b'~')) | word;
        let found = (below | above) & (ONES * 0x80);
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let rest_len = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len());
    text.len() - rest.len() + rest_len
}

#[inline]
fn parse_key(field: &[u8]) -> Result<KeyRef<'_>, InvalidRequest> {
    let key = std::str::from_utf8(field).map_err(|_| InvalidRequest::Encoding(Line::of(field)))?;
    Ok(KeyRef::new(key)?)
}

/// What may stand between fields.
#[inline]
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests;
