//! Numbers as most fields have them, read in one pass.

use metrics_client::internal::number::parse_value;

/// Reads a decimal, or an integer (`3i`) that an f64 has exactly, up to the end of the field. Returns it with its
/// length.
#[inline]
pub(super) fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (mut digits, mut len, mut point) = (0_u64, start, None);
    while let Some(&byte) = text.get(len) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b'.' && point.is_none() {
            point = Some(len);
        } else {
            break;
        }
        len += 1;
    }
    let count = len - start - usize::from(point.is_some());
    let is_end = |at: usize| matches!(text.get(at), None | Some(b',' | b' '));
    // No more than 19 digits fit into the integer.
    if count == 0 || count > 19 || digits > 1 << f64::MANTISSA_DIGITS {
        let is_decimal = count > 0 && is_end(len);
        return parse_value(&text[..len]).filter(|_| is_decimal).map(|value| (value, len));
    }
    let size = match point {
        // Both are exact, so the quotient is rounded once (Clinger, 1990).
        Some(point) => digits as f64 / POWERS_OF_TEN[len - point - 1],
        None => digits as f64,
    };
    let is_integer = point.is_none() && text.get(len) == Some(&b'i');
    let len = len + usize::from(is_integer);
    // An integer has no negative zero.
    let value = if negative && !(is_integer && digits == 0) { -size } else { size };
    is_end(len).then_some((value, len))
}

/// Those that an f64 has exactly, as far as they are needed.
const POWERS_OF_TEN: [f64; 20] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19,
];
