//! Times in requests: seconds since 1970, `now`, or a time before now such as `-6h`.

/// Reads a time; `now` is the second to which relative times refer.
pub(super) fn parse(text: &str, now: i64) -> Option<i64> {
    if text == "now" {
        return Some(now);
    }
    let unit = match text.as_bytes() {
        [b'-', .., b's'] => 1,
        [b'-', .., b'm'] => 60,
        [b'-', .., b'h'] => 3600,
        [b'-', .., b'd'] => 24 * 3600,
        [b'-', .., b'w'] => 7 * 24 * 3600,
        _ => return text.parse().ok(),
    };
    let count: i64 = text[1..text.len() - 1].parse().ok().filter(|&count| count >= 0)?;
    now.checked_sub(count.checked_mul(unit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_relative() {
        for (text, expected) in [
            ("now", Some(100_000)),
            ("-90s", Some(99_910)),
            ("-1m", Some(99_940)),
            ("-2h", Some(92_800)),
            ("-1d", Some(13_600)),
            ("-1w", Some(-504_800)),
            ("1150864247", Some(1150864247)),
            ("-5", Some(-5)),
            ("--5s", None),
            ("-s", None),
            ("-é", None),
            ("-9223372036854775807w", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse(text, 100_000), expected, "{text}");
        }
    }
}
