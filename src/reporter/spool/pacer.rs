//! Limits how fast stored samples are sent.

use std::time::Duration;

use tokio::time::Instant;

/// The rate at which a server that has come back is sent stored samples first, in samples per second.
const INITIAL_RATE: u32 = 1000;
/// The interval of a batch: a batch has the samples of this time. It is longer if answers take longer.
const INTERVAL: Duration = Duration::from_millis(50);
/// The bounds of a batch, in samples.
const MIN_BATCH: usize = 64;
const MAX_BATCH: usize = 4096;
/// The response time above which the server is assumed to be at its limit. Below it, a slow response may be due
/// to the network, and a lower rate would not help.
const SLOW_RESPONSE: Duration = Duration::from_millis(500);

/// Limits the rate of the replay, and begins slowly: a server that has just come back is reached by all its
/// clients at once.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Samples per second.
    rate: u32,
    max_rate: u32,
    /// The response time of the last batch, within bounds: the next has the samples of this time.
    interval: Duration,
    /// When the next batch may be sent.
    due: Instant,
}

impl Pacer {
    pub(super) fn new(max_rate: u32, now: Instant) -> Self {
        Self { rate: INITIAL_RATE.min(max_rate), max_rate, interval: INTERVAL, due: now }
    }

    pub(super) fn next_send_at(&self) -> Instant {
        self.due
    }

    /// Returns the length of the next batch, in samples.
    pub(super) fn batch(&self) -> usize {
        ((f64::from(self.rate) * self.interval.as_secs_f64()) as usize).clamp(MIN_BATCH, MAX_BATCH)
    }

    /// Notes that a batch was sent and answered at these times.
    pub(super) fn on_success(&mut self, samples: usize, sent: Instant, now: Instant) {
        let samples = u32::try_from(samples).unwrap_or(u32::MAX).max(1);
        let planned = Duration::from_secs(1) * samples / self.rate;
        let took = now.saturating_duration_since(sent);
        // The server must not be busy with stored samples alone.
        self.due = (sent + planned).max(now + took / 4);
        (self.rate, self.interval) = if took > SLOW_RESPONSE {
            // It takes no more than this.
            ((f64::from(samples) / took.as_secs_f64()) as u32, INTERVAL)
        } else {
            // Twice as much after a second.
            (self.rate.saturating_add(samples), took.max(INTERVAL))
        };
        self.rate = self.rate.clamp(1, self.max_rate);
    }

    /// Notes that a batch could not be sent: the next follows after a pause.
    pub(super) fn on_failure(&mut self, pause: Duration, now: Instant) {
        self.rate = INITIAL_RATE.min(self.max_rate);
        self.interval = INTERVAL;
        self.due = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns how many samples a server that takes this many per second is sent in each second.
    fn replayed(max_rate: u32, takes: u32, seconds: usize) -> Vec<usize> {
        let start = Instant::now();
        let mut pacer = Pacer::new(max_rate, start);
        let mut counts = vec![0; seconds];
        loop {
            let sent = pacer.next_send_at();
            let at = (sent - start).as_secs() as usize;
            if at >= seconds {
                return counts;
            }
            let samples = pacer.batch();
            counts[at] += samples;
            pacer.on_success(samples, sent, sent + SECOND * samples as u32 / takes);
        }
    }

    #[test]
    fn rate_begins_low_and_doubles_up_to_its_maximum() {
        let counts = replayed(20_000, u32::MAX, 10);
        assert!((900..2500).contains(&counts[0]), "{counts:?}");
        for pair in counts.windows(2) {
            assert!(pair[1] <= 3 * pair[0], "{counts:?}");
        }
        assert!((19_000..21_500).contains(&counts[9]), "{counts:?}");
    }

    #[test]
    fn rate_does_not_exceed_what_a_slow_server_takes() {
        let counts = replayed(100_000, 300, 10);
        assert!(counts[2..].iter().all(|&count| count <= 400), "{counts:?}");
        assert!(counts[2..].iter().all(|&count| count >= 100), "{counts:?}");
    }

    #[test]
    fn high_network_latency_does_not_lower_the_rate() {
        let start = Instant::now();
        let mut pacer = Pacer::new(100_000, start);
        let mut samples = 0;
        while pacer.next_send_at() < start + 20 * SECOND {
            let (batch, sent) = (pacer.batch(), pacer.next_send_at());
            samples += batch;
            pacer.on_success(batch, sent, sent + Duration::from_millis(200));
        }
        assert!(samples > 100_000, "{samples} in 20 seconds");
    }

    #[test]
    fn rate_is_reset_by_a_failure() {
        let now = Instant::now();
        let mut pacer = Pacer::new(100_000, now);
        for _ in 0..1000 {
            pacer.on_success(pacer.batch(), pacer.next_send_at(), pacer.next_send_at());
        }
        assert_eq!(pacer.rate, 100_000);
        pacer.on_failure(SECOND, now);
        assert_eq!((pacer.rate, pacer.next_send_at()), (INITIAL_RATE, now + SECOND));
        assert_eq!(Pacer::new(10, now).rate, 10);
    }
}
