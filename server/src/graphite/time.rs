//! Times as Graphite's clients write them: `-6h`, `noon yesterday`, `08:50_20060813`, seconds since the epoch.

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time, Weekday},
    tz::{Disambiguation, TimeZone},
};

/// Parses a time: seconds since the epoch, or a reference and an offset, such as `now-6h`.
///
/// A reference is `now`, a time of day (`08:50`, `6pm`, `noon`, `midnight`, `teatime`), a day (`today`,
/// `yesterday`, `tomorrow`, `20060813`, `08/13/06`, `aug13`, `monday`), or a time of day and a day. Without a
/// time of day, a day begins at midnight in `tz`. A weekday is the last one, and may be today. The offset is a sum
/// of numbers with units; a month has 30 days, a year 365. Case, spaces, commas and underscores do not matter.
///
/// # Errors
///
/// [`InvalidTime`] with the text and the reason.
///
/// ```
/// use metrics_server::graphite::{TimeZone, parse_time};
///
/// let now = 1150864247; // 2006-06-21 04:30:47 UTC
/// assert_eq!(parse_time("-6h", now, &TimeZone::UTC)?, now - 6 * 3600);
/// assert_eq!(parse_time("noon yesterday", now, &TimeZone::UTC)?, 1150804800);
/// # Ok::<(), metrics_server::graphite::InvalidTime>(())
/// ```
pub fn parse_time(text: &str, now: i64, tz: &TimeZone) -> Result<i64, InvalidTime> {
    let invalid = |reason| InvalidTime { text: text.chars().take(100).collect(), reason };
    let lower: String = text
        .chars()
        .filter(|&c| !c.is_whitespace() && c != '_' && c != ',')
        .flat_map(char::to_lowercase)
        .collect();
    if !lower.is_empty() && lower.bytes().all(|c| c.is_ascii_digit()) && !is_date(&lower) {
        return lower.parse().ok().filter(|at| *at <= MAX_SECONDS).ok_or(invalid("is too large"));
    }
    let (reference, offset) = lower.split_at(lower.find(['+', '-']).unwrap_or(lower.len()));
    let at = parse_reference(reference, now, tz).map_err(invalid)?;
    let at = at.checked_add(parse_offset(offset).map_err(|error| invalid(error.reason))?);
    at.filter(|at| at.abs() <= MAX_SECONDS).ok_or(invalid("is out of range"))
}

/// Parses an offset, such as `-6h`, `1d12h` or `5min`, to seconds. Without a sign it is positive; an empty text is
/// zero.
pub(super) fn parse_offset(text: &str) -> Result<i64, InvalidTime> {
    let invalid = |reason| InvalidTime { text: text.chars().take(100).collect(), reason };
    let (sign, mut rest) = match text.as_bytes().first() {
        None => return Ok(0),
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        Some(c) if c.is_ascii_digit() => (1, text),
        Some(_) => return Err(invalid("is neither a number nor a sign")),
    };
    let mut seconds = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: i64 = rest[..digits].parse().map_err(|_| invalid("has no number"))?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit = unit_seconds(&rest[..letters]).ok_or(invalid("has an unknown unit"))?;
        rest = &rest[letters..];
        let part = number.checked_mul(unit).ok_or(invalid("is too large"))?;
        seconds = seconds.checked_add(part).ok_or(invalid("is too large"))?;
    }
    if seconds > MAX_SECONDS {
        return Err(invalid("is too large"));
    }
    Ok(sign * seconds)
}

/// Returns the time zone with this IANA name, such as `Europe/Berlin`. Returns `None` for any other name.
#[must_use]
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// The error for text that is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {text:?}: {reason}")]
pub struct InvalidTime {
    text: String,
    reason: &'static str,
}

/// The last second of the year 9999.
const MAX_SECONDS: i64 = 253_402_300_799;

/// Returns true for eight digits that are a date, and not seconds since the epoch.
fn is_date(digits: &str) -> bool {
    digits.len() == 8 && &digits[..4] > "1900" && &digits[4..6] < "13" && &digits[6..] < "32"
}

fn unit_seconds(unit: &str) -> Option<i64> {
    const DAY: i64 = 24 * 60 * 60;
    Some(match unit {
        _ if unit.starts_with('s') => 1,
        _ if unit.starts_with("min") => 60,
        _ if unit.starts_with('h') => 60 * 60,
        _ if unit.starts_with('d') => DAY,
        _ if unit.starts_with('w') => 7 * DAY,
        _ if unit.starts_with("mon") => 30 * DAY,
        _ if unit.starts_with('y') => 365 * DAY,
        _ => return None,
    })
}

fn parse_reference(text: &str, now: i64, tz: &TimeZone) -> Result<i64, &'static str> {
    if matches!(text, "" | "now") {
        return Ok(now);
    }
    let (time, day) = parse_time_of_day(text)?;
    let today = Timestamp::from_second(now).map_err(|_| "is out of range")?;
    let today = tz.to_datetime(today).date();
    let date = parse_day(day, today)?;
    to_seconds(DateTime::from_parts(date, time), tz)
}

/// Returns the second at which a clock in `tz` shows `datetime`; the later one if there are two.
fn to_seconds(datetime: DateTime, tz: &TimeZone) -> Result<i64, &'static str> {
    let at = tz.to_ambiguous_timestamp(datetime).disambiguate(Disambiguation::Later);
    Ok(at.map_err(|_| "is out of range")?.as_second())
}

/// Takes a time of day from the beginning of `text`, and returns it with the rest.
fn parse_time_of_day(text: &str) -> Result<(Time, &str), &'static str> {
    let (mut hour, mut minute, mut rest) = (0, 0, text);
    let number = |text: &str| text.parse::<i8>().map_err(|_| "has an invalid time of day");
    let afternoon = |hour: i8| (hour.clamp(0, 24) + 12) % 24;
    let found = |text: &str, what: &str| text.find(what).filter(|at| (1..3).contains(at));
    if let Some(colon) = found(rest, ":") {
        hour = number(&rest[..colon])?;
        let end = rest.len().min(colon + 3);
        minute = number(rest.get(colon + 1..end).unwrap_or_default())?;
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix("am") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("pm") {
            hour = afternoon(hour);
            rest = after;
        }
    }
    if let Some(at) = found(rest, "am") {
        hour = number(&rest[..at])?;
        rest = &rest[at + 2..];
    }
    if let Some(at) = found(rest, "pm") {
        hour = afternoon(number(&rest[..at])?);
        rest = &rest[at + 2..];
    }
    for (name, at) in [("noon", 12), ("midnight", 0), ("teatime", 16)] {
        if let Some(after) = rest.strip_prefix(name) {
            (hour, minute, rest) = (at, 0, after);
            break;
        }
    }
    let time = Time::new(hour, minute, 0, 0).map_err(|_| "has an invalid time of day")?;
    Ok((time, rest))
}

fn parse_day(text: &str, today: Date) -> Result<Date, &'static str> {
    const INVALID: &str = "has an invalid day";
    let number = |text: &str| text.parse::<i16>().map_err(|_| INVALID);
    let date = |year: i16, month: i16, day: i16| {
        let (month, day) = (i8::try_from(month), i8::try_from(day));
        Date::new(year, month.map_err(|_| INVALID)?, day.map_err(|_| INVALID)?).map_err(|_| INVALID)
    };
    match text {
        "" | "today" => return Ok(today),
        "yesterday" => return today.yesterday().map_err(|_| INVALID),
        "tomorrow" => return today.tomorrow().map_err(|_| INVALID),
        _ => {}
    }
    if let [month, day, year] = text.split('/').collect::<Vec<_>>()[..] {
        let year = match number(year)? {
            year @ 0..70 => 2000 + year,
            year @ 70..1900 => 1900_i16.checked_add(year).ok_or(INVALID)?,
            year @ 1900..1970 => year + 100,
            year => year,
        };
        return date(year, number(month)?, number(day)?);
    }
    if text.len() == 8 && text.bytes().all(|c| c.is_ascii_digit()) {
        return date(number(&text[..4])?, number(&text[4..6])?, number(&text[6..])?);
    }
    let name = text.get(..3).ok_or("is unknown")?;
    if let Some(month) = MONTHS.iter().position(|month| *month == name) {
        let digits = text.len() - text.bytes().rev().take(2).take_while(u8::is_ascii_digit).count();
        return date(today.year(), month as i16 + 1, number(&text[digits..])?);
    }
    if let Some((_, weekday)) = WEEKDAYS.iter().find(|(weekday, _)| *weekday == name) {
        let days = today.weekday().since(*weekday);
        return today.checked_sub(jiff::Span::new().days(days)).map_err(|_| INVALID);
    }
    Err("is unknown")
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Wednesday, 2006-06-21 04:30:47 UTC.
    const NOW: i64 = 1_150_864_247;

    fn utc(text: &str) -> String {
        let at = parse_time(text, NOW, &TimeZone::UTC).unwrap();
        Timestamp::from_second(at).unwrap().to_string()
    }

    #[test]
    fn time_forms_of_graphite_are_parsed() {
        for (text, expected) in [
            ("1150864247", "2006-06-21T04:30:47Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("20060813", "2006-08-13T00:00:00Z"),
            ("18991231", "1970-08-08T19:20:31Z"),
            ("now", "2006-06-21T04:30:47Z"),
            ("", "2006-06-21T04:30:47Z"),
            ("-6h", "2006-06-20T22:30:47Z"),
            ("-1d", "2006-06-20T04:30:47Z"),
            ("now-1d12h", "2006-06-19T16:30:47Z"),
            ("now+5min", "2006-06-21T04:35:47Z"),
            ("-30s", "2006-06-21T04:30:17Z"),
            ("-2 weeks", "2006-06-07T04:30:47Z"),
            ("-1mon", "2006-05-22T04:30:47Z"),
            ("-1y", "2005-06-21T04:30:47Z"),
            ("today", "2006-06-21T00:00:00Z"),
            ("midnight", "2006-06-21T00:00:00Z"),
            ("noon", "2006-06-21T12:00:00Z"),
            ("teatime", "2006-06-21T16:00:00Z"),
            ("noon yesterday", "2006-06-20T12:00:00Z"),
            ("midnight+1h", "2006-06-21T01:00:00Z"),
            ("tomorrow", "2006-06-22T00:00:00Z"),
            ("6pm", "2006-06-21T18:00:00Z"),
            ("6am yesterday", "2006-06-20T06:00:00Z"),
            ("6:05pm yesterday", "2006-06-20T18:05:00Z"),
            ("08:50", "2006-06-21T08:50:00Z"),
            ("08:50_20060813", "2006-08-13T08:50:00Z"),
            ("08/13/06", "2006-08-13T00:00:00Z"),
            ("8/13/1999", "1999-08-13T00:00:00Z"),
            ("08/13/99", "1999-08-13T00:00:00Z"),
            ("17:04_08/13/06", "2006-08-13T17:04:00Z"),
            ("aug13", "2006-08-13T00:00:00Z"),
            ("August 3", "2006-08-03T00:00:00Z"),
            ("noon_jan_2", "2006-01-02T12:00:00Z"),
            ("monday", "2006-06-19T00:00:00Z"),
            ("wed", "2006-06-21T00:00:00Z"),
            ("8:00 Thursday", "2006-06-15T08:00:00Z"),
        ] {
            assert_eq!(utc(text), expected, "{text}");
        }
    }

    #[test]
    fn days_begin_at_midnight_of_the_time_zone() {
        let berlin = time_zone("Europe/Berlin").expect("the machine has a time zone database");
        let at = |text| parse_time(text, NOW, &berlin).unwrap();
        assert_eq!(at("midnight"), NOW - (6 * 3600 + 30 * 60 + 47));
        // Winter time.
        assert_eq!(at("20060115") % 86_400, 23 * 3600);
        // An offset is elapsed time: this day has 25 hours.
        assert_eq!(at("20061030") - at("20061029"), 25 * 3600);
        assert_eq!(at("20061029+1d") - at("20061029"), 24 * 3600);
        // 02:30 does not exist on this day.
        assert_eq!(at("02:30_20060326"), at("03:30_20060326"));
        assert!(time_zone("Nowhere/Else").is_none());
    }

    #[test]
    fn text_that_is_not_a_time_is_an_error() {
        for text in [
            "whenever",
            "-6",
            "-6x",
            "6:",
            "25:00",
            "08/13",
            "13/13/06",
            "feb",
            "feb30",
            "x:30",
            "99999999999999999999",
            "-99999999999999999999h",
            "-9999999999w",
            "+8000y",
            "é",
            "123456x8",
        ] {
            assert!(parse_time(text, NOW, &TimeZone::UTC).is_err(), "{text}");
        }
        let error = parse_time("whenever", NOW, &TimeZone::UTC).unwrap_err();
        assert_eq!(error.to_string(), r#"invalid time "whenever": is unknown"#);
    }

    #[test]
    fn offsets_are_sums_with_a_sign() {
        assert_eq!(parse_offset("1h30min").unwrap(), 5400);
        assert_eq!(parse_offset("-1d").unwrap(), -86_400);
        assert_eq!(parse_offset("").unwrap(), 0);
        assert!(parse_offset("h").is_err() && parse_offset("1").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text in "[a-z0-9:/+_ -]{0,16}", now in any::<i64>()) {
            _ = parse_time(&text, now, &TimeZone::UTC);
        }
    }
}
