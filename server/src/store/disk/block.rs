//! The format of a block: up to 500 points of one key as bytes.
//!
//! ```text
//! block   = crc:u32  codecs:u8  count:u16  last:i64  generation:u32  seconds  values
//! seconds = step:u64 (constant step) | len:u16 pco | second:i64 *count
//! values  = value:f64 (constant) | pco | value:f64 *count
//! ```
//!
//! Integers are little-endian. The CRC-32 is that of the key id and the first second, which the block is
//! stored under, and of the bytes behind it: a block in the wrong place is damaged too. `codecs` has the
//! codec of the seconds in its upper half, and that of the values in its lower half. `generation` is the
//! number of the transaction that wrote the block: of two copies in a damaged database, the higher is newer.
//!
//! `pco` (<https://docs.rs/pco>) promises that later versions read what earlier ones wrote. What it wrote is
//! decoded and compared bit by bit before it is used.

use metrics_client::Point;
use pco::{
    ChunkConfig,
    standalone::{simple_compress, simple_decompress_into},
};

/// The maximum number of points in a block. Twice as many save 6 % of the space, and double the cost of a
/// point that is put into the middle.
pub(crate) const MAX_POINTS: usize = 500;

/// The bytes of a block are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged block")]
pub(crate) struct Damaged;

/// Encodes points, at least one and at most [`MAX_POINTS`], strictly ascending by timestamp.
pub(crate) fn encode(key: u32, generation: u32, points: &[Point]) -> Vec<u8> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    debug_assert!(points.len() <= MAX_POINTS, "a block has at most {MAX_POINTS} points");
    let mut seconds = Vec::new();
    let seconds_codec = encode_seconds(points, &mut seconds);
    let mut values = Vec::new();
    let values_codec = encode_values(points, &mut values);
    let mut block = Vec::with_capacity(HEADER_BYTES + seconds.len() + values.len());
    block.extend_from_slice(&[0; CRC_BYTES]);
    block.push((seconds_codec << 4) | values_codec);
    block.extend_from_slice(&(points.len() as u16).to_le_bytes());
    block.extend_from_slice(&last.timestamp.to_le_bytes());
    block.extend_from_slice(&generation.to_le_bytes());
    block.extend_from_slice(&seconds);
    block.extend_from_slice(&values);
    let crc = crc(key, first.timestamp, &block[CRC_BYTES..]);
    block[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Returns an intact block with another key id and generation.
pub(crate) fn with_key(block: &[u8], key: u32, first: i64, generation: u32) -> Vec<u8> {
    let mut block = block.to_vec();
    block[HEADER_BYTES - GENERATION_BYTES..HEADER_BYTES].copy_from_slice(&generation.to_le_bytes());
    let crc = crc(key, first, &block[CRC_BYTES..]);
    block[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Returns whether a block is intact that is stored under `key` and its first second, without decoding its
/// points.
pub(crate) fn is_intact(key: u32, first: i64, block: &[u8]) -> bool {
    block.split_first_chunk::<CRC_BYTES>().is_some_and(|(expected, checked)| {
        block.len() >= HEADER_BYTES && crc(key, first, checked) == u32::from_le_bytes(*expected)
    })
}

/// Decodes the block that is stored under `key` and its first second, and appends its points to `points`.
///
/// # Errors
///
/// [`Damaged`], and then `points` are as before.
pub(crate) fn decode(
    key: u32,
    first: i64,
    block: &[u8],
    points: &mut Vec<Point>,
) -> Result<(), Damaged> {
    let header = Header::decode(block).ok_or(Damaged)?;
    let (expected, checked) = block.split_first_chunk::<CRC_BYTES>().ok_or(Damaged)?;
    if crc(key, first, checked) != u32::from_le_bytes(*expected) {
        return Err(Damaged);
    }
    let before = points.len();
    let decoded = decode_body(&header, first, &block[HEADER_BYTES..], points);
    if decoded.is_none() {
        points.truncate(before);
    }
    decoded.ok_or(Damaged)
}

/// The header of a block, whose CRC is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    codecs: u8,
    /// The number of points, from 1 to [`MAX_POINTS`].
    pub(crate) count: usize,
    /// The second of the last point.
    pub(crate) last: i64,
    /// The number of the transaction that wrote the block.
    pub(crate) generation: u32,
}

impl Header {
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let (_, header) = block.split_first_chunk::<CRC_BYTES>()?;
        let (&[codecs], header) = header.split_first_chunk::<1>()?;
        let (count, header) = header.split_first_chunk::<2>()?;
        let (last, header) = header.split_first_chunk::<8>()?;
        let (generation, _) = header.split_first_chunk::<GENERATION_BYTES>()?;
        let count = usize::from(u16::from_le_bytes(*count));
        let last = i64::from_le_bytes(*last);
        let generation = u32::from_le_bytes(*generation);
        (1..=MAX_POINTS).contains(&count).then_some(Self { codecs, count, last, generation })
    }
}

fn crc(key: u32, first: i64, checked: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&key.to_le_bytes());
    crc.update(&first.to_le_bytes());
    crc.update(checked);
    crc.finalize()
}

fn encode_seconds(points: &[Point], bytes: &mut Vec<u8>) -> u8 {
    let steps = points.windows(2).map(|two| two[1].timestamp.abs_diff(two[0].timestamp));
    let step = steps.clone().next().unwrap_or(1);
    if steps.clone().all(|next| next == step) {
        bytes.extend_from_slice(&step.to_le_bytes());
        return CONSTANT;
    }
    let seconds: Vec<i64> = points.iter().map(|point| point.timestamp).collect();
    if let Some(compressed) = compress(&seconds, |a, b| a == b)
        && let Ok(len) = u16::try_from(compressed.len())
    {
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&compressed);
        return PCO;
    }
    seconds.iter().for_each(|second| bytes.extend_from_slice(&second.to_le_bytes()));
    RAW
}

fn encode_values(points: &[Point], bytes: &mut Vec<u8>) -> u8 {
    let first = points[0].value.to_bits();
    if points.iter().all(|point| point.value.to_bits() == first) {
        bytes.extend_from_slice(&first.to_le_bytes());
        return CONSTANT;
    }
    let values: Vec<f64> = points.iter().map(|point| point.value).collect();
    if let Some(compressed) = compress(&values, |a, b| a.to_bits() == b.to_bits()) {
        bytes.extend_from_slice(&compressed);
        return PCO;
    }
    values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    RAW
}

/// Returns `None` if the result is larger than the numbers, or is not decoded to the same bits.
fn compress<T>(numbers: &[T], is_same: impl Fn(&T, &T) -> bool) -> Option<Vec<u8>>
where
    T: pco::data_types::Number + Default,
{
    let config = ChunkConfig::default().with_compression_level(COMPRESSION_LEVEL);
    let compressed = simple_compress(numbers, &config).ok()?;
    if compressed.len() >= size_of_val(numbers) {
        return None;
    }
    let decoded = decompress(&compressed, numbers.len())?;
    let is_exact = decoded.iter().zip(numbers).all(|(decoded, number)| is_same(decoded, number));
    is_exact.then_some(compressed)
}

fn decompress<T>(compressed: &[u8], count: usize) -> Option<Vec<T>>
where
    T: pco::data_types::Number + Default,
{
    let mut numbers = vec![T::default(); count];
    let progress = simple_decompress_into(compressed, &mut numbers).ok()?;
    (progress.n_processed == count && progress.finished).then_some(numbers)
}

fn decode_body(header: &Header, first: i64, body: &[u8], points: &mut Vec<Point>) -> Option<()> {
    let count = header.count;
    let (seconds, body) = match header.codecs >> 4 {
        CONSTANT => {
            let (step, body) = body.split_first_chunk::<8>()?;
            let step = u64::from_le_bytes(*step);
            let second = |index| first.checked_add_unsigned(step.checked_mul(index as u64)?);
            ((0..count).map(second).collect::<Option<Vec<i64>>>()?, body)
        }
        PCO => {
            let (len, body) = body.split_first_chunk::<2>()?;
            let len = usize::from(u16::from_le_bytes(*len));
            let (compressed, body) = body.split_at_checked(len)?;
            (decompress(compressed, count)?, body)
        }
        RAW => {
            let (seconds, body) = body.split_at_checked(8 * count)?;
            (numbers(seconds).map(i64::from_le_bytes).collect(), body)
        }
        _ => return None,
    };
    let is_sorted = seconds.is_sorted_by(|one, next| one < next);
    if !is_sorted || seconds.first() != Some(&first) || seconds.last() != Some(&header.last) {
        return None;
    }
    let values: Vec<f64> = match header.codecs & 15 {
        CONSTANT => vec![f64::from_le_bytes(body.try_into().ok()?); count],
        PCO => decompress(body, count)?,
        RAW if body.len() == 8 * count => numbers(body).map(f64::from_le_bytes).collect(),
        _ => return None,
    };
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    points.extend(
        seconds.iter().zip(values).map(|(&second, value)| Point { timestamp: second, value }),
    );
    Some(())
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> {
    bytes.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok())
}

const CONSTANT: u8 = 0;
const PCO: u8 = 1;
const RAW: u8 = 2;

const CRC_BYTES: usize = 4;
const GENERATION_BYTES: usize = 4;
const HEADER_BYTES: usize = CRC_BYTES + 1 + 2 + 8 + GENERATION_BYTES;

/// Twice as fast as the default of 8, for 2 % more space.
const COMPRESSION_LEVEL: usize = 4;

/// Decodes any bytes as a block, and checks what comes of it: the body of a fuzz target.
///
/// The first byte says whether the CRC is made to fit, so that the codecs are reached; the next twelve are
/// the key id and the first second.
///
/// # Panics
///
/// If a decoded block is not encoded to one that is decoded to the same points.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Some((&[fix], bytes)) = bytes.split_first_chunk::<1>() else { return };
    let Some((key, bytes)) = bytes.split_first_chunk::<4>() else { return };
    let Some((first, bytes)) = bytes.split_first_chunk::<8>() else { return };
    let (key, first) = (u32::from_le_bytes(*key), i64::from_le_bytes(*first));
    let mut block = bytes.to_vec();
    if fix & 1 == 1 && block.len() >= CRC_BYTES {
        let crc = crc(key, first, &block[CRC_BYTES..]);
        block[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let mut points = Vec::new();
    if decode(key, first, &block, &mut points).is_err() {
        assert!(points.is_empty(), "a damaged block has points");
        return;
    }
    let mut again = Vec::new();
    let encoded = encode(key, 0, &points);
    assert_eq!(decode(key, first, &encoded, &mut again), Ok(()), "an encoded block is damaged");
    let bits = |points: &[Point]| -> Vec<_> {
        points.iter().map(|point| (point.timestamp, point.value.to_bits())).collect()
    };
    assert_eq!(bits(&points), bits(&again), "a block is not decoded to what was encoded");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(points: &[Point]) -> Vec<u8> {
        let block = encode(7, 3, points);
        let mut decoded = Vec::new();
        decode(7, points[0].timestamp, &block, &mut decoded).unwrap();
        let bits = |points: &[Point]| -> Vec<_> {
            points.iter().map(|point| (point.timestamp, point.value.to_bits())).collect()
        };
        assert_eq!(bits(&decoded), bits(points));
        let header = Header::decode(&block).unwrap();
        assert_eq!((header.count, header.last), (points.len(), points.last().unwrap().timestamp));
        assert!(is_intact(7, points[0].timestamp, &block) && header.generation == 3);
        let moved = with_key(&block, 8, points[0].timestamp, 4);
        assert!(!is_intact(7, points[0].timestamp, &moved));
        assert_eq!(decode(8, points[0].timestamp, &moved, &mut Vec::new()), Ok(()));
        block
    }

    fn points(seconds: impl Iterator<Item = i64>, value: impl Fn(usize) -> f64) -> Vec<Point> {
        seconds
            .enumerate()
            .map(|(index, second)| Point { timestamp: second, value: value(index) })
            .collect()
    }

    #[test]
    fn constant_step_and_value_take_35_bytes() {
        let block = round_trip(&points(0..500, |_| 0.5));
        assert_eq!(block.len(), HEADER_BYTES + 8 + 8);
        round_trip(&points([7].into_iter(), |_| -0.0));
    }

    #[test]
    fn decimals_take_less_than_two_bytes_a_point() {
        let block = round_trip(&points((0..500).map(|at| at * 10), |at| {
            (f64::from(at as u32 * 7 % 100) / 10.0) + 20.0
        }));
        assert!(block.len() < 1000, "{} bytes", block.len());
    }

    #[test]
    fn extreme_seconds_and_values_are_exact() {
        let seconds = [i64::MIN, -1, 0, 1, 5, i64::MAX];
        let values = [f64::MIN, -0.0, 0.0, f64::MIN_POSITIVE, f64::from_bits(1), f64::MAX];
        round_trip(&points(seconds.into_iter(), |index| values[index]));
        round_trip(&points([i64::MIN, i64::MAX].into_iter(), |index| values[index]));
    }

    #[test]
    fn block_is_damaged_under_another_key_or_second() {
        let points = points(0..10, |index| index as f64);
        let block = encode(1, 0, &points);
        let mut decoded = Vec::new();
        assert_eq!(decode(2, 0, &block, &mut decoded), Err(Damaged));
        assert_eq!(decode(1, 1, &block, &mut decoded), Err(Damaged));
        assert_eq!(decode(1, 0, &block, &mut decoded), Ok(()));
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
            (-1000i32..1000).prop_map(|value| f64::from(value) / 100.0),
            Just(1.5),
        ]
    }

    proptest! {
        #[test]
        fn points_are_decoded_as_they_were_encoded(
            first in any::<i64>(),
            steps in prop::collection::vec((prop_oneof![Just(1u64), 1u64..1 << 40], value()), 1..=500),
        ) {
            let mut second = first;
            let mut points = Vec::new();
            for (step, value) in steps {
                points.push(Point { timestamp: second, value });
                let Some(next) = second.checked_add_unsigned(step) else { break };
                second = next;
            }
            round_trip(&points);
        }

        #[test]
        fn one_damaged_bit_is_found(bit in 0usize..1000, count in 1usize..300) {
            let points = points((0..count as i64).map(|at| at * at), |at| (at as f64).sqrt());
            let mut block = encode(1, 0, &points);
            let bit = bit % (8 * block.len());
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(1, 0, &block, &mut Vec::new()), Err(Damaged));
        }

        #[test]
        fn any_bytes_are_decoded_or_damaged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn damaged_codecs_do_not_panic(
            at in 0usize..2000,
            byte in any::<u8>(),
            values in prop::collection::vec(value(), 2..300),
        ) {
            let seconds = (0..values.len() as i64).map(|at| at * at);
            let mut block = encode(0, 0, &points(seconds, |index| values[index]));
            let at = CRC_BYTES + at % (block.len() - CRC_BYTES);
            block[at] = byte;
            fuzz(&[&[1][..], &[0; 12], &block].concat());
        }
    }
}
