//! How fast the spool is replayed.

use std::time::Duration;

use tokio::time::Instant;

/// What a server is asked to take at first, in samples a second, when it comes back.
const INITIAL_RATE: u32 = 1000;
/// What is sent at once, as the time in which so much is to be sent. More, if answers take longer to
/// come.
const SPAN: Duration = Duration::from_millis(50);
/// The least and the most that is sent at once.
const LEAST: usize = 64;
const MOST: usize = 4096;
/// How late an answer may be before the server is taken to be at its limit. Below this, a late answer
/// may as well be due to the way there, and asking for less would make nothing better.
const SLOW_RESPONSE: Duration = Duration::from_millis(500);

/// Bounds the rate of the replay, and lets it begin slowly: a server that has just come back has all
/// its agents on its hands.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Samples a second.
    rate: u32,
    most: u32,
    /// How long the last answer took, within bounds: so much of a second is sent at once.
    span: Duration,
    /// When the next samples may leave.
    due: Instant,
}

impl Pacer {
    pub(super) fn new(most: u32, now: Instant) -> Self {
        Self { rate: INITIAL_RATE.min(most), most, span: SPAN, due: now }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// How many samples may leave when it is due.
    pub(super) fn batch(&self) -> usize {
        ((f64::from(self.rate) * self.span.as_secs_f64()) as usize).clamp(LEAST, MOST)
    }

    /// So many were sent and answered, in the time between.
    pub(super) fn answered(&mut self, samples: usize, sent: Instant, now: Instant) {
        let samples = u32::try_from(samples).unwrap_or(u32::MAX).max(1);
        let planned = Duration::from_secs(1) * samples / self.rate;
        let took = now.saturating_duration_since(sent);
        // The server is not to be busy with the past alone.
        self.due = (sent + planned).max(now + took / 4);
        (self.rate, self.span) = if took > SLOW_RESPONSE {
            // It takes no more than this.
            ((f64::from(samples) / took.as_secs_f64()) as u32, SPAN)
        } else {
            // Twice as much after a second.
            (self.rate.saturating_add(samples), took.max(SPAN))
        };
        self.rate = self.rate.clamp(1, self.most);
    }

    /// They could not be sent.
    pub(super) fn failed(&mut self, pause: Duration, now: Instant) {
        self.rate = INITIAL_RATE.min(self.most);
        self.span = SPAN;
        self.due = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How many samples a server that takes so many a second gets in each second.
    fn replayed(most: u32, takes: u32, seconds: usize) -> Vec<usize> {
        let start = Instant::now();
        let mut pacer = Pacer::new(most, start);
        let mut counts = vec![0; seconds];
        loop {
            let sent = pacer.due();
            let at = (sent - start).as_secs() as usize;
            if at >= seconds {
                return counts;
            }
            let samples = pacer.batch();
            counts[at] += samples;
            pacer.answered(samples, sent, sent + SECOND * samples as u32 / takes);
        }
    }

    #[test]
    fn it_begins_slowly_and_doubles_up_to_its_bound() {
        let counts = replayed(20_000, u32::MAX, 10);
        assert!((900..2500).contains(&counts[0]), "{counts:?}");
        for pair in counts.windows(2) {
            assert!(pair[1] <= 3 * pair[0], "{counts:?}");
        }
        assert!((19_000..21_500).contains(&counts[9]), "{counts:?}");
    }

    #[test]
    fn it_asks_of_a_slow_server_no_more_than_that_takes() {
        let counts = replayed(100_000, 300, 10);
        assert!(counts[2..].iter().all(|&count| count <= 400), "{counts:?}");
        assert!(counts[2..].iter().all(|&count| count >= 100), "{counts:?}");
    }

    #[test]
    fn a_long_way_to_the_server_does_not_hold_it_up() {
        let start = Instant::now();
        let mut pacer = Pacer::new(100_000, start);
        let mut samples = 0;
        while pacer.due() < start + 20 * SECOND {
            let (batch, sent) = (pacer.batch(), pacer.due());
            samples += batch;
            pacer.answered(batch, sent, sent + Duration::from_millis(200));
        }
        assert!(samples > 100_000, "{samples} in 20 seconds");
    }

    #[test]
    fn after_a_failure_it_begins_anew() {
        let now = Instant::now();
        let mut pacer = Pacer::new(100_000, now);
        for _ in 0..1000 {
            pacer.answered(pacer.batch(), pacer.due(), pacer.due());
        }
        assert_eq!(pacer.rate, 100_000);
        pacer.failed(SECOND, now);
        assert_eq!((pacer.rate, pacer.due()), (INITIAL_RATE, now + SECOND));
        assert_eq!(Pacer::new(10, now).rate, 10);
    }
}
