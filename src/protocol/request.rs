//! What a client asks: `put key value timestamp`, `get key`.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::{
    error::{InvalidRequest, InvalidSample, Line, NotFinite},
    number::{self, Number},
};
use crate::metric::{InvalidKey, Key, Point, Sample, Selector};

/// One request.
///
/// ```
/// use metrics_client::Request;
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
    pub fn put<K>(key: K, value: f64, timestamp: i64) -> Result<Self, InvalidSample>
    where
        K: TryInto<Key>,
        InvalidKey: From<K::Error>,
    {
        let sample = Sample::new(key, value, timestamp)?;
        NotFinite::check(&sample.key, value)?;
        Ok(Self::Put(sample))
    }

    /// A request for the points that `selector` names: a key, or `*` for everything.
    ///
    /// # Errors
    ///
    /// If `selector` is neither.
    pub fn get<S>(selector: S) -> Result<Self, InvalidKey>
    where
        S: TryInto<Selector>,
        InvalidKey: From<S::Error>,
    {
        Ok(Self::Get(selector.try_into()?))
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
    debug_assert!(Key::check(key).is_ok() && point.value.is_finite());
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

#[inline]
fn put_record(dst: &mut BytesMut, key: &str, point: Point) {
    dst.put_slice(key.as_bytes());
    // The numbers are written where they belong, into room that is cut back to what they took.
    let start = dst.len();
    dst.put_slice(&[b' '; NUMBERS_LEN]);
    let numbers = &mut dst[start..start + NUMBERS_LEN];
    let mut len = 1 + number::write_value(&mut numbers[1..], point.value);
    numbers[len] = b' ';
    len += 1;
    len += number::write_timestamp(&mut numbers[len..], point.timestamp);
    numbers[len] = b'\n';
    dst.truncate(start + len + 1);
}

/// The most that a space, a value, a space, a timestamp and a line break take.
const NUMBERS_LEN: usize = number::MAX_VALUE_LEN + number::MAX_TIMESTAMP_LEN + 3;

/// A request that borrows from the line that it was read from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RequestRef<'a> {
    Put(&'a str, Point),
    Get(&'a str),
    GetAll,
}

impl<'a> RequestRef<'a> {
    /// Reads a line without its line break; an empty one is no request.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Option<Self>, InvalidRequest> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = match line.iter().rposition(|&byte| !is_blank(byte)) {
            Some(last) => &line[..=last],
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
            RequestRef::Put(key, point) => Self::Put(Sample { key: Key::from_checked(key), point }),
            RequestRef::Get(key) => Self::Get(Selector::Key(Key::from_checked(key))),
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

#[inline]
fn parse_key(field: &[u8]) -> Result<&str, InvalidRequest> {
    let key = std::str::from_utf8(field).map_err(|_| InvalidRequest::Encoding(Line::of(field)))?;
    Key::check(key)?;
    Ok(key)
}

/// What may stand between fields.
#[inline]
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<RequestRef<'_>>, InvalidRequest> {
        RequestRef::parse(line.as_bytes())
    }

    #[test]
    fn blanks_between_and_after_fields_are_accepted() {
        let put = RequestRef::Put("palm.cpu", Point::new(1150864247, 23.7));
        for line in [
            "put palm.cpu 23.7 1150864247",
            "put palm.cpu 23.7 1150864247\r",
            "put  palm.cpu\t23.7 \t 1150864247 \t",
            "put palm.cpu 23.7 1150864247 \r",
        ] {
            assert_eq!(parse(line), Ok(Some(put)), "{line:?}");
        }
        assert_eq!(parse("get  * "), Ok(Some(RequestRef::GetAll)));
        assert_eq!(parse("get a"), Ok(Some(RequestRef::Get("a"))));
        assert_eq!(parse("get **"), Ok(Some(RequestRef::Get("**"))));
    }

    #[test]
    fn an_empty_line_is_no_request() {
        for line in ["", "\r", "  ", " \t\r"] {
            assert_eq!(parse(line), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn every_kind_of_bad_request_is_refused() {
        use InvalidRequest as Fault;
        type Kind = fn(&Fault) -> bool;
        let command: Kind = |fault| matches!(fault, Fault::Command(_));
        let fields: Kind = |fault| matches!(fault, Fault::Fields(_));
        let key: Kind = |fault| matches!(fault, Fault::Key(_));
        let value: Kind = |fault| matches!(fault, Fault::Value(_));
        let timestamp: Kind = |fault| matches!(fault, Fault::Timestamp(_));
        for (line, kind) in [
            ("got test_key", command),
            ("PUT a 1 1", command),
            ("Get a", command),
            (" put a 1 1", command),
            ("a b c d e f", command),
            ("put", fields),
            ("put a", fields),
            ("put a 1", fields),
            ("put a 1 1 1", fields),
            ("get", fields),
            ("get a b", fields),
            ("put * 1 1", key),
            ("put a\u{1} 1 1", key),
            ("get a\u{a0}b", key),
            ("put a x 1", value),
            ("put a nan 1", value),
            ("put a -inf 1", value),
            ("put a 1e999 1", value),
            ("put a 1_0 1", value),
            ("put a \u{661} 1", value),
            ("put a 1 1.5", timestamp),
            ("put a 1 1e3", timestamp),
            ("put a 1 x", timestamp),
            ("put a 1 9223372036854775808", timestamp),
        ] {
            let fault = parse(line).unwrap_err();
            assert!(kind(&fault), "{line:?}: {fault:?}");
        }
        assert!(matches!(RequestRef::parse(b"get \xff"), Err(Fault::Encoding(_))));
    }

    #[test]
    fn a_refusal_shows_the_line_and_the_remedy() {
        assert_eq!(
            parse("got test_key").unwrap_err().to_string(),
            "a request begins with `put` or `get`, and this is \"got test_key\""
        );
        assert_eq!(
            parse("put a 1 1.5").unwrap_err().to_string(),
            "a timestamp is whole seconds since the Unix epoch, and this is \"1.5\""
        );
    }
}
