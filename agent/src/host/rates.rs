//! [`Rates`]: rates by second of counters that only grow, until they wrap or are reset.

use std::{collections::HashMap, time::Duration};

use super::rounded;

/// The counters of each device of a kind, when they were last read.
///
/// A counter that is lower than before has wrapped, or was reset: which of both cannot be known, so it has no rate
/// until it is read again. Nor has a device that is new.
#[derive(Debug)]
pub(super) struct Rates<const N: usize> {
    devices: HashMap<Box<str>, Device<N>>,
    read_at: Option<Duration>,
    /// Seconds since the reading before.
    elapsed: f64,
    reading: u64,
}

#[derive(Debug)]
struct Device<const N: usize> {
    counters: [u64; N],
    reading: u64,
}

impl<const N: usize> Default for Rates<N> {
    fn default() -> Self {
        Self { devices: HashMap::new(), read_at: None, elapsed: 0.0, reading: 0 }
    }
}

impl<const N: usize> Rates<N> {
    /// Begins a reading, by a clock that is never set.
    pub(super) fn begin(&mut self, now: Duration) {
        self.elapsed = self.read_at.map_or(0.0, |before| now.saturating_sub(before).as_secs_f64());
        self.read_at = Some(now);
        self.reading += 1;
    }

    /// Notes the counters of a device. Returns their rates.
    pub(super) fn rates(&mut self, device: &str, counters: [u64; N]) -> [Option<f64>; N] {
        let reading = self.reading;
        let Some(before) = self.devices.get_mut(device) else {
            self.devices.insert(device.into(), Device { counters, reading });
            return [None; N];
        };
        let last = std::mem::replace(before, Device { counters, reading });
        // Too short a time makes a large rate of a rounding.
        let is_measurable = self.elapsed >= MIN_SECONDS && last.reading + 1 == reading;
        std::array::from_fn(|n| {
            let grown = counters[n].checked_sub(last.counters[n]).filter(|_| is_measurable)?;
            Some(rounded(grown as f64 / self.elapsed))
        })
    }

    /// Ends a reading: forgets devices that are gone.
    pub(super) fn end(&mut self) {
        let reading = self.reading;
        self.devices.retain(|_, device| device.reading == reading);
    }
}

/// The shortest time of a rate.
const MIN_SECONDS: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(rates: &mut Rates<1>, second: u32, counter: u64) -> Option<f64> {
        rates.begin(second * SECOND);
        let [rate] = rates.rates("eth0", [counter]);
        rates.end();
        rate
    }

    #[test]
    fn rate_is_the_growth_by_second() {
        let mut rates = Rates::default();
        assert_eq!(reading(&mut rates, 0, 1000), None);
        assert_eq!(reading(&mut rates, 10, 1500), Some(50.0));
        assert_eq!(reading(&mut rates, 40, 1500), Some(0.0));
    }

    #[test]
    fn counter_that_wraps_or_is_reset_has_no_rate() {
        let mut rates = Rates::default();
        reading(&mut rates, 0, u64::from(u32::MAX) - 5);
        assert_eq!(reading(&mut rates, 10, 5), None);
        assert_eq!(reading(&mut rates, 20, 105), Some(10.0));
    }

    #[test]
    fn device_that_comes_again_is_new() {
        let mut rates = Rates::default();
        reading(&mut rates, 0, 1000);
        rates.begin(10 * SECOND);
        rates.end();
        assert!(rates.devices.is_empty());
        assert_eq!(reading(&mut rates, 20, 2000), None);
    }

    #[test]
    fn reading_that_was_missed_is_part_of_the_rate() {
        let mut rates = Rates::default();
        reading(&mut rates, 0, 1000);
        // The file could not be read at 10, so that no reading began.
        assert_eq!(reading(&mut rates, 20, 2000), Some(50.0));
    }

    #[test]
    fn no_time_has_no_rate() {
        let mut rates = Rates::default();
        reading(&mut rates, 10, 1000);
        assert_eq!(reading(&mut rates, 10, 2000), None);
        assert_eq!(reading(&mut rates, 5, 3000), None);
    }
}
