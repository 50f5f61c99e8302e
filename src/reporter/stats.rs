//! Counters of a reporter, and the errors that report them.

use crate::error::Error;

/// Counters of a reporter, shared by all clones of a handle.
///
/// Every sample is accounted for. In each snapshot,
/// `recorded + recovered =
/// acknowledged + coalesced + rejected + dropped.total() + waiting + spooled + abandoned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct ReporterStats {
    /// Samples that were recorded, dropped ones included.
    pub recorded: u64,
    /// Samples that the server has acknowledged.
    pub acknowledged: u64,
    /// Samples that were replaced in the queue by a later one of the same key and second.
    pub coalesced: u64,
    /// Samples that the server has rejected.
    pub rejected: u64,
    /// Samples that were dropped, by reason.
    pub dropped: DropCounts,
    /// Samples in the queue, those in flight included.
    pub waiting: u64,
    /// Bytes of memory that the queued samples are counted as: see
    /// [`max_bytes`](crate::reporter::ReporterBuilder::max_bytes).
    pub waiting_bytes: u64,
    /// Samples stored in the spool, if there is one, which will be sent.
    pub spooled: u64,
    /// Samples left in a spool that was moved or taken over by another process while this reporter had
    /// it open. The next process that opens it sends them.
    pub abandoned: u64,
    /// Samples of earlier processes that were stored in the spool when this reporter was built.
    pub recovered: u64,
}

/// Counts of dropped samples, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct DropCounts {
    /// The key was invalid.
    pub invalid_key: u64,
    /// The value was NaN or infinite.
    pub not_finite: u64,
    /// The queue was full: new samples, or older ones that made room for new ones.
    pub queue_full: u64,
    /// The reporter was closed: recorded later, or not sent in time.
    pub closed: u64,
    /// The oldest samples of a full spool.
    pub spool_full: u64,
    /// Samples in a part of the spool that cannot be read any more.
    pub spool_lost: u64,
    /// Samples older than the spool's `max_age` when they were about to be sent.
    pub spool_expired: u64,
    /// Samples at which the server closes the connection, while it answers other requests. Each key is
    /// logged once.
    pub poison: u64,
    /// Samples that failed as many attempts as
    /// [`max_attempts`](crate::reporter::ReporterBuilder::max_attempts) allows.
    pub attempts: u64,
}

impl DropCounts {
    /// Returns the number of dropped samples, for all reasons together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self {
            invalid_key,
            not_finite,
            queue_full,
            closed,
            spool_full,
            spool_lost,
            spool_expired,
            poison,
            attempts,
        } = self;
        let in_spool = spool_full + spool_lost + spool_expired;
        invalid_key + not_finite + queue_full + closed + in_spool + poison + attempts
    }
}

/// Why a sample that was to be recorded was dropped: see [`Reporter::try_record`](crate::Reporter::try_record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// The key is invalid.
    #[error("sample dropped: invalid key")]
    InvalidKey,
    /// The value is NaN or infinite.
    #[error("sample dropped: value is not finite")]
    NonFiniteValue,
    /// The queue is full, and its [policy](crate::reporter::ReporterBuilder::when_full) drops new samples.
    #[error("sample dropped: queue is full")]
    QueueFull,
    /// The reporter is closed.
    #[error("sample dropped: reporter is closed")]
    Closed,
}

/// Why a sample is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossReason {
    InvalidKey,
    NonFiniteValue,
    QueueFull,
    Closed,
    Rejected,
    Poison,
    Attempts,
}

impl LossReason {
    pub(super) const COUNT: usize = 7;
}

impl From<DropReason> for LossReason {
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::InvalidKey => Self::InvalidKey,
            DropReason::NonFiniteValue => Self::NonFiniteValue,
            DropReason::QueueFull => Self::QueueFull,
            DropReason::Closed => Self::Closed,
        }
    }
}

impl ReporterStats {
    pub(super) fn counter_mut(&mut self, reason: LossReason) -> &mut u64 {
        match reason {
            LossReason::InvalidKey => &mut self.dropped.invalid_key,
            LossReason::NonFiniteValue => &mut self.dropped.not_finite,
            LossReason::QueueFull => &mut self.dropped.queue_full,
            LossReason::Closed => &mut self.dropped.closed,
            LossReason::Rejected => &mut self.rejected,
            LossReason::Poison => &mut self.dropped.poison,
            LossReason::Attempts => &mut self.dropped.attempts,
        }
    }
}

fn in_spool(spooled: u64, abandoned: u64) -> String {
    let mut text = String::new();
    for (samples, what) in [(spooled, "spooled"), (abandoned, "abandoned")] {
        if samples > 0 {
            text += &format!(", {samples} {what}");
        }
    }
    text
}

/// Not all samples that were to be flushed are stored.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "flush incomplete: {waiting} queued, {dropped} dropped, {rejected} rejected{}", in_spool(*spooled, *abandoned)
)]
#[non_exhaustive]
pub struct FlushError {
    /// Samples still in the queue; none after [`close`](crate::Reporter::close).
    pub waiting: u64,
    /// Samples that were dropped from the queue during the flush.
    pub dropped: u64,
    /// Samples that the server rejected during the flush.
    pub rejected: u64,
    /// Samples stored in the spool, if there is one, whenever they were recorded.
    pub spooled: u64,
    /// Samples left in a spool that was moved or taken over by another process during the flush.
    pub abandoned: u64,
    /// The error of the last attempt to send, if it failed.
    #[source]
    pub cause: Option<Error>,
}
