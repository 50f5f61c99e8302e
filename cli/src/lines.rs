//! Lines of an import: `put KEY VALUE TIMESTAMP`, or the same without `put`, as Graphite's text has it.

use metrics_client::{Key, Sample, error::InvalidKey};

/// Turns lines into samples. A key that comes again is not allocated again.
#[derive(Debug, Default)]
pub(crate) struct LineParser {
    keys: std::collections::HashMap<Box<[u8]>, Key>,
}

/// Why a line is not a sample.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InvalidLine {
    /// There are not three fields.
    Fields(usize),
    Encoding,
    Key(InvalidKey),
    Value(String),
    Timestamp(String),
}

/// How many keys are remembered: beyond that, each one is allocated for each line.
const MAX_KEYS: usize = 100_000;

impl LineParser {
    /// Parses one line, without its line break. `None` for an empty line and for a comment (`#`).
    pub(crate) fn parse(&mut self, line: &[u8]) -> Result<Option<Sample>, InvalidLine> {
        let mut found: [&[u8]; 5] = Default::default();
        let mut count = 0;
        let fields = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
        for field in fields.filter(|field| !field.is_empty()) {
            if let Some(place) = found.get_mut(count) {
                *place = field;
            }
            count += 1;
        }
        if count == 0 || found[0].starts_with(b"#") {
            return Ok(None);
        }
        // A key may be called put: that line has three fields.
        let is_request = found[0] == b"put" && count != 3;
        let (count, fields) =
            if is_request { (count - 1, &found[1..]) } else { (count, &found[..]) };
        let &[key, value, timestamp, ..] = fields else {
            return Err(InvalidLine::Fields(count));
        };
        if count != 3 {
            return Err(InvalidLine::Fields(count));
        }
        let value_text = std::str::from_utf8(value).map_err(|_| InvalidLine::Encoding)?;
        let value = value_text.parse::<f64>().ok().filter(|value| value.is_finite());
        let value = value.ok_or_else(|| InvalidLine::Value(value_text.into()))?;
        let timestamp_text = std::str::from_utf8(timestamp).map_err(|_| InvalidLine::Encoding)?;
        let timestamp = timestamp_text
            .parse::<i64>()
            .map_err(|_| InvalidLine::Timestamp(timestamp_text.into()))?;
        Sample::new(self.key(key)?, value, timestamp).map(Some).map_err(InvalidLine::Key)
    }

    fn key(&mut self, key: &[u8]) -> Result<Key, InvalidLine> {
        if let Some(key) = self.keys.get(key) {
            return Ok(key.clone());
        }
        let text = std::str::from_utf8(key).map_err(|_| InvalidLine::Encoding)?;
        let parsed = Key::new(text).map_err(InvalidLine::Key)?;
        if self.keys.len() < MAX_KEYS {
            self.keys.insert(key.into(), parsed.clone());
        }
        Ok(parsed)
    }
}

impl std::fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fields(count) => {
                write!(
                    f,
                    "expected key, value and timestamp, found {count} field{}",
                    if *count == 1 { "" } else { "s" }
                )
            }
            Self::Encoding => f.write_str("not UTF-8"),
            Self::Key(error) => error.fmt(f),
            Self::Value(text) => write!(f, "invalid value {text:?}: not a finite number"),
            Self::Timestamp(text) => {
                write!(f, "invalid timestamp {text:?}: not a whole number of seconds")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sample_with_or_without_put() {
        let mut parser = LineParser::default();
        let sample = Sample::new("palm.cpu", 23.7, 1150864247).unwrap();
        for line in [
            "put palm.cpu 23.7 1150864247",
            "palm.cpu 23.7 1150864247",
            "  put\tpalm.cpu  2.37e1 1150864247 \r",
        ] {
            assert_eq!(parser.parse(line.as_bytes()), Ok(Some(sample.clone())), "{line}");
        }
        for line in ["", "   ", "\r", "# put a 1 2"] {
            assert_eq!(parser.parse(line.as_bytes()), Ok(None), "{line:?}");
        }
        assert_eq!(parser.parse(b"put 1 2"), Ok(Some(Sample::new("put", 1.0, 2).unwrap())));
    }

    #[test]
    fn an_invalid_line_names_its_fault() {
        let mut parser = LineParser::default();
        for (line, fault) in [
            ("put", "found 0 fields"),
            ("a 1", "found 2 fields"),
            ("put a 1 2 3", "found 4 fields"),
            ("a 1 2 3", "found 4 fields"),
            ("a one 2", "invalid value \"one\""),
            ("a nan 2", "invalid value"),
            ("a 1 2.5", "invalid timestamp \"2.5\""),
            ("* 1 2", "*"),
            ("\u{7}a 1 2", "control"),
        ] {
            let error = parser.parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(fault), "{line}: {error}");
        }
        assert_eq!(parser.parse(b"\xff 1 2"), Err(InvalidLine::Encoding));
    }
}
