//! The axis of values: its range, and round numbers on it.

use super::Tick;

/// An axis of values, from a round number to a round number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ValueAxis {
    min: f64,
    max: f64,
    /// The distance of its ticks; 0 if numbers cannot be told apart at any.
    step: f64,
}

impl ValueAxis {
    /// Returns an axis for finite values from `min` to `max`, with at most about `ticks` ticks.
    pub(crate) fn new(min: f64, max: f64, ticks: usize) -> Self {
        // A constant is in the middle.
        let room = match min {
            _ if min < max => 0.0,
            0.0 => 1.0,
            _ => (min.abs() * 0.1).max(f64::MIN_POSITIVE),
        };
        let (min, max) = ((min - room).max(f64::MIN), (max + room).min(f64::MAX));
        let step = round_step(min, max, ticks);
        let round = |value: f64, rounded: f64| if rounded.is_finite() { rounded } else { value };
        if step == 0.0 {
            return Self { min, max, step };
        }
        let (start, end) = ((min / step).floor() * step, (max / step).ceil() * step);
        Self { min: round(min, start).min(min), max: round(max, end).max(max), step }
    }

    /// Returns where a value is: 0 at the bottom, 1 at the top.
    pub(crate) fn fraction(&self, value: f64) -> f64 {
        let span = self.max - self.min;
        if span.is_finite() {
            (value - self.min) / span
        } else {
            (value / 2.0 - self.min / 2.0) / (self.max / 2.0 - self.min / 2.0)
        }
    }

    /// Returns its ticks, from the bottom.
    pub(crate) fn ticks(&self) -> Vec<Tick> {
        let tick = |value: f64| Tick { at: self.fraction(value), label: self.label(value) };
        if self.step == 0.0 {
            return vec![tick(self.min), tick(self.max)];
        }
        let first = (self.min / self.step).ceil();
        let values = (0..MAX_TICKS).map(|n| (first + f64::from(n)) * self.step);
        let mut values = values.take_while(|value| *value <= self.max).collect::<Vec<_>>();
        values.dedup();
        values.into_iter().map(tick).collect()
    }

    /// Returns a number with as many digits as tell it from its neighbours.
    fn label(&self, value: f64) -> String {
        let largest = self.min.abs().max(self.max.abs());
        let decimals = -magnitude(self.step);
        if value == 0.0 {
            return "0".into();
        }
        if self.step == 0.0 {
            return format!("{value:e}");
        }
        if largest < 1e7 && decimals <= 6 {
            return format!("{value:.*}", decimals.max(0) as usize);
        }
        let digits = (magnitude(value) + decimals).clamp(0, 17) as usize;
        format!("{value:.digits$e}")
    }
}

/// More than any axis has: what ends a loop over numbers that hardly differ.
const MAX_TICKS: u32 = 64;

/// The power of ten of a number.
fn magnitude(value: f64) -> i32 {
    // An exponent is between -324 and 308.
    let text = format!("{value:e}");
    text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0)
}

/// Returns 1, 2 or 5 times a power of ten, so that there are at most about `ticks` ticks; 0 if numbers of this size are
/// further apart.
fn round_step(min: f64, max: f64, ticks: usize) -> f64 {
    let ticks = ticks.max(1) as f64;
    // The difference may be beyond the largest number.
    let least = max / ticks - min / ticks;
    let power = 10f64.powi(magnitude(least));
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least);
    let step = step.filter(|step| step.is_finite()).unwrap_or(0.0);
    let is_told_apart = max - step < max && min + step > min;
    if is_told_apart { step } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(min: f64, max: f64) -> Vec<String> {
        ValueAxis::new(min, max, 5).ticks().into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        for (min, max, expected) in [
            (0.0, 100.0, ["0", "20", "40", "60", "80", "100"].as_slice()),
            (3.0, 97.0, &["0", "20", "40", "60", "80", "100"]),
            (-1.0, 1.0, &["-1.0", "-0.5", "0", "0.5", "1.0"]),
            (0.12, 0.19, &["0.12", "0.14", "0.16", "0.18", "0.20"]),
            (23.7, 23.7, &["21", "22", "23", "24", "25", "26", "27"]),
            (0.0, 0.0, &["-1.0", "-0.5", "0", "0.5", "1.0"]),
            (1e9, 3e9, &["1.0e9", "1.5e9", "2.0e9", "2.5e9", "3.0e9"]),
            (-2e-9, 0.0, &["-2.0e-9", "-1.5e-9", "-1.0e-9", "-5e-10", "0"]),
            (
                1e9 + 1.0,
                1e9 + 3.0,
                &[
                    "1.0000000010e9",
                    "1.0000000015e9",
                    "1.0000000020e9",
                    "1.0000000025e9",
                    "1.0000000030e9",
                ],
            ),
        ] {
            assert_eq!(labels(min, max), expected, "{min} to {max}");
        }
    }

    #[test]
    fn every_finite_range_has_an_axis() {
        let ends = [
            f64::MIN,
            -1e300,
            -1.0,
            -1e-300,
            -5e-324,
            0.0,
            5e-324,
            f64::MIN_POSITIVE,
            1.0,
            1.0 + f64::EPSILON,
            1e15,
            1e15 + 0.125,
            1.7e308,
            f64::MAX,
        ];
        for min in ends {
            for max in ends.into_iter().filter(|max| *max >= min) {
                let axis = ValueAxis::new(min, max, 8);
                let inside = |fraction: f64| (0.0..=1.0).contains(&fraction);
                assert!(inside(axis.fraction(min)) && inside(axis.fraction(max)), "{axis:?}");
                assert!(axis.fraction(min) <= axis.fraction(max), "{axis:?}");
                let ticks = axis.ticks();
                assert!((2..=20).contains(&ticks.len()), "{min:e} to {max:e}: {ticks:?}");
                assert!(ticks.iter().all(|tick| inside(tick.at)), "{min:e} to {max:e}: {ticks:?}");
            }
        }
    }
}
