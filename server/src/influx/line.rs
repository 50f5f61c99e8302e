//! The line protocol of InfluxDB: `measurement,tag=value field=value timestamp`, read into keys and points.
//!
//! The rules are those of [InfluxDB 1.x](https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/),
//! with its unsigned integers of 2.x, and its error texts, which agents look for.

use std::{borrow::Cow, ops::Range};

use memchr::memchr2;
use metrics_client::{
    Key, Point,
    internal::number::{parse_timestamp, parse_value},
};

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

    /// Reads a timestamp, and returns it as [`seconds`](Self::seconds) does.
    fn read(self, text: &[u8]) -> Option<(i64, bool)> {
        // Nanoseconds of these centuries: the last nine digits are what is rounded.
        if self == Self::Nanoseconds
            && let Some((second, rest)) = text.split_first_chunk::<10>()
            && let [b'0'..=b'9', ..] = second
            && let [b'0'..=b'9', _, _, _, _, _, _, _, _] = rest
        {
            let (second, rest) = (parse_timestamp(second)?, parse_timestamp(rest)?);
            let is_in_range =
                (second, rest) <= (i64::MAX / 1_000_000_000, i64::MAX % 1_000_000_000);
            return is_in_range.then_some((second, rest == 0));
        }
        if text.first() == Some(&b'+') {
            return None;
        }
        self.seconds(parse_timestamp(text)?)
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
    /// The names of the fields, as in a key: a dot before each, and nothing for `value`.
    names: String,
    /// The fields of the line: the name in `names`, and the value.
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
        self.names.clear();
        self.returned = 0;
        let line = &line[skip_blanks(line, 0)..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
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

    /// Returns the key and the point of the next field of the line: `measurement.field;tag=value`, and
    /// `measurement;tag=value` for the field `value`.
    #[inline]
    pub(crate) fn next_point(&mut self) -> Option<(&str, Point)> {
        let (field, value) = self.fields.get(self.returned)?;
        self.returned += 1;
        self.key.truncate(self.name.len());
        self.key.push_str(&self.names[field.clone()]);
        self.key.push_str(&self.labels);
        let key = if self.key == "*" { EVERYTHING } else { &*self.key };
        Some((key, Point { timestamp: self.second, value: *value }))
    }

    /// Reads the parts of a line.
    fn read(&mut self, line: &str, precision: Precision, now: i64) -> Result<(), LineError> {
        let at = self.read_series(line)?;
        let at = self.read_fields(line, at)?;
        self.key.clone_from(&self.name);
        let rest = line[skip_blanks(line.as_bytes(), at)..].trim_end_matches(' ');
        if rest.is_empty() {
            self.second = now;
            return Ok(());
        }
        let end = rest.bytes().position(|byte| byte == b' ').unwrap_or(rest.len());
        let (timestamp, rest) = rest.as_bytes().split_at(end);
        let (second, is_exact) = precision.read(timestamp).ok_or(LineError::BadTimestamp)?;
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
        let (end, is_plain) = scan(bytes, 0, BREAK);
        if end == 0 {
            return Err(LineError::MissingMeasurement);
        }
        push_part(&mut self.name, &line[..end], is_plain, Part::Name);
        if bytes.get(end) != Some(&b',') {
            return fields_at(bytes, end);
        }
        // Tags are mostly sorted already, and have nothing to be escaped: then they are copied.
        let (mut at, mut is_sorted, mut are_plain, mut last) = (end, true, true, None);
        while bytes.get(at) == Some(&b',') {
            let begin = at + 1;
            let (equals, is_plain_key) = scan(bytes, begin, BREAK | EQUALS);
            if equals == begin {
                return Err(LineError::MissingTagKey);
            }
            if bytes.get(equals) != Some(&b'=') {
                return Err(LineError::MissingTagValue);
            }
            let begin_value = equals + 1;
            // As in influxd, a value may begin with an equals sign.
            let first = usize::from(bytes.get(begin_value) == Some(&b'='));
            let (end, is_plain) = scan(bytes, begin_value + first, BREAK | EQUALS);
            if end == begin_value {
                return Err(LineError::MissingTagValue);
            }
            if bytes.get(end) == Some(&b'=') {
                return Err(LineError::InvalidTag);
            }
            let is_plain = is_plain && first == 0;
            let (tag, value) = (&line[begin..equals], &line[begin_value..end]);
            are_plain &= is_plain_key;
            is_sorted &= is_plain_key && last.is_none_or(|last| last < tag);
            last = Some(tag);
            self.labels.push(';');
            if is_plain && is_plain_key {
                self.labels.push_str(&line[begin..end]);
            } else {
                push_part(&mut self.labels, tag, is_plain_key, Part::Label);
                self.labels.push('=');
                push_part(&mut self.labels, value, is_plain, Part::Value);
            }
            at = end;
        }
        if !is_sorted {
            self.sort_labels(are_plain)?;
        }
        fields_at(bytes, at)
    }

    /// Sorts the tags by their names. `are_plain` says that the names have nothing that is escaped.
    fn sort_labels(&mut self, are_plain: bool) -> Result<(), LineError> {
        if are_plain {
            let name = |label: &&str| label.find('=').unwrap_or(label.len());
            let mut labels: Vec<_> = self.labels[1..].split(';').collect();
            labels.sort_unstable_by_key(|label| &label[..name(label)]);
            if labels.windows(2).any(|two| two[0][..name(&two[0])] == two[1][..name(&two[1])]) {
                return Err(LineError::DuplicateTags);
            }
            self.labels = format!(";{}", labels.join(";"));
            return Ok(());
        }
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
        let bytes = line.as_bytes();
        let series_len = self.name.len() + self.labels.len();
        loop {
            let (equals, is_plain) = scan_field(bytes, at);
            if bytes.get(equals) != Some(&b'=') {
                return Err(LineError::InvalidField);
            }
            if equals == at {
                return Err(LineError::MissingFieldKey);
            }
            let begin = equals + 1;
            let end = if bytes.get(begin) == Some(&b'"') {
                self.omitted.strings += 1;
                end_of_string(bytes, begin).ok_or(LineError::UnbalancedQuotes)?
            } else {
                let (value, end) = match decimal(&bytes[begin..]) {
                    Some((value, len)) => (value, begin + len),
                    None => self.value(line, begin)?,
                };
                let name_begin = self.names.len();
                if line[at..equals] != *"value" {
                    self.names.push('.');
                    push_part(&mut self.names, &line[at..equals], is_plain, Part::Field);
                }
                let name = name_begin..self.names.len();
                if series_len + name.len() > Key::MAX_LEN {
                    return Err(LineError::KeyTooLong);
                }
                self.fields.push((name, value));
                end
            };
            match bytes.get(end) {
                Some(b',') => at = end + 1,
                None | Some(b' ') => return Ok(end),
                Some(_) => return Err(LineError::InvalidField),
            }
        }
    }

    /// Reads the value that begins at `begin`, and is neither a string nor a short decimal. Returns it, and where
    /// it ends.
    fn value(&mut self, line: &str, begin: usize) -> Result<(f64, usize), LineError> {
        let rest = &line.as_bytes()[begin..];
        let len = rest.iter().position(|byte| matches!(byte, b',' | b' ')).unwrap_or(rest.len());
        let (text, end) = (&line[begin..begin + len], begin + len);
        let Some(&first) = rest[..len].first() else {
            return Err(LineError::MissingFieldValue);
        };
        if !matches!(first, b'0'..=b'9' | b'-' | b'.') {
            return match text {
                "t" | "T" | "true" | "True" | "TRUE" => Ok((1.0, end)),
                "f" | "F" | "false" | "False" | "FALSE" => Ok((0.0, end)),
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
            let value = parse_value(text.as_bytes());
            return match value.filter(|value| is_number && value.is_finite()) {
                Some(value) => Ok((value, end)),
                None if is_number && text.contains(['e', 'E']) => Err(LineError::InvalidFloat),
                None => Err(LineError::InvalidNumber),
            };
        };
        let (value, size) = value.map_err(|_| LineError::InvalidNumber)?;
        self.omitted.rounded += u64::from(size > 1 << f64::MANTISSA_DIGITS);
        Ok((value, end))
    }
}

/// A key that selects everything, as a measurement is called that.
const EVERYTHING: &str = "%2A";

/// Reads a decimal, or an integer (`3i`) that an f64 has exactly, up to the end of the field. Returns it with its
/// length.
#[inline]
fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (mut digits, mut len, mut point) = (0_u64, start, None);
    while let Some(&byte) = text.get(len) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b'.' && point.is_none() {
            point = Some(len);
        } else {
            break;
        }
        len += 1;
    }
    let count = len - start - usize::from(point.is_some());
    let is_end = |at: usize| matches!(text.get(at), None | Some(b',' | b' '));
    // No more than 19 digits fit into the integer.
    if count == 0 || count > 19 || digits > 1 << f64::MANTISSA_DIGITS {
        let is_decimal = count > 0 && is_end(len);
        return parse_value(&text[..len]).filter(|_| is_decimal).map(|value| (value, len));
    }
    let size = match point {
        // Both are exact, so the quotient is rounded once (Clinger, 1990).
        Some(point) => digits as f64 / POWERS_OF_TEN[len - point - 1],
        None => digits as f64,
    };
    let is_integer = point.is_none() && text.get(len) == Some(&b'i');
    let len = len + usize::from(is_integer);
    // An integer has no negative zero.
    let value = if negative && !(is_integer && digits == 0) { -size } else { size };
    is_end(len).then_some((value, len))
}

/// Those that an f64 has exactly, as far as they are needed.
const POWERS_OF_TEN: [f64; 20] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19,
];

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
#[inline]
fn scan(bytes: &[u8], mut at: usize, separators: u8) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        if class != 0 {
            if class & separators != 0 {
                break;
            }
            is_plain = false;
            let next = bytes.get(at + 1).map_or(0, |&next| CLASSES[usize::from(next)]);
            at += usize::from(byte == b'\\' && next & separators != 0);
        }
        at += 1;
    }
    (at, is_plain)
}

/// The same for the name of a field, where a backslash escapes what is behind it, a backslash too.
#[inline]
fn scan_field(bytes: &[u8], mut at: usize) -> (usize, bool) {
    let mut is_plain = true;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        if class != 0 {
            if class & (BREAK | EQUALS) != 0 {
                break;
            }
            is_plain = false;
            at += usize::from(byte == b'\\' && at + 1 < bytes.len());
        }
        at += 1;
    }
    (at, is_plain)
}

/// A comma or a space, which end a part of a line.
const BREAK: u8 = 1;
const EQUALS: u8 = 2;
/// Is not the same in a line and in every part of a key.
const SPECIAL: u8 = 4;

/// What each byte is; 0 for most.
const CLASSES: [u8; 256] = {
    let mut classes = [SPECIAL; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        classes[byte as usize] = match byte {
            b',' | b' ' => BREAK,
            b'=' => EQUALS,
            b'\\' | b'%' | b';' | b'!' | b'^' | b'~' => SPECIAL,
            _ => 0,
        };
        byte += 1;
    }
    classes
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

/// Adds a part of a line as it is written in a key: without the line's escapes, with those of a key.
#[inline]
fn push_part(text: &mut String, part: &str, is_plain: bool, kind: Part) {
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
        while let Some((key, point)) = parser.next_point() {
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
        while let Some((key, point)) = parser.next_point() {
            assert!(Key::new(key).is_ok() && point.value.is_finite(), "{key:?} {point:?}");
            points -= 1;
        }
        assert_eq!(points, 0, "a field that is no point");
    }
    assert!((body.len()..=body.len() + 1).contains(&bytes), "bytes between the lines");
}

#[cfg(test)]
mod tests;
