//! Times as people write them: `now`, `-6h`, seconds since the Unix epoch, RFC 3339, a date.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, civil, tz::TimeZone};

use crate::failure::Failure;

/// Parses a time on the command line, in seconds since the Unix epoch.
///
/// # Errors
///
/// Returns the valid forms of a time if `text` has none of them.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, now())
}

/// The current second.
pub(crate) fn now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}

/// Returns the time as RFC 3339 in UTC; or as the number it is, if that is beyond a calendar's years.
pub(crate) fn show(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Parses a length of time, such as `90s`, `6h` or `30d`, in seconds.
///
/// # Errors
///
/// Returns the valid forms of a length of time if `text` has none of them.
pub(crate) fn parse_length(text: &str) -> Result<i64, String> {
    let invalid = || {
        format!(
            "invalid length of time {text:?}: use a number with s, m, h, d or w, such as 90s or 30d"
        )
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        Some('w') => 604_800,
        _ => return Err(invalid()),
    };
    let number = text[..text.len() - 1].parse::<u32>().map_err(|_| invalid())?;
    Ok(i64::from(number) * unit)
}

/// Parses a length of time that is an option, at least a second.
pub(crate) fn length(option: &str, text: &str) -> Result<Duration, Failure> {
    let seconds = parse_length(text).map_err(|error| Failure::usage(error).context(option))?;
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => Err(Failure::usage(format!("{option}: {text} is too short"))),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

fn parse_at(text: &str, now: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    if let Some(ago) = text.strip_prefix('-')
        && let Ok(seconds) = parse_length(ago)
    {
        return Ok(now.saturating_sub(seconds));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        // Rounds down, so that a second and its fractions are the same second.
        return Ok(time.as_nanosecond().div_euclid(1_000_000_000) as i64);
    }
    let local = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    if let Ok(time) = local.and_then(|time| TimeZone::system().to_timestamp(time)) {
        return Ok(time.as_second());
    }
    Err("use seconds since 1970, RFC 3339 (2026-11-27T09:00:00Z), a date, -6h (s, m, h, d, w), or now".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_a_time() {
        let now = 1_700_000_000;
        for (text, seconds) in [
            ("now", now),
            ("0", 0),
            ("-5", -5),
            ("1150864247", 1_150_864_247),
            ("-90s", now - 90),
            ("-5m", now - 300),
            ("-6h", now - 21_600),
            ("-30d", now - 2_592_000),
            ("-2w", now - 1_209_600),
            ("1970-01-02T00:00:00Z", 86_400),
            ("1970-01-01T02:00:00.9+01:00", 3_600),
            ("1969-12-31T23:59:58.5Z", -2),
        ] {
            assert_eq!(parse_at(text, now), Ok(seconds), "{text}");
        }
        assert!(parse_at("2026-11-27", now).is_ok());
        assert!(parse_at("2026-11-27 09:30", now).is_ok());
    }

    #[test]
    fn what_is_no_time_is_an_error() {
        for text in [
            "",
            "6h",
            "-6",
            "-6y",
            "-h",
            "yesterday",
            "2026-13-01",
            "12:30",
            "1e9",
            "-99999999999d",
        ] {
            let parsed = parse_at(text, 0);
            assert!(parsed.is_err() || text == "-6", "{text}: {parsed:?}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_shown_as_a_number() {
        assert_eq!(show(0), "1970-01-01T00:00:00Z");
        assert_eq!(show(i64::MAX), i64::MAX.to_string());
    }
}
