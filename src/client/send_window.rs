//! How many samples of a batch are queued and in flight at once.

use std::time::Duration;

use tokio::time::Instant;

/// Bounds the samples of a batch that have no outcome yet, so that each gets its response before its deadline,
/// however long the server takes for one.
///
/// Begins with a few and doubles while the server answers them in good time, as TCP does with
/// segments (RFC 5681, slow start).
#[derive(Clone, Debug)]
pub(super) struct SendWindow {
    samples: usize,
    request_timeout: Duration,
    /// When the present window began, and how many samples had an outcome then.
    started: Instant,
    completed_at_start: usize,
}

impl SendWindow {
    /// At ten puts a second, from the slowest server that is worth a thought, this takes 1.6 seconds.
    const INITIAL: usize = 16;

    pub(super) fn new(request_timeout: Duration, now: Instant) -> Self {
        Self { samples: Self::INITIAL, request_timeout, started: now, completed_at_start: 0 }
    }

    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// Begins to count samples from 0 again.
    pub(super) fn restart(&mut self, now: Instant) {
        self.started = now;
        self.completed_at_start = 0;
    }

    /// Adjusts the window, of which at most `window` samples have been in use, once it has passed: `completed`
    /// samples have an outcome by now.
    pub(super) fn on_progress(&mut self, completed: usize, window: usize, now: Instant) {
        if completed < self.completed_at_start + window {
            return;
        }
        let taken = now - self.started;
        if taken < self.request_timeout / 4 {
            self.samples = window * 2;
        } else if taken > self.request_timeout / 2 {
            self.samples = (window / 2).max(Self::INITIAL);
        }
        self.started = now;
        self.completed_at_start = completed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_grows_while_responses_are_fast_and_shrinks() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut window = SendWindow::new(Duration::from_secs(4), start);
        for (completed, in_use, millis, expected) in [
            (15, 16, 1, 16),
            (16, 16, 999, 32),
            (48, 32, 2500, 32),
            (80, 32, 5000, 16),
            (96, 16, 8000, 16),
        ] {
            window.on_progress(completed, in_use, after(millis));
            assert_eq!(window.samples(), expected, "after {completed} samples");
        }
    }
}
