//! Points as the payload of a record of the spool.
//!
//! ```text
//! payload = *( key_len:u16 key count:u32 *( timestamp:i64 value:f64 ) )
//! ```
//!
//! Numbers are little-endian. The points are in order, in runs of one key. The timestamp of the record is when
//! the oldest of its points was applied, in milliseconds since 1970.

use metrics_client::{Point, codec::KeyRef};
use metrics_wal::Record;

use crate::store::PutBatch;

/// Encodes the points in place of what `payload` held.
pub(super) fn encode(puts: &PutBatch, payload: &mut Vec<u8>) {
    payload.clear();
    for run in puts.runs() {
        // A key has at most `Key::MAX_LEN` bytes, and a batch some thousand points.
        payload.extend_from_slice(&(run.key.len() as u16).to_le_bytes());
        payload.extend_from_slice(run.key.as_bytes());
        let points = run.points();
        payload.extend_from_slice(&(points.len() as u32).to_le_bytes());
        for Point { value, timestamp } in points {
            payload.extend_from_slice(&timestamp.to_le_bytes());
            payload.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Appends the unread points of a record to `puts`. Returns false if the payload is not that of a record of
/// points; `puts` is then as before.
pub(super) fn decode(record: &Record<'_>, puts: &mut PutBatch) -> bool {
    let mut read = PutBatch::new();
    let is_valid = decode_payload(record.payload, &mut read).is_some();
    if !is_valid || read.len() != record.count as usize {
        return false;
    }
    let unread = record.unread.start.saturating_sub(record.first)
        ..record.unread.end.saturating_sub(record.first);
    if unread == (0..u64::from(record.count)) {
        puts.append(&read);
    } else {
        puts.append(&read.filtered(|index| unread.contains(&(index as u64))));
    }
    true
}

fn decode_payload(mut rest: &[u8], puts: &mut PutBatch) -> Option<()> {
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk()?;
        let (key, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let key = KeyRef::new(str::from_utf8(key).ok()?).ok()?;
        let (count, mut after) = after.split_first_chunk()?;
        for _ in 0..u32::from_le_bytes(*count) {
            let (timestamp, behind) = after.split_first_chunk()?;
            let (value, behind) = behind.split_first_chunk()?;
            let value = f64::from_le_bytes(*value);
            if !value.is_finite() {
                return None;
            }
            puts.push_ref(key, Point::new(value, i64::from_le_bytes(*timestamp)));
            after = behind;
        }
        rest = after;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use metrics_client::Key;

    use super::*;

    fn batch(rows: &[(&str, i64)]) -> PutBatch {
        let mut puts = PutBatch::new();
        for (key, second) in rows {
            puts.push(&Key::new(*key).unwrap(), Point::new(*second as f64 / 8.0, *second));
        }
        puts
    }

    fn record(payload: &[u8], count: u32, unread: std::ops::Range<u64>) -> Record<'_> {
        Record { first: 100, count, latest: 5, unread, payload }
    }

    #[test]
    fn record_is_read_as_written() {
        let rows = [("a", 1), ("a", -2), ("ключ;x=y", i64::MAX), ("a", 1), ("b", i64::MIN)];
        let mut payload = vec![1, 2, 3];
        encode(&batch(&rows), &mut payload);
        let mut read = batch(&[("before", 7)]);
        assert!(decode(&record(&payload, 5, 100..105), &mut read));
        let mut expected = vec![("before", 7)];
        expected.extend(rows);
        let rows: Vec<_> = read.iter().map(|(key, point)| (key, point.timestamp)).collect();
        assert_eq!(rows, expected);
        // The reader has seen the first two, and wants two.
        let mut some = PutBatch::new();
        assert!(decode(&record(&payload, 5, 102..104), &mut some));
        let keys: Vec<_> = some.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["ключ;x=y", "a"]);
    }

    #[test]
    fn damaged_record_is_refused() {
        let mut payload = Vec::new();
        encode(&batch(&[("a", 1), ("bc", 2)]), &mut payload);
        let mut read = PutBatch::new();
        for len in 0..payload.len() {
            assert!(!decode(&record(&payload[..len], 2, 100..102), &mut read), "{len}");
        }
        assert!(!decode(&record(&payload, 3, 100..103), &mut read));
        payload[2] = b' ';
        assert!(!decode(&record(&payload, 2, 100..102), &mut read));
        assert!(read.is_empty());
    }
}
