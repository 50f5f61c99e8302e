//! Rows in ClickHouse's format `RowBinary`.

use bytes::{Buf, BufMut};
use metrics_client::Point;

/// Appends a row of points.
pub(super) fn put_point(rows: &mut Vec<u8>, key: &str, point: Point, version: u64) {
    put_string(rows, key);
    rows.put_i64_le(point.timestamp);
    rows.put_f64_le(point.value);
    rows.put_u64_le(version);
}

/// Appends a row of keys; the earliest version has the greatest inverse.
pub(super) fn put_key(rows: &mut Vec<u8>, key: &str, version: u64) {
    put_string(rows, key);
    rows.put_u64_le(u64::MAX - version);
}

fn put_string(rows: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    while len >= 0x80 {
        rows.put_u8(len as u8 | 0x80);
        len >>= 7;
    }
    rows.put_u8(len as u8);
    rows.put_slice(text.as_bytes());
}

/// Takes a string and `fixed` bytes from the front. Returns `None` if they are not all there.
///
/// # Errors
///
/// If the string is longer than any key.
pub(super) fn take_row<'a>(
    bytes: &mut &'a [u8],
    fixed: usize,
) -> Result<Option<RowParts<'a>>, NotARow> {
    let rest = *bytes;
    let (len, varint) = match rest {
        [] | [0x80..=0xff] => return Ok(None),
        [len @ ..0x80, ..] => (usize::from(*len), 1),
        [low, high @ ..0x80, ..] => (usize::from(*high) << 7 | usize::from(*low & 0x7f), 2),
        _ => return Err(NotARow),
    };
    let Some(row) = rest.get(varint..varint + len + fixed) else { return Ok(None) };
    *bytes = &rest[varint + len + fixed..];
    Ok(Some(row.split_at(len)))
}

/// The string and the bytes behind it.
pub(super) type RowParts<'a> = (&'a [u8], &'a [u8]);

/// Bytes that cannot begin a row.
#[derive(Debug)]
pub(super) struct NotARow;

/// Reads the second and the value of a row.
pub(super) fn point(mut fixed: &[u8]) -> Point {
    let timestamp = fixed.get_i64_le();
    Point { value: fixed.get_f64_le(), timestamp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_written() {
        let long = "k".repeat(1024);
        let values = [0.1, -0.0, 5e-324, f64::MAX, f64::from_bits(0x3ff0_0000_0000_0001)];
        let mut rows = Vec::new();
        for (at, value) in (i64::MIN..).zip(values) {
            put_point(&mut rows, &long, Point::new(value, at), 7);
            put_point(&mut rows, "a", Point::new(value, i64::MAX), 8);
        }
        let mut rest = &rows[..];
        for (at, value) in (i64::MIN..).zip(values) {
            for (key, at) in [(&*long, at), ("a", i64::MAX)] {
                let (found, fixed) = take_row(&mut rest, 24).unwrap().unwrap();
                assert_eq!(found, key.as_bytes());
                let found = point(fixed);
                assert_eq!((found.value.to_bits(), found.timestamp), (value.to_bits(), at));
            }
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn incomplete_row_waits_for_the_rest() {
        let mut rows = Vec::new();
        put_point(&mut rows, &"k".repeat(300), Point::new(0.5, 1), 7);
        for end in 0..rows.len() {
            let mut part = &rows[..end];
            assert!(take_row(&mut part, 24).unwrap().is_none());
            assert_eq!(part.len(), end);
        }
        assert!(take_row(&mut &[0xff, 0xff, 0x01][..], 24).is_err());
    }
}
