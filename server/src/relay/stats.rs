//! The counters of a relay.

use std::time::Duration;

/// Counters of a [`Relay`](super::Relay) at one moment. Together they are exact: every point is in one place,
///
/// `applied + recovered = delivered + filtered + rejected + dropped + waiting + spooled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStats {
    /// Points that the store has applied since the relay was opened.
    pub applied: u64,
    /// Points that were in the spool when the relay was opened.
    pub recovered: u64,
    /// Points that the destination has acknowledged; for Graphite, which acknowledges nothing, points that
    /// were written to its connection.
    pub delivered: u64,
    /// Points that the rules have excluded.
    pub filtered: u64,
    /// Points that the destination has rejected for good.
    pub rejected: u64,
    /// Points that were lost, by reason.
    pub dropped: DroppedPoints,
    /// Points in memory, those of the request in flight included.
    pub waiting: u64,
    /// Points on disk, those of the request in flight included.
    pub spooled: u64,
    /// Requests that failed and are retried.
    pub failures: u64,
    /// Memory of the points that wait, in bytes.
    pub queue_bytes: u64,
    /// Space of the spool on the device, in bytes.
    pub spool_bytes: u64,
    /// Operations of the spool that failed.
    pub spool_errors: u64,
    /// How long the oldest point that is not delivered has waited.
    pub lag: Duration,
    /// True if the last request succeeded, or none was sent yet.
    pub is_up: bool,
}

/// Points that a relay has lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedPoints {
    /// The queue in memory was full, because the spool failed or was slower than the puts: new points.
    pub queue_full: u64,
    /// The spool was full: the oldest points. Those of a request in flight are counted here even if the
    /// destination has acknowledged them afterwards.
    pub spool_full: u64,
    /// The spool was damaged or taken over by another process.
    pub spool_damaged: u64,
    /// They were in memory when the relay was closed, and the spool did not take them.
    pub closed: u64,
    /// A rule has given them a name that is not a valid key.
    pub invalid_key: u64,
    /// The destination has no way to write them, such as a second before 1970 in Graphite.
    pub unrepresentable: u64,
}

impl DroppedPoints {
    /// Returns the sum of all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { queue_full, spool_full, spool_damaged, closed, invalid_key, unrepresentable } =
            self;
        queue_full + spool_full + spool_damaged + closed + invalid_key + unrepresentable
    }

    /// Returns each reason with its name.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        let Self { queue_full, spool_full, spool_damaged, closed, invalid_key, unrepresentable } =
            *self;
        [
            ("queue_full", queue_full),
            ("spool_full", spool_full),
            ("spool_damaged", spool_damaged),
            ("closed", closed),
            ("invalid_key", invalid_key),
            ("unrepresentable", unrepresentable),
        ]
    }
}

impl RelayStats {
    /// Returns true if the counters add up, which they always do.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let settled = self.delivered + self.filtered + self.rejected + self.dropped.total();
        self.applied + self.recovered == settled + self.waiting + self.spooled
    }
}
