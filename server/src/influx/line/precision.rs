//! The unit of timestamps, and how they become seconds.

use metrics_client::internal::number::parse_timestamp;

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
    pub(super) fn read(self, text: &[u8]) -> Option<(i64, bool)> {
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
