//! Samples as the payload of a record of the log.
//!
//! ```text
//! payload = *( key_len:u16  key  timestamp:i64  value:f64 )
//! ```
//!
//! Numbers are little-endian. Each sample is one entry of the log, and a record's timestamp is the latest
//! of its samples.

use metrics_wal::{RECORD_HEADER_BYTES, Record};

use crate::metric::{Key, Point, Sample};

/// The longest record, its header included, some 700 samples: this is lost if one of its bits is damaged.
pub(super) const MAX_RECORD_BYTES: usize = 32 * 1024;

/// What a sample takes beside its key.
const FIXED_LEN: usize = 2 + 8 + 8;

/// Encodes as many of the samples as one record may hold, in place of what `payload` held. Returns how many
/// those are, and the latest timestamp among them.
pub(super) fn encode(samples: &[Sample], payload: &mut Vec<u8>) -> (u32, i64) {
    payload.clear();
    let (mut count, mut latest) = (0, i64::MIN);
    for Sample { key, point } in samples {
        if RECORD_HEADER_BYTES + payload.len() + FIXED_LEN + key.as_str().len() > MAX_RECORD_BYTES {
            break;
        }
        // A key has at most `Key::MAX_LEN` bytes.
        payload.extend_from_slice(&(key.as_str().len() as u16).to_le_bytes());
        payload.extend_from_slice(key.as_str().as_bytes());
        payload.extend_from_slice(&point.timestamp.to_le_bytes());
        payload.extend_from_slice(&point.value.to_le_bytes());
        latest = latest.max(point.timestamp);
        count += 1;
    }
    (count, latest)
}

/// Appends the unread samples of a record to `samples`. Returns false if the payload is not that of a
/// record of samples.
pub(super) fn decode(record: &Record<'_>, samples: &mut Vec<Sample>) -> bool {
    let before = samples.len();
    let is_valid = decode_payload(record.payload, samples).is_some()
        && samples.len() - before == record.count as usize;
    let skipped = record.unread.start.saturating_sub(record.first);
    let wanted = record.unread.end.saturating_sub(record.unread.start);
    match (usize::try_from(skipped), usize::try_from(wanted)) {
        (Ok(skipped), Ok(wanted)) if is_valid && skipped <= samples.len() - before => {
            samples.drain(before..before + skipped);
            samples.truncate(before.saturating_add(wanted));
            true
        }
        _ => {
            samples.truncate(before);
            false
        }
    }
}

fn decode_payload(mut rest: &[u8], samples: &mut Vec<Sample>) -> Option<()> {
    while !rest.is_empty() {
        let len = usize::from(u16::from_le_bytes(array(rest)?));
        let (key, after) = rest[2..].split_at_checked(len)?;
        let key = Key::new(std::str::from_utf8(key).ok()?).ok()?;
        let timestamp = i64::from_le_bytes(array(after)?);
        let value = f64::from_le_bytes(array(after.get(8..)?)?);
        if !value.is_finite() {
            return None;
        }
        samples.push(Sample { key, point: Point::new(value, timestamp) });
        rest = &after[16..];
    }
    Some(())
}

/// Returns the samples that can be read of a segment's bytes, and how many bytes hold none.
pub(super) fn salvage(segment: &[u8]) -> (Vec<Sample>, usize) {
    let mut samples = Vec::new();
    let damaged = metrics_wal::salvage(segment, |record| decode(&record, &mut samples));
    (samples, damaged)
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}
