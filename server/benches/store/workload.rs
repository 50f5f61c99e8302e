//! Synthetic points: keys of hosts, and values of sensors with two decimals.

use metrics_client::{Key, Point};

/// The first second of every workload.
pub(crate) const FIRST_SECOND: i64 = 1_150_864_247;

/// Returns the value of a key at a second, in hundredths: it drifts, with noise, from 10.00 to 89.99.
pub(crate) fn hundredths(key: usize, second: i64) -> u64 {
    let (key, second) = (key as u64, second as u64);
    let mixed = (second ^ (key << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1_000 + (second / 4 + key * 37) % 7_900 + (mixed >> 58)
}

pub(crate) fn point(key: usize, second: i64) -> Point {
    Point::new(hundredths(key, second) as f64 / 100.0, second)
}

/// Returns the name of a key; all have the same length up to 100,000 keys.
pub(crate) fn name(key: usize) -> String {
    format!("rack{key:05}.cpu.user")
}

/// Returns the first `count` keys.
pub(crate) fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|key| Key::new(name(key)).expect("the names are valid")).collect()
}

/// Lines with one put for each of some keys, all of one second.
///
/// The text is made once, and only its digits change from second to second: what is measured is who
/// reads it.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    text: Vec<u8>,
    /// Each key, and where the digits of its value begin.
    values: Vec<(usize, usize)>,
    second: i64,
}

impl Lines {
    pub(crate) fn new(keys: std::ops::Range<usize>) -> Self {
        let (mut text, mut values) = (Vec::new(), Vec::new());
        for key in keys {
            text.extend_from_slice(format!("put {} ", name(key)).as_bytes());
            values.push((key, text.len()));
            text.extend_from_slice(b"00.00 0000000000\n");
        }
        Self { text, values, second: FIRST_SECOND }
    }

    /// Returns the number of puts.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns the puts of the next second.
    pub(crate) fn next(&mut self) -> &[u8] {
        let mut second = *b"0000000000";
        print(self.second as u64, &mut second);
        for &(key, at) in &self.values {
            let mut value = *b"0000";
            print(hundredths(key, self.second), &mut value);
            self.text[at..at + 2].copy_from_slice(&value[..2]);
            self.text[at + 3..at + 5].copy_from_slice(&value[2..]);
            self.text[at + 6..at + 16].copy_from_slice(&second);
        }
        self.second += 1;
        &self.text
    }
}

fn print(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
