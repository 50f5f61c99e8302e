//! What the log is told of peers: a few lines of each kind, and how many more there were.
//!
//! Whoever can make a server write a line for each connection can fill its disk with connections.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{error, info, warn};

/// What a server has told its log of late, by what peers can bring about.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) cut_off: Quota,
    pub(super) turned_away: Quota,
    pub(super) not_accepted: Quota,
    /// Failures of the store, and their ends: a store may refuse one peer what it grants another.
    pub(super) store: Quota,
}

impl Log {
    /// Tells how many lines there would have been besides those that were written.
    pub(super) fn sum_up(&self) {
        let Self { cut_off, turned_away, not_accepted, store } = self;
        if let Some(count) = cut_off.take_untold() {
            info!(count, "more peers were cut off");
        }
        if let Some(count) = turned_away.take_untold() {
            warn!(count, "more connections were turned away");
        }
        if let Some(count) = not_accepted.take_untold() {
            warn!(count, "more connections could not be accepted");
        }
        if let Some(count) = store.take_untold() {
            error!(count, "the store failed, or worked again, more often");
        }
    }
}

/// Lets a few lines pass, and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Quota(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When the first of `lines` was written.
    since: Option<Instant>,
    lines: u32,
    untold: u64,
}

impl Quota {
    /// Whether one more line may be written; if not, it is counted.
    pub(super) fn admits(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told();
        if told.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            told.since = Some(now);
            told.lines = 0;
        }
        let admitted = told.lines < LINES;
        if admitted {
            told.lines += 1;
        } else {
            told.untold += 1;
        }
        admitted
    }

    fn take_untold(&self) -> Option<u64> {
        let untold = std::mem::take(&mut self.told().untold);
        (untold > 0).then_some(untold)
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        // Numbers are sound whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines of a kind are written in a [`WINDOW`]: enough to see who it is and why.
const LINES: u32 = 5;

/// How often the rest is summed up.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
