//! The line protocol of InfluxDB: `measurement,tag=value field=value timestamp`, read into keys and points.
//!
//! The rules are those of [InfluxDB 1.x](https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/),
//! with its unsigned integers of 2.x, and its error texts, which agents look for.

use std::ops::Range;

use metrics_client::{Key, Point, internal::number::parse_value};

mod decimal;
mod part;
mod precision;
mod scan;

use decimal::decimal;
use part::{Part, push_part};
pub(crate) use precision::Precision;
pub(crate) use scan::lines;
use scan::{BREAK, EQUALS, end_of_string, scan, scan_field, skip_blanks};

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

/// Returns the index of the first field, behind the measurement and the tags that end at `at`.
fn fields_at(bytes: &[u8], at: usize) -> Result<usize, LineError> {
    if at < bytes.len() { Ok(skip_blanks(bytes, at)) } else { Err(LineError::MissingFields) }
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
