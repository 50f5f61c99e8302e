//! Values as bars of one character each.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws values as bars, the lowest lowest. A value that is not a number is a blank, an infinite one the lowest or the
/// highest bar.
pub(crate) fn bars(values: impl Iterator<Item = f64> + Clone) -> String {
    let finite = values.clone().filter(|value| value.is_finite());
    let (min, max) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
        (min.min(value), max.max(value))
    });
    let bar = |value: f64| match value {
        _ if value.is_nan() => ' ',
        f64::INFINITY => BARS[7],
        f64::NEG_INFINITY => BARS[0],
        // Halves, because the difference may be beyond the largest number.
        _ if max > min => {
            BARS[(((value / 2.0 - min / 2.0) / (max / 2.0 - min / 2.0) * 7.0).round() as usize)
                .min(7)]
        }
        _ => BARS[0],
    };
    values.map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_rise_from_the_lowest_value_to_the_highest() {
        for (values, expected) in [
            ([0.0, 1.0, 7.0].as_slice(), "▁▂█"),
            (&[-1e308, 0.0, 1e308], "▁▅█"),
            (&[5.0, 5.0], "▁▁"),
            (&[f64::NAN, 1.0, f64::INFINITY, 2.0, f64::NEG_INFINITY], " ▁██▁"),
            (&[f64::NAN], " "),
            (&[], ""),
        ] {
            assert_eq!(bars(values.iter().copied()), expected, "{values:?}");
        }
    }
}
