//! Rate limits for log lines.
//!
//! What a peer or a broken disk can repeat must not fill a log. A [`LogLimiter`] is for events: it
//! admits a few lines in each window and counts the rest. A [`LogCondition`] is for what lasts: it
//! is logged when it begins, again now and then, and when it is over.
//!
//! Neither writes a line itself, so that a caller can release its locks first: a subscriber may
//! call back into this crate.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Admits a few lines in each window, and counts those that it suppresses.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// When the first of `lines` was written.
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// Creates a limiter that has admitted nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Window { since: None, lines: 0, suppressed: 0 }))
    }

    /// Returns true if one more line may be written; otherwise the line is counted as suppressed.
    pub fn should_log(&self) -> bool {
        let now = Instant::now();
        let mut window = lock(&self.0);
        if window.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            window.since = Some(now);
            window.lines = 0;
        }
        let admitted = window.lines < MAX_LINES;
        if admitted {
            window.lines += 1;
        } else {
            window.suppressed += 1;
        }
        admitted
    }

    /// Returns how many lines were suppressed since the last call, if there were any.
    pub fn take_suppressed(&self) -> Option<u64> {
        let suppressed = std::mem::take(&mut lock(&self.0).suppressed);
        (suppressed > 0).then_some(suppressed)
    }
}

/// A state that lasts, such as a full disk or a server that cannot be reached.
#[derive(Debug, Default)]
pub struct LogCondition(Mutex<Option<Episode>>);

#[derive(Clone, Copy, Debug)]
struct Episode {
    since: Instant,
    logged: Instant,
    times: u64,
}

/// What a line about a condition can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// For how long the condition has held; zero when it begins.
    pub since: Duration,
    /// How often it has been seen, this time included.
    pub times: u64,
}

impl LogCondition {
    /// Creates a condition that does not hold.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Notes that the condition holds. Returns something if a line is due: at the beginning, where
    /// `times` is 1, and once for each [`REMINDER_INTERVAL`] after that.
    pub fn holds(&self) -> Option<Lasting> {
        let now = Instant::now();
        let mut state = lock(&self.0);
        let Some(episode) = &mut *state else {
            *state = Some(Episode { since: now, logged: now, times: 1 });
            return Some(Lasting { since: Duration::ZERO, times: 1 });
        };
        episode.times += 1;
        if now.saturating_duration_since(episode.logged) < REMINDER_INTERVAL {
            return None;
        }
        episode.logged = now;
        Some(episode.lasting(now))
    }

    /// Notes that the condition is over. Returns something if it held, which is worth a line.
    pub fn is_over(&self) -> Option<Lasting> {
        let episode = lock(&self.0).take();
        episode.map(|episode| episode.lasting(Instant::now()))
    }
}

impl Episode {
    fn lasting(&self, now: Instant) -> Lasting {
        Lasting { since: now.saturating_duration_since(self.since), times: self.times }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers are sound whichever thread panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many lines of a kind are written in a [`WINDOW`]: enough to see which peer it is, and why.
const MAX_LINES: u32 = 5;

/// How long the window of a [`LogLimiter`] is.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How often a condition that lasts is logged again: a log of a day then has 1,440 lines of it at
/// most, and a person who looks at its last page sees it.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limiter_admits_a_few_lines_a_window() {
        let limiter = LogLimiter::new();
        let written = (0..100).filter(|_| limiter.should_log()).count();
        assert_eq!(written, 5);
        assert_eq!(limiter.take_suppressed(), Some(95));
        assert_eq!(limiter.take_suppressed(), None);
        advance(WINDOW).await;
        assert!(limiter.should_log());
    }

    #[tokio::test(start_paused = true)]
    async fn condition_is_logged_at_start_again_and_at_end() {
        let condition = LogCondition::new();
        assert_eq!(condition.is_over(), None);
        assert_eq!(condition.holds(), Some(Lasting { since: Duration::ZERO, times: 1 }));
        for _ in 0..59 {
            advance(Duration::from_secs(1)).await;
            assert_eq!(condition.holds(), None);
        }
        advance(Duration::from_secs(1)).await;
        let minute = Duration::from_secs(60);
        assert_eq!(condition.holds(), Some(Lasting { since: minute, times: 61 }));
        assert_eq!(condition.holds(), None);
        assert_eq!(condition.is_over(), Some(Lasting { since: minute, times: 62 }));
        assert_eq!(condition.is_over(), None);
        assert!(condition.holds().is_some());
    }
}
