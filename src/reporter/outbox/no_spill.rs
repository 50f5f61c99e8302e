//! In place of `spill` in a build without a spool: nothing is held back, and nothing is moved anywhere.

use super::ReporterStats;
use crate::metric::Sample;

#[derive(Debug, Default)]
pub(in crate::reporter) struct SpillState {}

impl SpillState {
    pub(super) fn may_hold_back(&self) -> bool {
        false
    }

    pub(super) fn holds_back(&self, _: &Sample) -> bool {
        false
    }

    pub(super) fn is_spilling(&self) -> bool {
        false
    }

    pub(super) fn pauses_sender(&self) -> bool {
        false
    }

    pub(super) fn add_to(&self, stats: ReporterStats) -> ReporterStats {
        stats
    }

    pub(super) fn dropped(&self) -> u64 {
        0
    }
}
