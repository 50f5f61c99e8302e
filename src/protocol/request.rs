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
    let len = write_numbers(&mut dst[start..start + NUMBERS_LEN], point);
    dst.truncate(start + len);
}

/// Writes ` value timestamp` and a line break over the blanks that `room` begins with, and says how
/// long that is.
#[inline]
fn write_numbers(room: &mut [u8], point: Point) -> usize {
    let mut len = 1 + number::write_value(&mut room[1..], point.value);
    room[len] = b' ';
    len += 1;
    len += number::write_timestamp(&mut room[len..], point.timestamp);
    room[len] = b'\n';
    len + 1
}

/// What follows the key in a `put`, made before there is a buffer to append it to.
#[derive(Debug)]
pub(crate) struct Numbers {
    text: [u8; NUMBERS_LEN],
    len: usize,
}

impl Numbers {
    #[inline]
    pub(crate) fn of(point: Point) -> Self {
        debug_assert!(point.value.is_finite());
        let mut text = [b' '; NUMBERS_LEN];
        let len = write_numbers(&mut text, point);
        Self { text, len }
    }

    /// Appends the `put`. The key must have been checked.
    #[inline]
    pub(crate) fn put(&self, dst: &mut BytesMut, key: &str) {
        debug_assert!(Key::check(key).is_ok());
        dst.reserve(5 + record_len(key));
        dst.put_slice(b"put ");
        dst.put_slice(key.as_bytes());
        dst.put_slice(&self.text[..self.len]);
    }
}

/// The most that a request takes.
pub(crate) const MAX_REQUEST_LEN: usize = "put ".len() + Key::MAX_LEN + NUMBERS_LEN;

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
    /// Reads the `put` that `lines` begin with, in its most common form: a key in ASCII, a value
    /// that is not too long, whole seconds, one space between. Says how long it is with its line break. `None`
    /// means: [`parse`](Self::parse) the line.
    #[inline]
    pub(crate) fn scan_put(lines: &'a [u8]) -> Option<(&'a str, Point, usize)> {
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
        Some((std::str::from_utf8(key).ok()?, Point { timestamp, value }, len))
    }

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
    use proptest::prelude::*;

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
    fn what_clients_send_is_read_the_quick_way() {
        for put in [
            "put a 0.0 0",
            "put palm.cpu 23.7 1150864247",
            "put rack000.cpu.user -10.01 -1150864247",
            "put !~ 1 999999999999999999",
        ] {
            let lines = format!("{put}\nput");
            let (key, point, len) = RequestRef::scan_put(lines.as_bytes()).unwrap();
            assert_eq!(Ok(Some(RequestRef::Put(key, point))), parse(put));
            assert_eq!(len, put.len() + 1);
        }
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

    /// Whatever the quick way takes, the general way takes too, and for the same.
    #[track_caller]
    fn check_quick_way(lines: &[u8]) {
        if let Some((key, point, len)) = RequestRef::scan_put(lines) {
            let (line, rest) = lines[..len].split_at(len - 1);
            assert_eq!((rest, memchr::memchr(b'\n', line)), (&b"\n"[..], None));
            assert_eq!(RequestRef::parse(line), Ok(Some(RequestRef::Put(key, point))));
        }
    }

    /// Of what a `put` consists, and of what else might be taken for it.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "put ",
            "put",
            "get ",
            " ",
            "  ",
            "\t",
            "\r",
            "\n",
            "a",
            "*",
            "palm.cpu",
            "eight888",
            "a\u{a0}",
            "ключ",
            "\u{1}",
            "\u{7f}",
            "0",
            "-0.0",
            "23.7",
            "-1.5",
            "1e3",
            "1e999",
            "nan",
            "+1",
            ".5",
            "5.",
            "9007199254740993",
            "12345678",
            "123456789012345678",
            "9223372036854775808",
            "1_0",
            "-",
        ];
        prop_oneof![
            8 => prop::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ]
    }

    proptest! {
        #[test]
        fn the_quick_way_reads_any_bytes_as_the_general_way_does(
            lines in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            check_quick_way(&[b"put ", &*lines].concat());
        }

        #[test]
        fn the_quick_way_reads_what_looks_like_a_put_as_the_general_way_does(
            pieces in prop::collection::vec(piece(), 0..12),
        ) {
            check_quick_way(&[b"put ", &*pieces.concat()].concat());
        }

        #[test]
        fn the_quick_way_reads_a_changed_put_as_the_general_way_does(
            key in "[!-~]{1,20}",
            value in prop_oneof![any::<f64>(), (-100_000i64..100_000).prop_map(|v| v as f64 / 100.0)],
            timestamp in prop_oneof![any::<i64>(), 0..2_000_000_000i64],
            at in any::<prop::sample::Index>(),
            piece in piece(),
            removed in 0..3usize,
        ) {
            let mut put = format!("put {key} {} {timestamp}\n", Number(value)).into_bytes();
            check_quick_way(&put);
            let at = at.index(put.len());
            put.splice(at..(at + removed).min(put.len()), piece);
            check_quick_way(&put);
        }

        #[test]
        fn a_key_ends_where_its_first_other_byte_is(text in prop::collection::vec(
            prop_oneof![9 => 0x20..=0x7fu8, 1 => any::<u8>()], 0..40,
        )) {
            let first = text.iter().position(|byte| !byte.is_ascii_graphic());
            prop_assert_eq!(graphic_len(&text), first.unwrap_or(text.len()));
        }
    }

    #[test]
    fn every_byte_ends_a_key_or_does_not_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for at in 0..17 {
                for after in [0, b' ', b'a', 0x7f, 0x80, 0xff] {
                    let mut text = [b'a'; 20];
                    text[at] = byte;
                    text[at + 1..].fill(after);
                    let first = text.iter().position(|byte| !byte.is_ascii_graphic());
                    assert_eq!(graphic_len(&text), first.unwrap_or(text.len()), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn the_quick_way_takes_no_key_that_is_none() {
        for len in [Key::MAX_LEN, Key::MAX_LEN + 1] {
            check_quick_way(format!("put {} 1 1\n", "k".repeat(len)).as_bytes());
        }
        check_quick_way(b"put * 1 1\n");
        check_quick_way(b"put  1 1\n");
    }
}
