//! What graphite-web takes from Python's library: `%g`, `str` of a float, slices, and `re.sub`.

use metrics_client::internal::number::Number;
use regex::Regex;

/// Formats a number as `%g`: six significant digits, without trailing zeros.
pub(super) fn format_g(value: f64) -> String {
    if !value.is_finite() {
        return str_of_float(value);
    }
    let text = format!("{value:.5e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return without_zeros(&format!("{value:.decimals$}")).into();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs())
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Formats a float as `str` does: `100.0`, `1e-05`.
pub(super) fn str_of_float(value: f64) -> String {
    Number(value).to_string()
}

/// Returns the index in a list of `len` that a slice's bound stands for: a negative one counts from the end.
pub(super) fn slice_index(bound: i64, len: usize) -> usize {
    let size = usize::try_from(bound.unsigned_abs()).unwrap_or(usize::MAX);
    if bound < 0 { len.saturating_sub(size) } else { size.min(len) }
}

/// Rounds to six decimals, half to even, as `round(value, 6)` does.
pub(super) fn round_6(value: f64) -> f64 {
    const SCALE: f64 = 1e6;
    if !value.is_finite() || value.abs() >= 1e9 {
        return value;
    }
    let scaled = value * SCALE;
    // The product is rounded, so a tie may not be one.
    if (scaled.fract().abs() - 0.5).abs() < 1e-4 {
        return format!("{value:.6}").parse().unwrap_or(value);
    }
    scaled.round() / SCALE
}

/// A replacement of `re.sub`, parsed.
#[derive(Debug)]
pub(super) struct Replacement(Vec<ReplacementPart>);

#[derive(Debug)]
enum ReplacementPart {
    Text(String),
    Group(usize),
    Named(String),
}

impl Replacement {
    /// Parses a replacement: `\1`, `\g<1>` and `\g<name>` are groups.
    pub(super) fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let group = rest.strip_prefix("g<").and_then(|name| name.split_once('>'));
            let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
            let part = if let Some((name, after)) = group {
                rest = after;
                name.parse()
                    .map_or_else(|_| ReplacementPart::Named(name.into()), ReplacementPart::Group)
            } else if digits > 0 {
                let (number, after) = rest.split_at(digits);
                rest = after;
                ReplacementPart::Group(number.parse().unwrap_or(0))
            } else {
                let mut chars = rest.chars();
                match chars.next() {
                    Some('n') => literal.push('\n'),
                    Some('t') => literal.push('\t'),
                    Some('\\') => literal.push('\\'),
                    Some(c) => literal.extend(['\\', c]),
                    None => literal.push('\\'),
                }
                rest = chars.as_str();
                continue;
            };
            if !literal.is_empty() {
                parts.push(ReplacementPart::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        literal.push_str(rest);
        parts.push(ReplacementPart::Text(literal));
        Self(parts)
    }

    /// Replaces every match in `text`. As in Python, an empty match behind another match counts.
    pub(super) fn replace_all(&self, regex: &Regex, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let (mut copied, mut from) = (0, 0);
        while from <= text.len()
            && let Some(captures) = regex.captures_at(text, from)
            && let Some(found) = captures.get(0)
        {
            result.push_str(&text[copied..found.start()]);
            for part in &self.0 {
                match part {
                    ReplacementPart::Text(literal) => result.push_str(literal),
                    ReplacementPart::Group(group) => {
                        result.push_str(captures.get(*group).map_or("", |group| group.as_str()));
                    }
                    ReplacementPart::Named(name) => {
                        result.push_str(captures.name(name).map_or("", |group| group.as_str()));
                    }
                }
            }
            copied = found.end();
            from = copied;
            if found.is_empty() {
                from += text[copied..].chars().next().map_or(1, char::len_utf8);
            }
        }
        result.push_str(&text[copied..]);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_g_has_six_significant_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (2.0, "2"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (100.0, "100"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.23457e+06"),
            (999_999.5, "1e+06"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1.0 / 3.0, "0.333333"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(format_g(value), expected);
        }
    }

    #[test]
    fn replacement_is_that_of_python() {
        let sub = |pattern: &str, replacement: &str, text: &str| {
            Replacement::new(replacement).replace_all(&Regex::new(pattern).unwrap(), text)
        };
        assert_eq!(sub("(^.*$)", r"\1 A", "palm.cpu"), "palm.cpu A");
        assert_eq!(sub(r"(\w+)\.(\w+)", r"\2-\g<1>", "a.b c.d"), "b-a d-c");
        assert_eq!(sub("(?P<x>b)", r"[\g<x>\\]", "abc"), r"a[b\]c");
        assert_eq!(sub(".*", "x", "abc"), "xx");
        assert_eq!(sub("", "-", "aé"), "-a-é-");
        assert_eq!(sub("b", r"$1\9\q", "abc"), r"a$1\qc");
        assert_eq!(sub("z", "x", "abc"), "abc");
    }

    #[test]
    fn rounding_is_half_to_even() {
        assert_eq!(round_6(1.0 / 3.0), 0.333_333);
        assert_eq!(round_6(0.007_812_5), 0.007_812);
        assert_eq!(round_6(-2.0 / 3.0), -0.666_667);
        assert_eq!(round_6(1e300), 1e300);
        assert!(round_6(f64::NAN).is_nan());
    }

    #[test]
    fn slices_count_from_the_end() {
        assert_eq!([0, 2, 9, -1, -9].map(|bound| slice_index(bound, 4)), [0, 2, 4, 3, 0]);
    }
}
