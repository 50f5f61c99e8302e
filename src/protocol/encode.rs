//! Encodes requests and records.

use bytes::{BufMut, BytesMut};

use super::{error::NonFiniteValue, number};
use crate::metric::{Key, Point, Selector};

/// Appends a `put`. The key must have been checked, and the value be finite.
#[inline(always)]
pub(crate) fn encode_put(dst: &mut BytesMut, key: &str, point: Point) {
    debug_assert!(Key::validate(key).is_ok() && point.value.is_finite());
    dst.reserve(5 + record_len(key));
    dst.put_slice(b"put ");
    put_record(dst, key, point);
}

/// Appends a `get`.
pub(crate) fn encode_get(dst: &mut BytesMut, selector: &Selector) {
    let selector = selector.as_str();
    dst.reserve(5 + selector.len());
    dst.put_slice(b"get ");
    dst.put_slice(selector.as_bytes());
    dst.put_u8(b'\n');
}

/// Appends `key value timestamp` and a line break: a record of an answer, or the data of a `put`.
#[inline]
pub(crate) fn encode_record(dst: &mut BytesMut, key: &str, point: Point) {
    dst.reserve(record_len(key));
    put_record(dst, key, point);
}

/// The most that a record of `key` can take.
#[inline]
fn record_len(key: &str) -> usize {
    key.len() + NUMBERS_LEN
}

#[inline(always)]
fn put_record(dst: &mut BytesMut, key: &str, point: Point) {
    dst.put_slice(key.as_bytes());
    // The numbers are written where they belong, into room that is cut back to what they took.
    let start = dst.len();
    dst.put_slice(&[b' '; NUMBERS_LEN]);
    let len = write_numbers(&mut dst[start..start + NUMBERS_LEN], point);
    dst.truncate(start + len);
}

/// Writes ` value timestamp` and a line break over the blanks that `room` begins with, and says how
/// long that is.
#[inline(always)]
fn write_numbers(room: &mut [u8], point: Point) -> usize {
    let mut len = 1 + number::write_value(&mut room[1..], point.value);
    room[len] = b' ';
    len += 1;
    len += number::write_timestamp(&mut room[len..], point.timestamp);
    room[len] = b'\n';
    len + 1
}

/// The text that follows the key in a `put`, of a finite value, formatted before there is a buffer to
/// append it to.
#[derive(Debug)]
pub(crate) struct PutSuffix {
    text: [u8; NUMBERS_LEN],
    len: usize,
}

impl PutSuffix {
    #[inline]
    pub(crate) fn new(key: &str, point: Point) -> Result<Self, NonFiniteValue> {
        NonFiniteValue::ensure_finite(key, point.value)?;
        let mut text = [b' '; NUMBERS_LEN];
        let len = write_numbers(&mut text, point);
        Ok(Self { text, len })
    }

    /// Appends the `put` of `key`, which must be valid.
    #[inline]
    pub(crate) fn append_put(&self, dst: &mut BytesMut, key: &str) {
        debug_assert!(Key::validate(key).is_ok());
        dst.reserve(5 + record_len(key));
        dst.put_slice(b"put ");
        dst.put_slice(key.as_bytes());
        dst.put_slice(&self.text[..self.len]);
    }
}

/// The length of the longest request, in bytes, with its line break.
pub const MAX_REQUEST_LEN: usize = "put ".len() + Key::MAX_LEN + NUMBERS_LEN;

/// The most that a space, a value, a space, a timestamp and a line break take.
const NUMBERS_LEN: usize = number::MAX_VALUE_LEN + number::MAX_TIMESTAMP_LEN + 3;
