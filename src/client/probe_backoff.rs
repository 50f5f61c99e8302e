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
pub(super) struct ProbeBackoff {
    /// When the server may be probed again, and how long it has not been probed by then.
    since_stall: Option<(Instant, Duration)>,
    /// When the server may be probed again after it has closed a connection early.
    since_close: Option<Instant>,
}

impl ProbeBackoff {
    /// Notes a connection that has stalled with several requests in flight.
    pub(super) fn on_stalled(&mut self, now: Instant) {
        let wait = match self.since_stall {
            // A server that was good for longer than it had not been probed starts over.
            Some((probe_at, wait)) if now < probe_at + wait => (2 * wait).min(MAX_BACKOFF),
            _ => FIRST_BACKOFF,
        };
        self.since_stall = Some((now + wait, wait));
    }

    /// Notes that the server has closed a connection before the probe was finished.
    pub(super) fn on_closed_early(&mut self, now: Instant) {
        self.since_close = Some(now + BACKOFF_AFTER_CLOSE);
    }

    /// Returns when the server may be probed; `None` means at any time.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.since_stall.map(|(probe_at, _)| probe_at).max(self.since_close)
    }
}

/// For how long a server is not probed after the first stall with several
/// requests in flight: six times as long as the stall itself took, with the default stall timeout.
const FIRST_BACKOFF: Duration = Duration::from_secs(60);

const MAX_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// How long a server counts as one that takes one request at a time after it has closed a connection
/// before the probe was through. One that closes after each answer would cost a second connection for
/// each, and one that was restarted is slower for a moment.
const BACKOFF_AFTER_CLOSE: Duration = Duration::from_secs(10);
