//! The line protocol of InfluxDB: `measurement,tag=value field=value timestamp`, read into keys and points.
//!
//! The rules are those of [InfluxDB 1.x](https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/),
//! with its unsigned integers of 2.x, and its error texts, which agents look for.

use std::{borrow::Cow, ops::Range};

use memchr::memchr2;
use metrics_client::{Key, Point};

/// The unit of the timestamps of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Precision {
    #[default]
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

impl Precision {
    /// Returns the precision of a query parameter, in the spelling of either version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "n" | "ns" => Self::Nanoseconds,
            "u" | "us" | "µ" | "µs" => Self::Microseconds,
            "ms" => Self::Milliseconds,
            "s" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return None,
        })
    }

    /// Converts a timestamp to seconds, rounded down, and says if it is one without rounding.
    fn seconds(self, timestamp: i64) -> Option<(i64, bool)> {
        let floor = |unit| (timestamp.div_euclid(unit), timestamp.rem_euclid(unit) == 0);
        match self {
            Self::Nanoseconds => Some(floor(1_000_000_000)),
            Self::Microseconds => Some(floor(1_000_000)),
            Self::Milliseconds => Some(floor(1_000)),
            Self::Seconds => Some((timestamp, true)),
            Self::Minutes => timestamp.checked_mul(60).map(|second| (second, true)),
            Self::Hours => timestamp.checked_mul(3600).map(|second| (second, true)),
        }
    }
}

/// Why a line cannot be read, in the words of influxd 1.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("invalid UTF-8")]
    NotUtf8,
    #[error("missing measurement")]
    MissingMeasurement,
    #[error("missing tag key")]
    MissingTagKey,
    #[error("missing tag value")]
    MissingTagValue,
    #[error("invalid tag format")]
    InvalidTag,
    #[error("duplicate tags")]
    DuplicateTags,
    #[error("missing fields")]
    MissingFields,
    #[error("missing field key")]
    MissingFieldKey,
    #[error("missing field value")]
    MissingFieldValue,
    #[error("invalid field format")]
    InvalidField,
    #[error("invalid number")]
    InvalidNumber,
    #[error("invalid float")]
    InvalidFloat,
    #[error("invalid boolean")]
    InvalidBoolean,
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    #[error("bad timestamp")]
    BadTimestamp,
    #[error("point is invalid")]
    TextBehindTimestamp,
    #[error("key is longer than {} bytes", Key::MAX_LEN)]
    KeyTooLong,
    #[error("line is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
}

/// The longest line, in bytes: a field takes six times its bytes while the line is read.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// What was left out of lines that are fine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OmittedFields {
    /// Fields whose value is a string.
    pub(crate) strings: u64,
    /// Integers beyond 2^53, which an f64 holds only rounded.
    pub(crate) rounded: u64,
}

/// Reads lines; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(crate) struct LineParser {
    /// The measurement, as in a key.
    name: String,
    /// The tags, as in a key: `;tag=value;tag=value`.
    labels: String,
    /// The key of one field.
    key: String,
    /// The fields of the line: the key in the line, and the value.
    fields: Vec<(Range<usize>, f64)>,
    /// How many of the fields were returned as points.
    returned: usize,
    second: i64,
    pub(crate) omitted: OmittedFields,
    /// True if a timestamp was rounded.
    pub(crate) has_rounded: bool,
}

impl LineParser {
    /// Reads a line without its line break; its points are then returned by [`next_point`](Self::next_point). A
    /// line without a timestamp is of `now`.
    ///
    /// There is no point if the line has an error, or is blank or a comment.
    pub(crate) fn read_line(
        &mut self,
        line: &[u8],
        precision: Precision,
        now: i64,
    ) -> Result<(), LineError> {
        self.fields.clear();
        self.returned = 0;
        let line = content(line);
        if matches!(line.first(), None | Some(b'#')) {
            return Ok(());
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(LineError::LineTooLong);
        }
        let line = str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
        let before = self.omitted;
        self.read(line, precision, now).inspect_err(|_| {
            self.fields.clear();
            self.omitted = before;
        })
    }

    /// Returns the key and the point of the next field of the line that was read last.
    pub(crate) fn next_point(&mut self, line: &[u8]) -> Option<(&str, Point)> {
        let (field, value) = self.fields.get(self.returned)?;
        self.returned += 1;
        let field = str::from_utf8(&content(line)[field.clone()]).ok()?;
        // Its length was checked when the line was read.
        key(&mut self.key, &self.name, field, &self.labels).ok()?;
        Some((&self.key, Point { timestamp: self.second, value: *value }))
    }

    /// Reads the parts of a line.
    fn read(&mut self, line: &str, precision: Precision, now: i64) -> Result<(), LineError> {
        let at = self.read_series(line)?;
        let at = self.read_fields(line, at)?;
        let rest = line[skip_blanks(line.as_bytes(), at)..].trim_end_matches(' ');
        if rest.is_empty() {
            self.second = now;
            return Ok(());
        }
        let (timestamp, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let timestamp = Some(timestamp).filter(|timestamp| !timestamp.starts_with('+'));
        let timestamp = timestamp.and_then(|timestamp| timestamp.parse().ok());
        let second = timestamp.and_then(|timestamp| precision.seconds(timestamp));
        let (second, is_exact) = second.ok_or(LineError::BadTimestamp)?;
        if !rest.is_empty() {
            return Err(LineError::TextBehindTimestamp);
        }
        self.second = second;
        self.has_rounded |= !is_exact;
        Ok(())
    }

    /// Reads the measurement and the tags. Returns where the fields begin.
    fn read_series(&mut self, line: &str) -> Result<usize, LineError> {
        self.name.clear();
        self.labels.clear();
        let bytes = line.as_bytes();
        let (end, is_plain) = scan(bytes, 0, |byte| matches!(byte, b',' | b' '));
        if end == 0 {
            return Err(LineError::MissingMeasurement);
        }
        self.name.push_str(&label_text(&line[..end], is_plain, Part::Name));
        if bytes.get(end) != Some(&b',') {
            return fields_at(bytes, end);
        }
        // Tags are mostly sorted already, and have nothing to be escaped: then they are copied.
        let (mut at, mut is_sorted, mut last) = (end, true, None);
        while bytes.get(at) == Some(&b',') {
            let begin = at + 1;
            let (equals, is_plain_key) =
                scan(bytes, begin, |byte| matches!(byte, b'=' | b',' | b' '));
            if equals == begin {
                return Err(LineError::MissingTagKey);
            }
            if bytes.get(equals) != Some(&b'=') {
                return Err(LineError::MissingTagValue);
            }
            let begin_value = equals + 1;
            // As in influxd, a value may begin with an equals sign.
            let first = usize::from(bytes.get(begin_value) == Some(&b'='));
            let (end, is_plain) =
                scan(bytes, begin_value + first, |byte| matches!(byte, b'=' | b',' | b' '));
            if end == begin_value {
                return Err(LineError::MissingTagValue);
            }
            if bytes.get(end) == Some(&b'=') {
                return Err(LineError::InvalidTag);
            }
            let is_plain = is_plain && first == 0;
            let (tag, value) = (&line[begin..equals], &line[begin_value..end]);
            is_sorted &= is_plain_key && last.is_none_or(|last| last < tag);
            last = Some(tag);
            self.labels.push(';');
            self.labels.push_str(&label_text(tag, is_plain_key, Part::Label));
            self.labels.push('=');
            self.labels.push_str(&label_text(value, is_plain, Part::Value));
            at = end;
        }
        if !is_sorted {
            self.sort_labels()?;
        }
        fields_at(bytes, at)
    }

    /// Sorts the tags by their names.
    fn sort_labels(&mut self) -> Result<(), LineError> {
        let key = Key::new(format!("x{}", self.labels)).map_err(|_| LineError::KeyTooLong)?;
        let (name, mut labels) = key.labels().into_parts();
        labels.sort();
        if labels.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(LineError::DuplicateTags);
        }
        let sorted = Key::with_labels(name, labels).map_err(|_| LineError::KeyTooLong)?;
        sorted.as_str()[1..].clone_into(&mut self.labels);
        Ok(())
    }

    /// Reads the fields, which begin at `at`. Returns where they end.
    fn read_fields(&mut self, line: &str, mut at: usize) -> Result<usize, LineError> {
        self.fields.clear();
        let bytes = line.as_bytes();
        loop {
            let (equals, is_plain) = scan_field(bytes, at);
            if bytes.get(equals) != Some(&b'=') {
                return Err(LineError::InvalidField);
            }
            if equals == at {
                return Err(LineError::MissingFieldKey);
            }
            let field = at..equals;
            let begin = equals + 1;
            let end = match bytes.get(begin) {
                Some(b'"') => {
                    self.omitted.strings += 1;
                    end_of_string(bytes, begin).ok_or(LineError::UnbalancedQuotes)?
                }
                _ => {
                    let rest = &bytes[begin..];
                    let len = rest.iter().position(|byte| matches!(byte, b',' | b' '));
                    let end = begin + len.unwrap_or(rest.len());
                    let value = self.value(&line[begin..end])?;
                    // The length of a key is checked before any field is put.
                    let growth = if is_plain { 1 } else { 3 };
                    let len = self.name.len() + self.labels.len() + 1 + growth * field.len();
                    if len > Key::MAX_LEN {
                        key(&mut self.key, &self.name, &line[field.clone()], &self.labels)?;
                    }
                    self.fields.push((field, value));
                    end
                }
            };
            match bytes.get(end) {
                Some(b',') => at = end + 1,
                None | Some(b' ') => return Ok(end),
                Some(_) => return Err(LineError::InvalidField),
            }
        }
    }

    /// Reads the value of a field that is not a string.
    fn value(&mut self, text: &str) -> Result<f64, LineError> {
        let Some(&first) = text.as_bytes().first() else {
            return Err(LineError::MissingFieldValue);
        };
        if !matches!(first, b'0'..=b'9' | b'-' | b'.') {
            return match text {
                "t" | "T" | "true" | "True" | "TRUE" => Ok(1.0),
                "f" | "F" | "false" | "False" | "FALSE" => Ok(0.0),
                _ if matches!(first, b'n' | b'N') => Err(LineError::InvalidNumber),
                _ => Err(LineError::InvalidBoolean),
            };
        }
        let value = if let Some(integer) = text.strip_suffix('i') {
            integer.parse::<i64>().map(|integer| (integer as f64, integer.unsigned_abs()))
        } else if let Some(integer) = text.strip_suffix('u') {
            integer.parse::<u64>().map(|integer| (integer as f64, integer))
        } else {
            // Names of infinity and of what is not a number have other letters.
            let is_number = text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
            let value = text.parse().ok().filter(|value: &f64| is_number && value.is_finite());
            return value.ok_or(match is_number && text.contains(['e', 'E']) {
                true => LineError::InvalidFloat,
                false => LineError::InvalidNumber,
            });
        };
        let (value, size) = value.map_err(|_| LineError::InvalidNumber)?;
        self.omitted.rounded += u64::from(size > 1 << f64::MANTISSA_DIGITS);
        Ok(value)
    }
}

/// Returns a line without the blanks before it and the carriage return behind it.
fn content(line: &[u8]) -> &[u8] {
    let line = &line[skip_blanks(line, 0)..];
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Splits a body into lines. A line break in the string of a field does not end a line.
pub(crate) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = end_of_line(rest);
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// Returns the index of the line break that ends the first line.
fn end_of_line(body: &[u8]) -> usize {
    // Quotes have a meaning only where the value of a field begins. A comment has no fields.
    let mut fields_at = None;
    let mut at = 0;
    while let Some(found) = memchr2(b'\n', b'"', &body[at..]).map(|found| at + found) {
        if body[found] == b'\n' {
            return found;
        }
        let fields_at = *fields_at.get_or_insert_with(|| fields_of(body));
        let is_value = found > fields_at && is_equals(&body[..found]);
        // A string that does not end is an error of this line only.
        at = Some(found)
            .filter(|_| is_value)
            .and_then(|found| end_of_string(body, found))
            .unwrap_or(found + 1);
    }
    body.len()
}

/// Returns true if the last byte is an equals sign that is not escaped.
fn is_equals(bytes: &[u8]) -> bool {
    let Some((b'=', before)) = bytes.split_last() else { return false };
    let backslashes = before.iter().rev().take_while(|&&byte| byte == b'\\').count();
    backslashes % 2 == 0
}

/// Returns the index behind which the fields of the first line are.
fn fields_of(body: &[u8]) -> usize {
    let begin = skip_blanks(body, 0);
    match body.get(begin) {
        None | Some(b'#') => usize::MAX,
        Some(_) => {
            // A line break ends the line also behind a backslash.
            let mut rest = body[begin..].iter().zip(&body[begin + 1..]);
            let end =
                rest.position(|(&byte, &next)| next == b'\n' || next == b' ' && byte != b'\\');
            end.map_or(body.len(), |end| begin + end + 1)
        }
    }
}

/// Returns the index behind the closing quote of the string that begins at `begin`.
fn end_of_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Returns the index of the first byte from `at` on that is a separator and not escaped, and true if there is
/// nothing that a key has to escape before it.
///
/// In measurements and tags a backslash escapes the separator behind it, whatever is before the backslash.
fn scan(bytes: &[u8], mut at: usize, is_separator: impl Fn(u8) -> bool) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        if is_separator(byte) {
            break;
        }
        if !PLAIN[usize::from(byte)] {
            is_plain = false;
            let is_escape =
                byte == b'\\' && bytes.get(at + 1).is_some_and(|&next| is_separator(next));
            at += usize::from(is_escape);
        }
        at += 1;
    }
    (at, is_plain)
}

/// The same for the name of a field, where a backslash escapes what is behind it, a backslash too.
fn scan_field(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        if matches!(byte, b'=' | b',' | b' ') {
            break;
        }
        if !PLAIN[usize::from(byte)] {
            is_plain = false;
            at += usize::from(byte == b'\\' && at + 1 < bytes.len());
        }
        at += 1;
    }
    (at, is_plain)
}

/// The bytes that are the same in a line and in every part of a key.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(byte, b'\\' | b'%' | b';' | b'=' | b'!' | b'^' | b'~');
        byte += 1;
    }
    plain
};

/// Returns the index of the first field, behind the measurement and the tags that end at `at`.
fn fields_at(bytes: &[u8], at: usize) -> Result<usize, LineError> {
    if at < bytes.len() { Ok(skip_blanks(bytes, at)) } else { Err(LineError::MissingFields) }
}

fn skip_blanks(bytes: &[u8], at: usize) -> usize {
    let blanks = bytes[at..].iter().position(|&byte| !is_blank(byte));
    blanks.map_or(bytes.len(), |blanks| at + blanks)
}

/// What may be before the parts of a line, and separates no tags or fields.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0)
}

/// A part of a key with labels.
#[derive(Clone, Copy)]
enum Part {
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

/// Returns a part of a line as it is written in a key: without the line's escapes, with those of a key.
fn label_text(text: &str, is_plain: bool, part: Part) -> Cow<'_, str> {
    if is_plain {
        return Cow::Borrowed(text);
    }
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

/// Writes the key of a field: `measurement.field;tag=value`, and `measurement;tag=value` for the field `value`.
fn key<'a>(
    key: &'a mut String,
    name: &str,
    field: &str,
    labels: &str,
) -> Result<&'a str, LineError> {
    key.clear();
    key.push_str(name);
    if field != "value" {
        key.push('.');
        let is_plain = field.bytes().all(|byte| PLAIN[usize::from(byte)]);
        key.push_str(&label_text(field, is_plain, Part::Field));
    }
    key.push_str(labels);
    if key == "*" {
        "%2A".clone_into(key);
    }
    if key.len() > Key::MAX_LEN { Err(LineError::KeyTooLong) } else { Ok(key) }
}

/// Reads the lines of a body with timestamps in nanoseconds, and calls `put` with each key and point, and `fail`
/// with each line that has an error: what tests and benches compare with others.
#[doc(hidden)]
pub fn read_lines(
    body: &[u8],
    now: i64,
    mut put: impl FnMut(&str, Point),
    mut fail: impl FnMut(&[u8], &dyn std::error::Error),
) {
    let mut parser = LineParser::default();
    for line in lines(body) {
        if let Err(error) = parser.read_line(line, Precision::Nanoseconds, now) {
            fail(line, &error);
        }
        while let Some((key, point)) = parser.next_point(line) {
            put(key, point);
        }
    }
}

/// Reads any bytes as a body: the body of a fuzz target.
///
/// # Panics
///
/// If a key that was read is not valid, or if a value is not finite.
#[doc(hidden)]
pub fn fuzz(body: &[u8]) {
    let mut parser = LineParser::default();
    let mut bytes = 0;
    for line in lines(body) {
        bytes += line.len() + 1;
        let read = parser.read_line(line, Precision::Nanoseconds, 7);
        let mut points = parser.fields.len();
        assert!(read.is_ok() || points == 0, "a line with an error has points");
        while let Some((key, point)) = parser.next_point(line) {
            assert!(Key::new(key).is_ok() && point.value.is_finite(), "{key:?} {point:?}");
            points -= 1;
        }
        assert_eq!(points, 0, "a field that is no point");
    }
    assert!((body.len()..=body.len() + 1).contains(&bytes), "bytes between the lines");
}

#[cfg(test)]
mod tests;
