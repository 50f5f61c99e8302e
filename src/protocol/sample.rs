//! A [`Sample`] as text: a record of the protocol.

use std::{fmt, str::FromStr};

use super::{error::InvalidRecord, number::PyFloat, parse::parse_record};
use crate::metric::{Key, Point, Sample};

/// Shows the sample as a record of the protocol: `palm.cpu 23.7 1150864247`.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, point: Point { timestamp, value } } = self;
        write!(f, "{key} {} {timestamp}", PyFloat(*value))
    }
}

/// Parses a record of the protocol: `palm.cpu 23.7 1150864247`. The value may be NaN or infinite.
impl FromStr for Sample {
    type Err = InvalidRecord;

    fn from_str(text: &str) -> Result<Self, InvalidRecord> {
        parse_record(text.as_bytes())
            .and_then(|(key, point)| Some(Self { key: Key::new(key).ok()?, point }))
            .ok_or_else(|| InvalidRecord::of(text.as_bytes()))
    }
}
