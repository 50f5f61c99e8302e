//! The payload of a log record: puts of one or more batches, in order.
//!
//! ```text
//! payload = run*
//! run     = key_len:varint key count:varint put*count
//! put     = second:varint (zigzag difference to the put before) value:f64
//! ```
//!
//! Each record stands alone: a damaged one costs no other. The log checks the CRC.

use metrics_client::{Key, Point, codec::KeyRef};

use crate::store::PutBatch;

/// Appends the puts of a batch to a payload. `previous` is the second of the last put in the payload, at
/// first 0.
pub(super) fn encode(puts: &PutBatch, previous: &mut i64, payload: &mut Vec<u8>) {
    for run in puts.runs() {
        write_varint(run.key.len() as u64, payload);
        payload.extend_from_slice(run.key.as_bytes());
        write_varint(run.points().len() as u64, payload);
        for Point { timestamp, value, .. } in run.points() {
            let difference = timestamp.wrapping_sub(*previous);
            write_varint(((difference << 1) ^ (difference >> 63)) as u64, payload);
            payload.extend_from_slice(&value.to_le_bytes());
            *previous = timestamp;
        }
    }
}

/// Reads the puts of a payload. Returns `None` if they are invalid.
pub(super) fn decode(mut payload: &[u8]) -> Option<PutBatch> {
    let mut puts = PutBatch::new();
    let mut previous = 0i64;
    while !payload.is_empty() {
        let len = usize::try_from(read_varint(&mut payload)?).ok()?;
        let (key, rest) = payload.split_at_checked(len)?;
        let key = Key::new(std::str::from_utf8(key).ok()?).ok()?;
        payload = rest;
        for _ in 0..read_varint(&mut payload)? {
            let zigzag = read_varint(&mut payload)?;
            let difference = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            previous = previous.wrapping_add(difference);
            let (value, rest) = payload.split_first_chunk::<8>()?;
            payload = rest;
            let value = f64::from_le_bytes(*value);
            if !value.is_finite() {
                return None;
            }
            puts.push_ref(KeyRef::from(&key), Point { timestamp: previous, value });
        }
    }
    Some(puts)
}

fn write_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&[byte], rest) = bytes.split_first_chunk::<1>()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_mul(1 << shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Decodes any bytes as the payload of a record: the body of a fuzz target.
///
/// # Panics
///
/// If decoded puts are not encoded to a payload that is decoded to the same puts.
#[doc(hidden)]
pub fn fuzz(payload: &[u8]) {
    let Some(puts) = decode(payload) else { return };
    let (mut previous, mut encoded) = (0, Vec::new());
    encode(&puts, &mut previous, &mut encoded);
    let again = decode(&encoded).map(|puts| bits(&puts));
    assert_eq!(again, Some(bits(&puts)), "a record is not decoded to what was encoded");
}

fn bits(puts: &PutBatch) -> Vec<(String, i64, u64)> {
    puts.iter().map(|(key, point)| (key.into(), point.timestamp, point.value.to_bits())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn puts_are_decoded_as_they_were_encoded(
            batches in prop::collection::vec(
                prop::collection::vec(("[a-cé]{1,3}", any::<i64>(), -1e9f64..1e9), 0..20),
                0..4,
            ),
        ) {
            let (mut previous, mut payload, mut expected) = (0, Vec::new(), Vec::new());
            for batch in batches {
                let mut puts = PutBatch::new();
                for (key, second, value) in batch {
                    puts.push(&Key::new(&key).unwrap(), Point { timestamp: second, value });
                }
                encode(&puts, &mut previous, &mut payload);
                expected.extend(bits(&puts));
            }
            prop_assert_eq!(decode(&payload).map(|puts| bits(&puts)), Some(expected));
            // Cut at any byte, it is shorter or invalid.
            for len in 0..payload.len() {
                fuzz(&payload[..len]);
            }
        }

        #[test]
        fn any_payload_is_decoded_or_invalid(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            fuzz(&payload);
        }
    }
}
