//! Lines of Graphite's plaintext protocol: `path value timestamp`.

use std::fmt;

use metrics_client::{
    Point,
    codec::KeyRef,
    internal::number::{parse_timestamp, parse_value},
};

use crate::store::PutBatch;

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A point, which is in the batch now.
    Point,
    /// Nothing but white space.
    Blank,
    /// A point whose value is not a number, which a store does not keep.
    Nan,
}

/// Why a line was not a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvalidLine {
    Fields,
    Path,
    Tags,
    Value,
    Timestamp,
    TooLong,
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fields => "is not of the form `path value timestamp`",
            Self::Path => "has an invalid path",
            Self::Tags => "has invalid tags",
            Self::Value => "has an invalid value",
            Self::Timestamp => "has an invalid timestamp",
            Self::TooLong => "is too long",
        })
    }
}

/// Parses a line without its line break, and adds its point to `puts`.
///
/// The timestamps `-1` and `N` mean `now`, and timestamps are rounded down to seconds. The tags of a path are
/// sorted, so that their order makes no difference.
pub(super) fn parse_line(
    line: &[u8],
    now: i64,
    puts: &mut PutBatch,
) -> Result<LineKind, InvalidLine> {
    let mut fields = Fields(line);
    let Some(path) = fields.next() else { return Ok(LineKind::Blank) };
    let (Some(value), Some(timestamp), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(InvalidLine::Fields);
    };
    let path = std::str::from_utf8(path).map_err(|_| InvalidLine::Path)?;
    let key = KeyRef::new(path).map_err(|_| InvalidLine::Path)?;
    let value = parse_value(value).ok_or(InvalidLine::Value)?;
    let timestamp = match timestamp {
        b"-1" | b"N" => now,
        _ => parse_timestamp(timestamp)
            .or_else(|| parse_value(timestamp).and_then(floor))
            .ok_or(InvalidLine::Timestamp)?,
    };
    if value.is_nan() {
        return Ok(LineKind::Nan);
    }
    if value.is_infinite() {
        return Err(InvalidLine::Value);
    }
    let point = Point::new(value, timestamp);
    match sorted_tags(path)? {
        None => puts.push_ref(key, point),
        Some(sorted) => {
            puts.push_ref(KeyRef::new(&sorted).map_err(|_| InvalidLine::Path)?, point);
        }
    }
    Ok(LineKind::Point)
}

/// The fields of a line, which white space separates.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
        let start = self.0.iter().position(|byte| !is_space(byte))?;
        let rest = &self.0[start..];
        let end = rest.iter().position(is_space).unwrap_or(rest.len());
        let (field, rest) = rest.split_at(end);
        self.0 = rest;
        Some(field)
    }
}

fn floor(seconds: f64) -> Option<i64> {
    let floor = seconds.floor();
    // Both bounds are exact: powers of two.
    (floor >= i64::MIN as f64 && floor < -(i64::MIN as f64)).then_some(floor as i64)
}

/// Checks the tags of a path. Returns the path with its tags sorted, if they are not already.
fn sorted_tags(path: &str) -> Result<Option<String>, InvalidLine> {
    let Some((name, tags)) = path.split_once(';') else { return Ok(None) };
    let is_valid = |tag: &str| {
        tag.split_once('=').is_some_and(|(tag, value)| !tag.is_empty() && !value.is_empty())
    };
    if name.is_empty() || !tags.split(';').all(is_valid) {
        return Err(InvalidLine::Tags);
    }
    if tags.split(';').is_sorted() {
        return Ok(None);
    }
    let mut sorted: Vec<_> = tags.split(';').collect();
    sorted.sort_unstable();
    Ok(Some(format!("{name};{}", sorted.join(";"))))
}

/// Parses any bytes as a line: the body of a fuzz target.
///
/// # Panics
///
/// If a line adds more or less than the point that it is said to be.
#[doc(hidden)]
pub fn fuzz(line: &[u8]) {
    let mut puts = PutBatch::new();
    let parsed = parse_line(line, 1_150_864_247, &mut puts);
    assert_eq!(puts.len(), usize::from(parsed == Ok(LineKind::Point)));
    for (key, point) in &puts {
        assert!(point.value.is_finite());
        // What is printed again is the same point.
        let mut again = PutBatch::new();
        let line = format!("{key} {} {}\r", point.value, point.timestamp);
        if point.timestamp != -1 {
            assert_eq!(parse_line(line.as_bytes(), 0, &mut again), Ok(LineKind::Point));
            assert_eq!(again.iter().next(), Some((key, point)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_150_864_247;

    fn parse(line: &str) -> Result<String, InvalidLine> {
        let mut puts = PutBatch::new();
        let kind = parse_line(line.as_bytes(), NOW, &mut puts)?;
        let point = puts.iter().next();
        Ok(point.map_or(format!("{kind:?}"), |(key, Point { value, timestamp })| {
            format!("{key} {value} {timestamp}")
        }))
    }

    #[test]
    fn lines_of_real_clients_are_points() {
        for (line, expected) in [
            // collectd, graphyte, graphitesend.
            (
                "palm.load.load.shortterm 1.34765625 1795765656\r",
                "palm.load.load.shortterm 1.34765625 1795765656",
            ),
            ("palm.cpu;core=0 23.7 1150864247", "palm.cpu;core=0 23.7 1150864247"),
            ("p.cpu 23.700000 1150864247", "p.cpu 23.7 1150864247"),
            ("a 1 -1", "a 1 1150864247"),
            ("a 1 N", "a 1 1150864247"),
            ("a 1 1150864240.99", "a 1 1150864240"),
            ("a 1 -1.5", "a 1 -2"),
            ("\ta   1e3 \t 5  ", "a 1000 5"),
            ("cpu;host=palm;dc=a 1 5", "cpu;dc=a;host=palm 1 5"),
            ("", "Blank"),
            (" \r", "Blank"),
            ("a nan 5", "Nan"),
            ("a -NaN 5", "Nan"),
        ] {
            assert_eq!(parse(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn invalid_lines_say_why() {
        for (line, reason) in [
            ("a", InvalidLine::Fields),
            ("a 1", InvalidLine::Fields),
            ("a 1 5 x", InvalidLine::Fields),
            ("* 1 5", InvalidLine::Path),
            ("a\u{0} 1 5", InvalidLine::Path),
            ("a x 5", InvalidLine::Value),
            ("a 1_0 5", InvalidLine::Value),
            ("a inf 5", InvalidLine::Value),
            ("a 1 x", InvalidLine::Timestamp),
            ("a 1 nan", InvalidLine::Timestamp),
            ("a 1 1e300", InvalidLine::Timestamp),
            ("cpu; 1 5", InvalidLine::Tags),
            ("cpu;host 1 5", InvalidLine::Tags),
            ("cpu;host= 1 5", InvalidLine::Tags),
            (";host=a 1 5", InvalidLine::Tags),
        ] {
            assert_eq!(parse(line), Err(reason), "{line}");
        }
        let mut puts = PutBatch::new();
        assert_eq!(parse_line(b"\xff 1 5", NOW, &mut puts), Err(InvalidLine::Path));
        assert!(puts.is_empty());
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_an_error(line in r"[a-c;=.]{0,6} {0,2}[-0-9.eEnaN]{0,6} [-0-9.N]{0,6}") {
            fuzz(line.as_bytes());
        }
    }
}
