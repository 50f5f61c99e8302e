//! Parses requests and records, borrowed from the text.

use super::{
    error::{InvalidRequest, LineExcerpt},
    number,
    request::Request,
};
use crate::metric::{Key, KeyRef, Point, Sample, Selector};

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
                    .ok_or_else(|| InvalidRequest::Value(LineExcerpt::of(value)))?;
                let timestamp = number::parse_timestamp(timestamp)
                    .ok_or_else(|| InvalidRequest::Timestamp(LineExcerpt::of(timestamp)))?;
                Ok(Some(Self::Put(key, Point { timestamp, value })))
            }
            (b"get", [b"*"]) => Ok(Some(Self::GetAll)),
            (b"get", [key]) => Ok(Some(Self::Get(parse_key(key)?))),
            _ => Err(Self::fault(command, line)),
        }
    }

    fn fault(command: &[u8], line: &[u8]) -> InvalidRequest {
        match command {
            b"put" | b"get" => InvalidRequest::Fields(LineExcerpt::of(line)),
            _ => InvalidRequest::Command(LineExcerpt::of(line)),
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

/// Reads a record that begins with `prefix`, in its most common form: one space between the value
/// and the timestamp, a line break behind it. Says how long it is with its line break. `None` means: read it some
/// other way.
#[inline]
pub(super) fn same_key(lines: &[u8], prefix: &[u8]) -> Option<(Point, usize)> {
    if prefix.is_empty() {
        return None;
    }
    let rest = lines.strip_prefix(prefix)?;
    let (value, value_len) = number::scan_value(rest)?;
    let rest = rest[value_len..].strip_prefix(b" ")?;
    let (timestamp, timestamp_len) = number::scan_integer(rest)?;
    if rest.get(timestamp_len) != Some(&b'\n') {
        return None;
    }
    Some((Point { timestamp, value }, prefix.len() + value_len + timestamp_len + 2))
}

/// Reads a record in any form that was seen.
pub(super) fn parse_record(line: &[u8]) -> Option<(&str, Point)> {
    let start = line.iter().position(|&byte| !is_blank(byte))?;
    let (key, rest) = split_field(&line[start..]);
    let (value, rest) = split_field(rest);
    let (timestamp, rest) = split_field(rest);
    let point = Point {
        value: number::parse_value(value)?,
        timestamp: number::parse_timestamp(timestamp)?,
    };
    if rest.is_empty() { Some((std::str::from_utf8(key).ok()?, point)) } else { None }
}

/// Splits off the first field and the blanks after it.
#[inline]
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
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
    let key =
        std::str::from_utf8(field).map_err(|_| InvalidRequest::Encoding(LineExcerpt::of(field)))?;
    Ok(KeyRef::new(key)?)
}

/// What may stand between fields.
#[inline]
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests;
