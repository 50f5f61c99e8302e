//! What became of every sample.

use crate::error::Error;

/// What a reporter has done so far; clones of a handle share it.
///
/// Every sample is accounted for. In each snapshot,
/// `recorded + recovered =
/// acknowledged + coalesced + rejected + dropped.total() + waiting + spooled + abandoned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReporterStats {
    /// Calls that recorded something, whatever became of it.
    pub recorded: u64,
    /// Samples that the server has stored.
    pub acknowledged: u64,
    /// Samples in whose place a later one of the same key and second was sent.
    pub coalesced: u64,
    /// Samples that the server has refused.
    pub rejected: u64,
    /// Samples that were never sent, or of which nobody knows what became.
    pub dropped: DropCounts,
    /// Samples that are being sent or will be.
    pub waiting: u64,
    /// The memory that the waiting samples are counted as, in bytes: see
    /// [`max_bytes`](crate::reporter::ReporterBuilder::max_bytes).
    pub waiting_bytes: u64,
    /// Samples that lie in the spool, if there is one, and will be sent.
    pub spooled: u64,
    /// Samples left in a spool that was moved or taken over by another process while this reporter had
    /// it open: whichever process opens it next sends them.
    pub abandoned: u64,
    /// Samples of earlier processes that lay in the spool when this reporter was made.
    pub recovered: u64,
}

/// How many samples were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropCounts {
    /// The key was none.
    pub invalid_key: u64,
    /// The value was NaN or infinite.
    pub not_finite: u64,
    /// There was no room: these samples, or older ones in whose place they came.
    pub queue_full: u64,
    /// The reporter was closed: they came later, or could not be sent in time.
    pub closed: u64,
    /// They were the oldest in a spool that was full.
    pub spool_full: u64,
    /// They lay in a part of the spool that cannot be read any more.
    pub spool_lost: u64,
    /// They were older than the spool's `max_age` when it was their turn.
    pub spool_expired: u64,
    /// The server closes the connection at them, while it answers other requests. The key of each is
    /// logged once.
    pub poison: u64,
    /// As many attempts to send them failed as
    /// [`max_attempts`](crate::reporter::ReporterBuilder::max_attempts) allows.
    pub attempts: u64,
}

impl DropCounts {
    /// How many samples were dropped for whatever reason.
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
    /// The queue is full, and its [policy](crate::ReporterBuilder::when_full) drops new samples.
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
    for (samples, what) in [(spooled, "lie in the spool"), (abandoned, "were left in a spool")] {
        if samples > 0 {
            text += &format!(", {samples} {what}");
        }
    }
    text
}

/// Not everything that was to be sent has been stored.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "not everything was stored: {waiting} samples still wait, {dropped} were dropped, {rejected} were refused{}", in_spool(*spooled, *abandoned)
)]
#[non_exhaustive]
pub struct FlushError {
    /// Samples that still wait. After [`close`](crate::Reporter::close) none do.
    pub waiting: u64,
    /// Samples that had been waiting and were dropped meanwhile.
    pub dropped: u64,
    /// Samples that the server has refused meanwhile.
    pub rejected: u64,
    /// Samples that lie in the spool, if there is one, whenever they were recorded.
    pub spooled: u64,
    /// Samples left in a spool that was moved or taken over by another process in the meantime.
    pub abandoned: u64,
    /// Why the last attempt to send failed, if it did.
    #[source]
    pub cause: Option<Error>,
}
