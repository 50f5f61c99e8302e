//! Counters of one client.

/// What one client has done so far; clones of a handle share it. Where a client has
/// [several connections](crate::ClientBuilder::max_connections), it is the sum of what each has done.
///
/// At any time, `accepted = acknowledged + rejected + failed + cancelled + in_flight + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests that the client took: those with a bad key or value, or refused because the queue
    /// was full, are not among them.
    pub accepted: u64,
    /// Requests that the server answered with `ok`.
    pub acknowledged: u64,
    /// Requests that the server answered with `error`.
    pub rejected: u64,
    /// Requests that ended with any other error.
    pub failed: u64,
    /// Requests whose caller dropped the future before there was an outcome.
    pub cancelled: u64,
    /// Requests that were sent and whose callers wait for the answer.
    pub in_flight: u64,
    /// Requests that wait to be sent.
    pub queued: u64,
    /// Requests that were sent again after a connection was lost, counted each time.
    pub retried: u64,
    /// Connections made after the first; of several, after the first of each.
    pub reconnects: u64,
    /// How often the client went from one server of its list to another.
    pub failovers: u64,
    /// Bytes of requests handed to a connection, those sent again included.
    pub bytes_sent: u64,
    /// Bytes of answers received.
    pub bytes_received: u64,
}

impl ClientStats {
    /// What two connections have done together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            acknowledged: self.acknowledged + other.acknowledged,
            rejected: self.rejected + other.rejected,
            failed: self.failed + other.failed,
            cancelled: self.cancelled + other.cancelled,
            in_flight: self.in_flight + other.in_flight,
            queued: self.queued + other.queued,
            retried: self.retried + other.retried,
            reconnects: self.reconnects + other.reconnects,
            failovers: self.failovers + other.failovers,
            bytes_sent: self.bytes_sent + other.bytes_sent,
            bytes_received: self.bytes_received + other.bytes_received,
        }
    }
}

/// The counters that the pipeline keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: u64,
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) retried: u64,
    pub(super) connects: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

impl Counters {
    /// How many requests have no outcome yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.accepted - self.acknowledged - self.rejected - self.failed - self.cancelled
    }

    /// The counters, with how many of the open requests have been sent.
    pub(super) fn stats(&self, in_flight: u64) -> ClientStats {
        ClientStats {
            accepted: self.accepted,
            acknowledged: self.acknowledged,
            rejected: self.rejected,
            failed: self.failed,
            cancelled: self.cancelled,
            in_flight,
            queued: self.outstanding() - in_flight,
            retried: self.retried,
            reconnects: self.connects.saturating_sub(1),
            // The dialer counts them, once for all connections.
            failovers: 0,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
        }
    }
}
