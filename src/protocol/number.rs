//! Numbers as text: printed as Python's `repr` prints them, read in every form that servers send.

use std::fmt;

/// The longest text of an f64 in this form: `-2.2250738585072014e-308`.
pub const MAX_VALUE_LEN: usize = 24;
/// The longest text of an i64: `-9223372036854775808`.
pub const MAX_TIMESTAMP_LEN: usize = 20;

/// A value that displays itself as Python's `repr` would: `10.0`, `1e-05`, `1e+22`, `-0.0`, `nan`.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ValueText::new().of(self.0))
    }
}

/// Writes a value at the beginning of `dst` and says how long it is. It may write something behind
/// it, within [`MAX_VALUE_LEN`].
#[inline]
pub fn write_value(dst: &mut [u8], value: f64) -> usize {
    let size = value.abs();
    // A decimal of at most 15 digits that reads back to the same f64 is the shortest that does: no
    // two of them read to the same one (IEEE 754, `DBL_DIG`).
    let scaled = (size * SCALE + 0.5) as i64;
    if scaled >= MAX_SCALED || scaled as f64 / SCALE != size {
        return write_any_value(dst, value);
    }
    let scaled = scaled as u64;
    let (high, digits) = (scaled / EIGHT_DIGITS, format_eight_digits(scaled % EIGHT_DIGITS));
    // Of these eight digits four are whole; the first digit is in the lowest byte.
    let (whole, fraction) = (digits as u32, (digits >> 32) as u32);
    dst[0] = b'-';
    let mut len = usize::from(value.is_sign_negative());
    let zeros_before = if high == 0 {
        (whole.trailing_zeros() / 8).min(3)
    } else {
        len += write_leading_digits(&mut dst[len..], high);
        0
    };
    let whole = (whole | ASCII_ZEROS as u32) >> (8 * zeros_before);
    dst[len..len + 4].copy_from_slice(&whole.to_le_bytes());
    len += 4 - zeros_before as usize;
    dst[len] = b'.';
    let zeros_behind = (fraction.leading_zeros() / 8).min(3) as usize;
    let fraction = fraction | ASCII_ZEROS as u32;
    dst[len + 1..len + 5].copy_from_slice(&fraction.to_le_bytes());
    len + 5 - zeros_behind
}

/// Writes a value of whatever size and length.
fn write_any_value(dst: &mut [u8], value: f64) -> usize {
    if is_python_form(value) {
        write_text(dst, zmij::Buffer::new().format_finite(value))
    } else {
        write_text(dst, ValueText::new().of(value))
    }
}

#[inline]
fn write_text(dst: &mut [u8], text: &str) -> usize {
    let text = text.as_bytes();
    let len = text.len();
    if let (Some(first), Some(last)) = (text.first_chunk::<16>(), text.last_chunk::<16>()) {
        // Copies of a length that is known beforehand take no call.
        dst[len - 16..len].copy_from_slice(last);
        dst[..16].copy_from_slice(first);
    } else {
        dst[..len].copy_from_slice(text);
    }
    len
}

/// Whether zmij prints a value as Python does, which a test holds against Python itself.
#[inline]
fn is_python_form(value: f64) -> bool {
    let size = value.abs();
    (ValueText::SMALL..f64::INFINITY).contains(&size) || size == 0.0
}

/// Writes a timestamp at the beginning of `dst` and says how long it is.
#[inline(always)] // Left to itself, the compiler calls it: 13 of 275 instructions for a put.
pub fn write_timestamp(dst: &mut [u8], timestamp: i64) -> usize {
    dst[0] = b'-';
    let sign = usize::from(timestamp < 0);
    sign + write_integer(&mut dst[sign..], timestamp.unsigned_abs())
}

/// Writes a number at the beginning of `dst` and says how long it is. It may write something behind
/// it, within eight bytes of its beginning.
#[inline(always)]
fn write_integer(dst: &mut [u8], number: u64) -> usize {
    if number < EIGHT_DIGITS {
        return write_leading_digits(dst, number);
    }
    let (high, low) = (number / EIGHT_DIGITS, number % EIGHT_DIGITS);
    let len = if high < EIGHT_DIGITS {
        write_leading_digits(dst, high)
    } else {
        let len = write_leading_digits(dst, high / EIGHT_DIGITS);
        len + write_eight_digits(&mut dst[len..], high % EIGHT_DIGITS)
    };
    len + write_eight_digits(&mut dst[len..], low)
}

/// Writes at most eight digits, without zeros before them.
#[inline]
fn write_leading_digits(dst: &mut [u8], number: u64) -> usize {
    // What a timestamp of these centuries has in front of its last eight digits.
    if (10..100).contains(&number) {
        dst[..2].copy_from_slice(&DIGIT_PAIRS[number as usize]);
        return 2;
    }
    let digits = format_eight_digits(number);
    let zeros = (digits.trailing_zeros() / 8).min(7);
    dst[..8].copy_from_slice(&((digits | ASCII_ZEROS) >> (8 * zeros)).to_le_bytes());
    8 - zeros as usize
}

/// Writes eight digits, whatever they are.
#[inline]
fn write_eight_digits(dst: &mut [u8], number: u64) -> usize {
    dst[..8].copy_from_slice(&(format_eight_digits(number) | ASCII_ZEROS).to_le_bytes());
    8
}

/// The eight digits of a number, the first one in the lowest byte, without a division for each
/// (P. Khuong, "How to print integers really fast", 2017).
#[inline]
fn format_eight_digits(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007F_0000_007F;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    tens | ((twos - 10 * tens) << 8)
}

/// What has nine digits at least begins here.
const EIGHT_DIGITS: u64 = 100_000_000;

const ASCII_ZEROS: u64 = 0x3030_3030_3030_3030;

/// Four decimal places: what most measurements have at most.
const SCALE: f64 = 10_000.0;

/// Fifteen digits.
const MAX_SCALED: i64 = 1_000_000_000_000_000;

/// `00` to `99`.
pub(crate) const DIGIT_PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Room for the text of one value.
struct ValueText {
    digits: zmij::Buffer,
    small: [u8; MAX_VALUE_LEN],
}

impl ValueText {
    /// Below this, and above zero, Python writes an exponent.
    const SMALL: f64 = 1e-4;

    #[inline]
    fn new() -> Self {
        Self { digits: zmij::Buffer::new(), small: [0; MAX_VALUE_LEN] }
    }

    #[inline]
    fn of(&mut self, value: f64) -> &str {
        if is_python_form(value) {
            self.digits.format_finite(value)
        } else if value.is_finite() {
            self.exponential(value)
        } else if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
    }

    /// The text of a value nearer to zero than [`Self::SMALL`].
    fn exponential(&mut self, value: f64) -> &str {
        let text = self.digits.format_finite(value);
        let (sign, size) = text.strip_prefix('-').map_or(("", text), |size| ("-", size));
        let parts = if let Some(digits) = size.strip_prefix("0.0000") {
            // zmij goes one decimal place further than Python before it writes an exponent.
            let (first, rest) = digits.split_at(1);
            [sign, first, if rest.is_empty() { "" } else { "." }, rest, "e-05"]
        } else if let Some((mantissa, exponent)) = size.split_once("e-")
            && exponent.len() == 1
        {
            [sign, mantissa, "e-0", exponent, ""]
        } else {
            return text;
        };
        let mut len = 0;
        for part in parts {
            self.small[len..len + part.len()].copy_from_slice(part.as_bytes());
            len += part.len();
        }
        std::str::from_utf8(&self.small[..len]).expect("these parts are ASCII")
    }
}

/// Reads a whole field as a value, in any form: `10`, `10.0`, `1e+22`, `nan`, `inf`.
#[must_use]
#[inline]
pub fn parse_value(field: &[u8]) -> Option<f64> {
    fast_float2::parse(field).ok()
}

/// Reads the value that `text` begins with, and returns it with its length. `None` if there is no value, or if
/// it is longer than any that is printed.
#[inline]
pub(crate) fn scan_value(text: &[u8]) -> Option<(f64, usize)> {
    fast_float2::parse_partial(text).ok().filter(|&(_, len)| len <= MAX_VALUE_LEN)
}

/// Reads a whole field as a timestamp.
#[must_use]
pub fn parse_timestamp(field: &[u8]) -> Option<i64> {
    match scan_integer(field) {
        Some((timestamp, len)) if len == field.len() => Some(timestamp),
        _ => std::str::from_utf8(field).ok()?.parse().ok(),
    }
}

/// Reads the integer that `text` begins with, if it has at most 18 digits.
#[inline]
pub(crate) fn scan_integer(text: &[u8]) -> Option<(i64, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (size, len) = scan_digits(&text[start..]);
    if len == 0 || len > 18 {
        return None;
    }
    let size = size as i64;
    Some((if negative { -size } else { size }, start + len))
}

/// Reads the digits that `text` begins with. The number wraps if they are too many: the caller
/// looks at how many there were.
#[inline]
fn scan_digits(text: &[u8]) -> (u64, usize) {
    let (mut number, mut len) = match text.first_chunk().and_then(parse_eight_digits) {
        Some(number) => (number, 8),
        None => (0, 0),
    };
    while let Some(digit) =
        text.get(len).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10)
    {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        len += 1;
    }
    (number, len)
}

/// The number that eight bytes spell, if all are digits, in three multiplications (D. Lemire,
/// "Quickly parsing eight digits", 2018).
#[inline]
fn parse_eight_digits(text: &[u8; 8]) -> Option<u64> {
    let text = u64::from_le_bytes(*text);
    let digits = text.wrapping_sub(0x3030_3030_3030_3030);
    let not_digits = (text.wrapping_add(0x4646_4646_4646_4646) | digits) & 0x8080_8080_8080_8080;
    if not_digits != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let first = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let second = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some(first.wrapping_add(second) >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_print_as_python_prints_them() {
        for (value, text) in [
            (10.0, "10.0"),
            (4_200_000.0, "4200000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.2345e-7, "-1.2345e-07"),
            (1e-10, "1e-10"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (1e22, "1e+22"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(Number(value).to_string(), text);
            assert!(text.len() <= MAX_VALUE_LEN);
        }
    }

    #[test]
    fn values_are_read_in_every_form_seen() {
        for (text, value) in [
            ("10", 10.0),
            ("10.0", 10.0),
            ("-23.7", -23.7),
            ("+1", 1.0),
            ("1e+22", 1e22),
            ("1e-05", 1e-5),
            ("inf", f64::INFINITY),
            ("-inf", f64::NEG_INFINITY),
            ("0.1", 0.1),
            ("123456789.123456", 123_456_789.123_456),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("0.30000000000000004", 0.300_000_000_000_000_04),
            ("5.", 5.0),
            (".5", 0.5),
        ] {
            assert_eq!(parse_value(text.as_bytes()), Some(value), "{text}");
        }
        assert!(parse_value(b"nan").is_some_and(f64::is_nan));
        assert!(parse_value(b"-0.0").is_some_and(|zero| zero == 0.0 && zero.is_sign_negative()));
        for text in ["", "-", ".", "1.0.0", "1_0", "0x10", "1e", "\u{661}", "1 ", "12345678x"] {
            assert_eq!(parse_value(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn timestamps_are_read_to_the_ends_of_their_range() {
        for timestamp in [0, -1, 1_150_864_247, i64::MAX, i64::MIN, 99_999_999, 100_000_000] {
            assert_eq!(parse_timestamp(timestamp.to_string().as_bytes()), Some(timestamp));
        }
        for text in ["", "-", "1.5", "1e3", "9223372036854775808", "12345678 ", "1_0"] {
            assert_eq!(parse_timestamp(text.as_bytes()), None, "{text}");
        }
    }

    /// Holds the reading of `text` against std's.
    #[track_caller]
    fn check_value(text: &str) {
        let (ours, std) = (parse_value(text.as_bytes()), text.parse().ok());
        assert_eq!(ours.map(f64::to_bits), std.map(f64::to_bits), "{text}");
    }

    proptest! {
        #[test]
        fn values_are_read_as_std_reads_them(
            value in any::<f64>(),
            odd in (1u64 << 53)..(1 << 54),
            text in "[+-]?([0-9]{0,30}\\.?[0-9]{0,30}|[0-9]{700,900})([eE][+-]?[0-9]{0,4})?",
            word in "[+-]?(?i:inf|infinity|nan|infinit|in|na)[0-9a-z]?",
            noise in "[-+.eE0-9infaty_, x\u{661}]{0,12}",
        ) {
            check_value(&value.to_string());
            check_value(&format!("{value:e}"));
            check_value(&format!("{value:.20}"));
            // Half way between two of f64.
            check_value(&(odd | 1).to_string());
            check_value(&format!("{}.{}", odd | 1, "0".repeat(800)));
            check_value(&format!("{}.{}1", odd | 1, "0".repeat(800)));
            for text in [text, word, noise] {
                check_value(&text);
            }
        }
    }

    /// Holds what is written against what is shown.
    #[track_caller]
    fn check_written(value: f64, timestamp: i64) {
        let mut text = [0; MAX_VALUE_LEN];
        let len = write_value(&mut text, value);
        assert_eq!(std::str::from_utf8(&text[..len]), Ok(&*Number(value).to_string()));
        let mut text = [0; MAX_TIMESTAMP_LEN];
        let len = write_timestamp(&mut text, timestamp);
        assert_eq!(std::str::from_utf8(&text[..len]), Ok(&*timestamp.to_string()));
    }

    #[test]
    fn numbers_of_any_length_are_written_as_they_are_shown() {
        for digits in 0..19 {
            let power = 10i64.pow(digits);
            for number in [power - 1, power, power + 1, 11 * (power / 10), power / 9] {
                for decimals in 0..6 {
                    let value = number as f64 / 10f64.powi(decimals);
                    check_written(value, number);
                    check_written(-value, -number);
                }
            }
        }
        check_written(f64::NAN, i64::MAX);
        check_written(f64::NEG_INFINITY, i64::MIN);
        check_written(f64::INFINITY, 0);
        check_written(-0.0, 0);
    }

    proptest! {
        #[test]
        fn any_numbers_are_written_as_they_are_shown(
            value in any::<f64>(),
            number in any::<i64>(),
            bits in 0..64u32,
            decimals in 0..8,
        ) {
            check_written(value, number);
            let number = number >> bits;
            check_written(number as f64 / 10f64.powi(decimals), number);
        }
    }
}
