//! Records of one key, many at once: what most of a server's answers consist of.

use bytes::{BufMut, BytesMut};

use super::number;
use crate::metric::{Key, Point};

/// Appends `key value timestamp` and a line break for each of `points`.
///
/// Says the same as [`encode_record`](super::request::encode_record) for each of them, faster: the
/// text goes into room that is there already, in copies of fixed sizes that reach past what they
/// bring, the key's text is made once, and short decimals and timestamps that follow each other take
/// a quick way.
pub(crate) fn encode_records(dst: &mut BytesMut, key: &str, points: &[Point]) {
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
        let mut len = write_value(numbers, point.value);
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

/// Writes a value at the beginning of `dst` and says how long it is.
#[inline]
fn write_value(dst: &mut [u8], value: f64) -> usize {
    let size = value.abs();
    // A decimal of at most 15 digits that reads back to the same f64 is the shortest that does: no
    // two of them read to the same one (IEEE 754, `DBL_DIG`).
    let scaled = (size * FRACTION as f64 + 0.5) as u64;
    if scaled >= MAX_SCALED || scaled as f64 / FRACTION as f64 != size {
        let text = number::Number(value).to_string();
        dst[..text.len()].copy_from_slice(text.as_bytes());
        return text.len();
    }
    dst[0] = b'-';
    let mut len = usize::from(value.is_sign_negative());
    len += write_integer(&mut dst[len..], scaled / FRACTION);
    let fraction = (scaled % FRACTION) as usize;
    let (high, low) = (PAIRS[fraction / 100], PAIRS[fraction % 100]);
    dst[len..len + 5].copy_from_slice(&[b'.', high[0], high[1], low[0], low[1]]);
    let zeros = match (high, low) {
        ([_, b'0'], [b'0', b'0']) => 3,
        (_, [b'0', b'0']) => 2,
        (_, [_, b'0']) => 1,
        _ => 0,
    };
    len + 5 - zeros
}

/// Writes a number below 10^11 at the beginning of `dst` and says how long it is.
#[inline]
fn write_integer(dst: &mut [u8], mut number: u64) -> usize {
    let len = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut end = len;
    while end >= 2 {
        dst[end - 2..end].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
        end -= 2;
    }
    if end == 1 {
        dst[0] = b'0' + number as u8;
    }
    len
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
                self.text[self.len - 2..self.len].copy_from_slice(&PAIRS[rest as usize]);
            }
            _ => {
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(timestamp);
                self.text[..digits.len()].copy_from_slice(digits.as_bytes());
                self.len = digits.len();
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

/// Four decimal places: what most measurements have at most.
const FRACTION: u64 = 10_000;

/// Fifteen digits.
const MAX_SCALED: u64 = 1_000_000_000_000_000;

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::request::encode_record, *};

    #[track_caller]
    fn check(key: &str, points: &[Point]) {
        let mut one_by_one = BytesMut::from("ok\n");
        let mut at_once = one_by_one.clone();
        for &point in points {
            encode_record(&mut one_by_one, key, point);
        }
        encode_records(&mut at_once, key, points);
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
            points.extend(values.map(|value| Point::new(timestamp, value)));
        }
        for value in values {
            points.extend(timestamps.map(|timestamp| Point::new(timestamp, -value)));
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
                    .prop_map(|(timestamp, value)| Point::new(timestamp, value)),
                0..50,
            ),
            len in 1usize..100,
        ) {
            check(&"k".repeat(len), &points);
        }
    }
}
