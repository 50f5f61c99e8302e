//! ClickHouse's `cityHash64`, by which a `Distributed` table chooses the shard of a key: CityHash 1.0.2.

const K0: u64 = 0xc3a5_c85c_97cb_3127;
const K1: u64 = 0xb492_b66f_be98_f273;
const K2: u64 = 0x9ae1_6a3b_2f90_404f;
const K3: u64 = 0xc949_d7c7_509e_6557;
const MUL: u64 = 0x9ddf_ea08_eb38_2d69;

/// Returns `cityHash64` of a string.
pub(super) fn city_hash_64(bytes: &[u8]) -> u64 {
    match bytes.len() {
        0..=16 => up_to_16(bytes),
        17..=32 => up_to_32(bytes),
        33..=64 => up_to_64(bytes),
        _ => longer(bytes),
    }
}

fn up_to_16(bytes: &[u8]) -> u64 {
    let len = bytes.len() as u64;
    match bytes {
        [] => K2,
        [first, ..] if len < 4 => {
            let (middle, last) = (bytes[bytes.len() / 2], bytes[bytes.len() - 1]);
            let y = u64::from(*first) + (u64::from(middle) << 8);
            let z = len + (u64::from(last) << 2);
            shift_mix(y.wrapping_mul(K2) ^ z.wrapping_mul(K3)).wrapping_mul(K2)
        }
        _ if len <= 8 => {
            hash_16(len.wrapping_add(word_32(bytes, 0) << 3), word_32(bytes, bytes.len() - 4))
        }
        _ => {
            let (a, b) = (word(bytes, 0), word(bytes, bytes.len() - 8));
            hash_16(a, b.wrapping_add(len).rotate_right(len as u32)) ^ b
        }
    }
}

fn up_to_32(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let a = word(bytes, 0).wrapping_mul(K1);
    let b = word(bytes, 8);
    let c = word(bytes, len - 8).wrapping_mul(K2);
    let d = word(bytes, len - 16).wrapping_mul(K0);
    hash_16(
        a.wrapping_sub(b).rotate_right(43).wrapping_add(c.rotate_right(30)).wrapping_add(d),
        a.wrapping_add((b ^ K3).rotate_right(20)).wrapping_sub(c).wrapping_add(len as u64),
    )
}

fn up_to_64(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let half = |mut a: u64, z: u64, second: u64, third: u64| {
        let b = a.wrapping_add(z).rotate_right(52);
        let mut c = a.rotate_right(37);
        a = a.wrapping_add(second);
        c = c.wrapping_add(a.rotate_right(7));
        a = a.wrapping_add(third);
        (a.wrapping_add(z), b.wrapping_add(a.rotate_right(31)).wrapping_add(c))
    };
    let front = word(bytes, len - 16).wrapping_add(len as u64).wrapping_mul(K0);
    let front = word(bytes, 0).wrapping_add(front);
    let v = half(front, word(bytes, 24), word(bytes, 8), word(bytes, 16));
    let back = word(bytes, 16).wrapping_add(word(bytes, len - 32));
    let w = half(back, word(bytes, len - 8), word(bytes, len - 24), word(bytes, len - 16));
    let (left, right) = (v.0.wrapping_add(w.1), w.0.wrapping_add(v.1));
    let mixed = shift_mix(left.wrapping_mul(K2).wrapping_add(right.wrapping_mul(K0)));
    shift_mix(mixed.wrapping_mul(K0).wrapping_add(v.1)).wrapping_mul(K2)
}

fn longer(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut x = word(bytes, 0);
    let mut y = word(bytes, len - 16) ^ K1;
    let mut z = word(bytes, len - 56) ^ K0;
    let mut v = weak(&bytes[len - 64..], len as u64, y);
    let mut w = weak(&bytes[len - 32..], (len as u64).wrapping_mul(K1), K0);
    z = z.wrapping_add(shift_mix(v.1).wrapping_mul(K1));
    x = z.wrapping_add(x).rotate_right(39).wrapping_mul(K1);
    y = y.rotate_right(33).wrapping_mul(K1);
    for chunk in bytes[..(len - 1) & !63].chunks_exact(64) {
        x = x.wrapping_add(y).wrapping_add(v.0).wrapping_add(word(chunk, 16));
        x = x.rotate_right(37).wrapping_mul(K1) ^ w.1;
        y = y.wrapping_add(v.1).wrapping_add(word(chunk, 48));
        y = y.rotate_right(42).wrapping_mul(K1) ^ v.0;
        z = (z ^ w.0).rotate_right(33);
        v = weak(chunk, v.1.wrapping_mul(K1), x.wrapping_add(w.0));
        w = weak(&chunk[32..], z.wrapping_add(w.1), y);
        (x, z) = (z, x);
    }
    let left = hash_16(v.0, w.0).wrapping_add(shift_mix(y).wrapping_mul(K1)).wrapping_add(z);
    hash_16(left, hash_16(v.1, w.1).wrapping_add(x))
}

fn weak(bytes: &[u8], a: u64, b: u64) -> (u64, u64) {
    let [w, x, y, z] = [0, 8, 16, 24].map(|at| word(bytes, at));
    let a = a.wrapping_add(w);
    let b = b.wrapping_add(a).wrapping_add(z).rotate_right(21);
    let end = a.wrapping_add(x).wrapping_add(y);
    (end.wrapping_add(z), b.wrapping_add(end.rotate_right(44)).wrapping_add(a))
}

fn hash_16(u: u64, v: u64) -> u64 {
    let a = shift_mix((u ^ v).wrapping_mul(MUL));
    shift_mix((v ^ a).wrapping_mul(MUL)).wrapping_mul(MUL)
}

fn shift_mix(value: u64) -> u64 {
    value ^ (value >> 47)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn word_32(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    // `SELECT cityHash64(..)` of ClickHouse 18.16 and 26.5.
    #[test]
    fn hash_is_that_of_clickhouse() {
        let text = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".repeat(4);
        for (len, expected) in [
            (0, 11_160_318_154_034_397_263),
            (1, 10_408_321_403_207_385_874),
            (2, 10_729_262_491_330_949_055),
            (3, 10_004_111_379_364_466_413),
            (4, 12_579_659_945_566_698_690),
            (7, 5_387_440_934_952_303_906),
            (8, 7_994_146_191_380_129_035),
            (9, 2_943_582_641_455_212_157),
            (15, 2_715_355_979_355_808_496),
            (16, 692_747_204_941_329_175),
            (17, 792_568_009_951_096_890),
            (31, 289_323_457_133_537_153),
            (32, 16_253_081_498_054_822_198),
            (33, 11_275_811_701_569_304_780),
            (47, 12_033_495_716_318_560_032),
            (63, 18_022_031_146_690_855_113),
            (64, 6_254_968_485_672_349_739),
            (65, 11_948_235_509_354_821_241),
            (127, 603_834_295_283_190_888),
            (128, 9_495_673_765_160_043_203),
            (129, 4_708_571_091_806_868_936),
            (200, 6_845_923_192_411_137_221),
            (248, 6_902_702_273_332_792_426),
        ] {
            assert_eq!(city_hash_64(&text.as_bytes()[..len]), expected, "{len} bytes");
        }
    }
}
