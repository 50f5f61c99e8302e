//! Points as lines of InfluxDB's line protocol: the inverse of what `/write` reads.
//!
//! `palm.cpu;core=0` is the field `value` of the measurement `palm.cpu` with the tag `core=0`.

use std::ops::Range;

use metrics_client::{
    Key, Point,
    codec::KeyRef,
    internal::number::{MAX_TIMESTAMP_LEN, MAX_VALUE_LEN, write_timestamp, write_value},
};

use crate::store::PutBatch;

/// The lines of some points.
#[derive(Debug, Default)]
pub(super) struct InfluxLines {
    text: Vec<u8>,
    /// For each line the index of its point, and where the line ends.
    lines: Vec<(usize, usize)>,
    /// How many points there are, also those without a line.
    points: usize,
}

impl InfluxLines {
    /// Writes the points in place of what there was. A point that cannot be written has no line.
    pub(super) fn write(&mut self, puts: &PutBatch) {
        self.text.clear();
        self.lines.clear();
        self.points = puts.len();
        let (mut series, mut index) = (Vec::new(), 0);
        for run in puts.runs() {
            series.clear();
            let is_series = write_series(&mut series, run.key).is_some();
            for point in run.points() {
                if is_series && SECONDS.contains(&point.timestamp) {
                    self.text.extend_from_slice(&series);
                    write_field(&mut self.text, point);
                    self.lines.push((index, self.text.len()));
                }
                index += 1;
            }
        }
    }

    /// Returns the number of lines.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns the text of some lines.
    pub(super) fn text(&self, lines: Range<usize>) -> &[u8] {
        let end_of = |lines: usize| match lines.checked_sub(1) {
            Some(last) => self.lines.get(last).map_or(self.text.len(), |&(_, end)| end),
            None => 0,
        };
        &self.text[end_of(lines.start)..end_of(lines.end)]
    }

    /// Returns how many points are settled if this many lines are: those of the lines, and those without a line
    /// before the next one.
    pub(super) fn points_before(&self, line: usize) -> usize {
        self.lines.get(line).map_or(self.points, |&(index, _)| index)
    }
}

/// The seconds whose nanoseconds InfluxDB can count.
const SECONDS: Range<i64> = -9_223_372_036..9_223_372_037;

/// Writes the measurement and the tags of a key. Returns `None` if there is no way to write them.
fn write_series(line: &mut Vec<u8>, key: &str) -> Option<()> {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if key.bytes().all(is_plain) {
        line.extend_from_slice(key.as_bytes());
        return Some(());
    }
    let key: Key = KeyRef::new(key).ok()?.to_key();
    let (name, mut tags) = key.labels().into_parts();
    // The line would be a comment.
    if name.starts_with('#') {
        return None;
    }
    write_escaped(line, &name, b", ")?;
    tags.sort();
    if tags.windows(2).any(|two| two[0].0 == two[1].0) {
        return None;
    }
    for (tag, value) in &tags {
        line.push(b',');
        write_escaped(line, tag, b", =")?;
        line.push(b'=');
        write_escaped(line, value, b", =")?;
    }
    Some(())
}

/// Writes a part with a backslash before each special character. Returns `None` if it cannot be read back: if
/// it is empty, has a control character, or a backslash that would be taken as an escape.
fn write_escaped(line: &mut Vec<u8>, text: &str, special: &[u8]) -> Option<()> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    let bytes = text.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        if byte == b'\\'
            && matches!(bytes.get(index + 1), None | Some(b',' | b' ' | b'=' | b'\\' | b'"'))
        {
            return None;
        }
        if special.contains(&byte) {
            line.push(b'\\');
        }
        line.push(byte);
    }
    Some(())
}

/// Writes the field, the second, and the end of the line.
fn write_field(line: &mut Vec<u8>, point: Point) {
    line.extend_from_slice(b" value=");
    let mut text = [0; MAX_VALUE_LEN + 8];
    let len = write_value(&mut text, point.value);
    line.extend_from_slice(&text[..len]);
    line.push(b' ');
    let mut text = [0; MAX_TIMESTAMP_LEN + 8];
    let len = write_timestamp(&mut text, point.timestamp);
    line.extend_from_slice(&text[..len]);
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(key: &str) -> Option<String> {
        let mut puts = PutBatch::new();
        puts.push(&Key::new(key).unwrap(), Point::new(23.5, 1));
        let mut lines = InfluxLines::default();
        lines.write(&puts);
        let text = String::from_utf8(lines.text(0..lines.len()).to_vec()).unwrap();
        (lines.len() == 1).then(|| text.strip_suffix(" value=23.5 1\n").unwrap().to_owned())
    }

    #[test]
    fn keys_become_measurements_and_tags() {
        for (key, series) in [
            ("palm.cpu", "palm.cpu"),
            ("cpu;host=palm;core=0", "cpu,core=0,host=palm"),
            ("a%20b,c=d;x%20y=1,2=3", r"a\ b\,c=d,x\ y=1\,2\=3"),
            (r"a\b;c=d\e", r"a\b,c=d\e"),
            ("ключ;ö=ü", "ключ,ö=ü"),
            ("\"a\";b=\"c", "\"a\",b=\"c"),
        ] {
            assert_eq!(line(key).as_deref(), Some(series), "{key}");
        }
        for key in [
            r"a\",
            r"a\,b",
            r"a\\b",
            r#"a\"b"#,
            "#a",
            ";a=b",
            "a;b=",
            "a;=c",
            "a;b=1;b=2",
            "a%0Ab",
            "a;b=%09",
        ] {
            assert_eq!(line(key), None, "{key}");
        }
    }

    #[test]
    fn points_without_a_line_are_counted_where_they_are() {
        let mut puts = PutBatch::new();
        for (key, second) in [("#a", 1), ("b", 2), ("b", i64::MAX), ("c", 3), ("#a", 4)] {
            puts.push(&Key::new(key).unwrap(), Point::new(0.5, second));
        }
        let mut lines = InfluxLines::default();
        lines.write(&puts);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines.text(1..2), b"c value=0.5 3\n");
        assert_eq!([0, 1, 2].map(|line| lines.points_before(line)), [1, 3, 5]);
    }

    #[cfg(feature = "influx")]
    mod round_trip {
        use super::*;
        use crate::influx::read_lines;

        proptest! {
            #[test]
            fn lines_are_read_as_written(
                name in "[a-c,= \"'\\\\#%;ö.]{1,6}",
                tags in proptest::collection::vec(("[a-c,= \"\\\\ö]{0,4}", "[a-c,= \"\\\\~%]{0,4}"), 0..3),
                value in proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL,
                second in SECONDS,
            ) {
                let labels = tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str()));
                let Ok(key) = Key::with_labels(&name, labels) else {
                    return Ok(());
                };
                let mut puts = PutBatch::new();
                for _ in 0..2 {
                    puts.push(&key, Point::new(value, second));
                }
                let mut written = InfluxLines::default();
                written.write(&puts);
                // It reads nanoseconds.
                let text = String::from_utf8(written.text(0..written.len()).to_vec()).unwrap();
                let (mut read, mut failed) = (Vec::new(), Vec::new());
                read_lines(
                    text.replace('\n', "000000000\n").as_bytes(),
                    0,
                    |key, point| read.push((key.to_owned(), point)),
                    |line, _| failed.push(line.to_vec()),
                );
                prop_assert!(failed.is_empty(), "{text}");
                if written.len() > 0 {
                    let expected = (key.as_str().to_owned(), Point::new(value, second));
                    prop_assert_eq!(read, vec![expected.clone(), expected]);
                }
            }
        }
    }
}
