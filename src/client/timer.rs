//! The timer of a driver.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

/// The one timer of a driver, for everything that has a deadline.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it expires, if it is set.
    at: Option<Instant>,
    /// Whether it has expired, and the verdict is open.
    pub(super) is_held: bool,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(time::sleep(Duration::ZERO)), at: None, is_held: false }
    }

    pub(super) fn set(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        self.at = Some(at);
        self.is_held = false;
    }

    /// Postpones the verdict on a timer that has expired to `until` at the latest.
    pub(super) fn hold(&mut self, until: Instant) {
        self.set(until);
        self.is_held = true;
    }

    /// Sets the timer if it would expire later than `at`, and returns true if it has to be polled again.
    pub(super) fn set_if_earlier(&mut self, at: Option<Instant>) -> bool {
        match at {
            Some(at) if !self.is_held && self.at.is_none_or(|set| at < set) => {
                self.set(at);
                true
            }
            _ => false,
        }
    }

    pub(super) fn stop(&mut self) {
        self.at = None;
        self.is_held = false;
    }

    /// Ready when it has expired, or is not set.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.at.is_some() { self.sleep.as_mut().poll(cx) } else { Poll::Ready(()) }
    }
}
