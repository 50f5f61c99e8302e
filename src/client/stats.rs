//! The statistics of a client.

/// The statistics of a client, which all clones of its handle share. With
/// [several connections](crate::ClientBuilder::max_connections) they are the sums of all.
///
/// At any time, `accepted = acknowledged + rejected + failed + cancelled + in_flight + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests that the client accepted. Those with an invalid key or value, or refused because the queue
    /// was full, are not among them.
    pub accepted: u64,
    /// Requests that the server acknowledged with `ok`.
    pub acknowledged: u64,
    /// Requests that the server rejected with `error`.
    pub rejected: u64,
    /// Requests that failed with any other error.
    pub failed: u64,
    /// Requests that had no outcome when their caller dropped the future.
    pub cancelled: u64,
    /// Requests that were sent and whose callers wait for the response.
    pub in_flight: u64,
    /// Requests that wait to be sent.
    pub queued: u64,
    /// Requests that were sent again after a connection was lost, counted each time.
    pub retried: u64,
    /// Connections made after the first; of several, after the first of each.
    pub reconnects: u64,
    /// How often the client went from one server of its list to another.
    pub failovers: u64,
    /// Bytes of requests written to connections, including those sent again.
    pub bytes_sent: u64,
    /// Bytes of responses received.
    pub bytes_received: u64,
}

impl ClientStats {
    /// Returns the sum of the statistics of two connections.
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
    /// Returns how many requests have no outcome yet.
    pub(super) fn outstanding(&self) -> u64 {
        self.accepted - self.acknowledged - self.rejected - self.failed - self.cancelled
    }

    /// Returns the statistics, given how many of the outstanding requests have been sent.
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
