//! The values that are sent, short ones and long ones.

/// Returns a reading as sensors have it, with two decimals: always five bytes of text.
#[inline]
pub(crate) fn reading(number: u64) -> f64 {
    (1_001 + 10 * (number % 900)) as f64 / 100.0
}

/// Returns a value as a computation leaves it: mostly sixteen or seventeen digits.
pub(crate) fn computed(number: u64) -> f64 {
    (number as f64 + 2.0).sqrt()
}
