//! When a server that stalled is probed again.

use std::time::Duration;

use tokio::time::Instant;

/// Until when a server is not probed for pipelining.
///
/// After a connection has stalled with several requests in flight, the server is probed again only after a
/// time that grows with each such stall, since a failed trial costs callers their
/// deadlines. After it has closed a connection before the probe was finished, it is not probed for a short
/// time either.
#[derive(Default)]
pub(super) struct Distrust {
    /// When the server may be probed again, and how long it has not been probed by then.
    since_stall: Option<(Instant, Duration)>,
    /// When the server may be probed again after it has closed a connection early.
    since_close: Option<Instant>,
}

impl Distrust {
    /// Notes a connection that has stalled with several requests in flight.
    pub(super) fn stalled(&mut self, now: Instant) {
        let wait = match self.since_stall {
            // A server that was trusted for longer than it had been distrusted starts over.
            Some((ends_at, wait)) if now < ends_at + wait => (2 * wait).min(LONGEST_DISTRUST),
            _ => FIRST_DISTRUST,
        };
        self.since_stall = Some((now + wait, wait));
    }

    /// Notes that the server has closed a connection before the probe was finished.
    pub(super) fn closed_during_probe(&mut self, now: Instant) {
        self.since_close = Some(now + UNPROBED_FOR);
    }

    /// Returns when the server may be probed; `None` means at any time.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.since_stall.map(|(ends_at, _)| ends_at).max(self.since_close)
    }
}

/// For how long a server is not probed after the first stall with several
/// requests in flight: six times as long as the stall itself took, with the default stall timeout.
const FIRST_DISTRUST: Duration = Duration::from_secs(60);

const LONGEST_DISTRUST: Duration = Duration::from_secs(60 * 60);

/// How long a server counts as one that takes one request at a time after it has closed a connection
/// before the probe was through. One that closes after each answer would cost a second connection for
/// each, and one that was restarted is slower for a moment.
const UNPROBED_FOR: Duration = Duration::from_secs(10);
