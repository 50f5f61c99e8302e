//! Encodes and decodes many records of one key at once.

use bytes::{BufMut, BytesMut};

use super::number;
use crate::metric::{Key, KeyRef, Point};

/// Appends `key value timestamp` and a line break for each of `points`.
///
/// Writes the same as [`ServerCodec`](crate::codec::ServerCodec) would for each of them, faster: the text goes into room that is there already, in copies of fixed sizes that reach past what they
/// bring, the key's text is made once, and short decimals and timestamps that follow each other take
/// a quick way.
pub fn encode_records(dst: &mut BytesMut, key: KeyRef<'_>, points: &[Point]) {
    let mut prefix = [0; PREFIX_ROOM];
    prefix[..key.len()].copy_from_slice(key.as_bytes());
    prefix[key.len()] = b' ';
    let prefix_len = key.len() + 1;
    let prefix = &prefix[..prefix_len.next_multiple_of(STEP)];

    let mut at = dst.len();
    dst.put_bytes(0, points.len() * (prefix_len + NUMBERS_ROOM) + STEP);
    let mut timestamp = Timestamp::default();
    for point in points {
        let room = &mut dst[at..];
        for (to, from) in room.chunks_exact_mut(STEP).zip(prefix.chunks_exact(STEP)) {
            to.copy_from_slice(from);
        }
        let numbers = &mut room[prefix_len..prefix_len + NUMBERS_ROOM];
        let mut len = number::write_value(numbers, point.value);
        numbers[len] = b' ';
        len += 1;
        let text = timestamp.text(point.timestamp);
        numbers[len..len + number::MAX_TIMESTAMP_LEN].copy_from_slice(text);
        len += timestamp.len;
        numbers[len] = b'\n';
        at += prefix_len + len + 1;
    }
    dst.truncate(at);
}

/// The text of the last timestamp: of the next one often only two digits are different.
#[derive(Default)]
struct Timestamp {
    text: [u8; number::MAX_TIMESTAMP_LEN],
    len: usize,
    /// The first timestamp that differs in the last two digits only.
    base: Option<i64>,
}

impl Timestamp {
    #[inline]
    fn text(&mut self, timestamp: i64) -> &[u8; number::MAX_TIMESTAMP_LEN] {
        match self.base.and_then(|base| timestamp.checked_sub(base)) {
            Some(rest @ 0..100) => {
                self.text[self.len - 2..self.len]
                    .copy_from_slice(&number::DIGIT_PAIRS[rest as usize]);
            }
            _ => {
                self.len = number::write_timestamp(&mut self.text, timestamp);
                self.base = (timestamp >= 100).then(|| timestamp - timestamp % 100);
            }
        }
        &self.text
    }
}

/// The key is copied in steps of this many bytes, which takes no call.
const STEP: usize = 32;

const PREFIX_ROOM: usize = (Key::MAX_LEN + 1).next_multiple_of(STEP);

/// The most that both numbers, a space and a line break take.
const NUMBERS_ROOM: usize = number::MAX_VALUE_LEN + 1 + number::MAX_TIMESTAMP_LEN + 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::encode::encode_record, *};

    #[track_caller]
    fn check(key: &str, points: &[Point]) {
        let mut one_by_one = BytesMut::from("ok\n");
        let mut at_once = one_by_one.clone();
        for &point in points {
            encode_record(&mut one_by_one, key, point);
        }
        encode_records(&mut at_once, KeyRef::new(key).unwrap(), points);
        let lines = |bytes: &BytesMut| -> Vec<String> {
            String::from_utf8_lossy(bytes).split('\n').map(String::from).collect()
        };
        for (at_once, one_by_one) in lines(&at_once).iter().zip(lines(&one_by_one)) {
            assert_eq!(*at_once, one_by_one);
        }
        assert_eq!(at_once.len(), one_by_one.len());
    }

    #[test]
    fn records_at_once_read_like_records_one_by_one() {
        let values = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            10.0,
            23.7,
            99.99,
            0.0001,
            0.00011,
            1e-5,
            0.3,
            0.1 + 0.2,
            1e10,
            99_999_999_999.0,
            99_999_999_999.999_9,
            1e11,
            1e15,
            1e16,
            1e22,
            123.456_7,
            123.45678,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            0.0101,
            100.001,
            7.25,
        ];
        let timestamps = [
            0,
            1,
            9,
            10,
            99,
            100,
            101,
            199,
            200,
            1_150_864_247,
            1_150_864_299,
            1_150_864_300,
            -1,
            -99,
            -100,
            -101,
            i64::MAX - 7,
            i64::MAX,
            i64::MIN,
            i64::MIN + 1,
            1_150_864_247,
        ];
        let mut points = Vec::new();
        for timestamp in timestamps {
            points.extend(values.map(|value| Point::new(value, timestamp)));
        }
        for value in values {
            points.extend(timestamps.map(|timestamp| Point::new(-value, timestamp)));
        }
        for len in [1, 30, 31, 32, 33, 63, 64, 1000, Key::MAX_LEN] {
            check(&"k".repeat(len), &points);
        }
        check("ключ", &points[..1]);
        check("none", &[]);
    }

    proptest! {
        #[test]
        fn any_records_at_once_read_like_records_one_by_one(
            points in prop::collection::vec(
                (prop_oneof![any::<i64>(), 0i64..1000], prop_oneof![
                    any::<f64>(),
                    (-1_000_000_000i64..1_000_000_000, 0..6).prop_map(|(m, e)| m as f64 / 10f64.powi(e)),
                ])
                    .prop_map(|(timestamp, value)| Point::new(value, timestamp)),
                0..50,
            ),
            len in 1usize..100,
        ) {
            check(&"k".repeat(len), &points);
        }
    }
}
