//! What is to be logged of a spool. It is kept until no lock is held, and logged then.

use std::path::{Path, PathBuf};

use metrics_wal::QuarantineReason;
use tracing::{error, info, warn};

use super::error::SpoolError;
use crate::{
    log_limit::{Lasting, LogLimiter},
    log_state::LogState,
};

/// Something to be logged of a spool.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A file is not one of the spool's, and is ignored.
    UnknownFile { name: String },
    /// The last segment ended in an incomplete record, which was removed.
    TornTail { segment: PathBuf, bytes: u64 },
    /// A segment was renamed.
    Quarantined { path: PathBuf, reason: QuarantineReason },
    /// A segment that an earlier process had sent, and could not remove, was removed.
    Leftover { segment: PathBuf, samples: u64 },
    /// An operation failed, and the spool works on without it.
    Failed(SpoolError),
    /// The position could not be written: samples may be sent twice.
    PositionNotSaved(SpoolError),
    /// A segment was removed or cut by another process.
    SegmentMissing { segment: PathBuf },
    /// The directory was removed by another process, and created again.
    DirectoryRecreated,
    /// Samples cannot be read any more.
    Lost { samples: u64 },
    /// The oldest samples were dropped because the spool is full.
    Dropped { samples: u64 },
    /// Samples were too old to be sent.
    Expired { samples: u64 },
    /// The directory was taken over by another process.
    Abandoned { samples: u64 },
}

/// Logs the notices of one spool, at a limited rate.
#[derive(Debug, Default)]
pub(crate) struct SpoolLogger {
    files: LogLimiter,
    damage: LogLimiter,
    expired: LogLimiter,
    failing: LogState,
    positions: LogState,
    full: LogState,
    rescues: LogLimiter,
}

/// The state of a spool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// At least half of its space is free.
    pub(crate) has_room: bool,
    /// Its position is written.
    pub(crate) is_position_saved: bool,
    /// No sent segment waits to be removed.
    pub(crate) is_tidy: bool,
}

impl SpoolLogger {
    /// Logs what was noted while the spool was used, and the states that have ended.
    pub(super) fn write(&self, dir: &Path, notices: Vec<Notice>, health: Health) {
        let is_failing = notices.iter().any(|notice| matches!(notice, Notice::Failed(_)));
        for notice in notices {
            self.write_one(dir, notice);
        }
        if health.has_room
            && let Some(Lasting { since, .. }) = self.full.is_over()
        {
            info!(?dir, lasted = ?since, "spool has free space again");
        }
        if health.is_position_saved
            && let Some(Lasting { since, .. }) = self.positions.is_over()
        {
            info!(?dir, lasted = ?since, "spool position is saved again");
        }
        if health.is_tidy
            && !is_failing
            && let Some(Lasting { since, .. }) = self.failing.is_over()
        {
            info!(?dir, lasted = ?since, "spool has recovered from errors");
        }
    }

    /// Logs that samples in memory could not be moved to the spool at the end.
    pub(super) fn not_spilled(&self, error: &SpoolError) {
        if self.rescues.should_log() {
            let suppressed = self.rescues.take_suppressed();
            let error = error as &dyn std::error::Error;
            error!(error, suppressed, "unsent samples could not be spooled");
        }
    }

    fn write_one(&self, dir: &Path, notice: Notice) {
        match notice {
            Notice::Failed(error) => {
                if let Some(Lasting { since, times }) = self.failing.holds() {
                    let error = &error as &dyn std::error::Error;
                    warn!(?dir, error, ?since, times, "spool operation failed and is skipped");
                }
            }
            Notice::PositionNotSaved(error) => {
                if let Some(Lasting { since, times }) = self.positions.holds() {
                    let error = &error as &dyn std::error::Error;
                    warn!(
                        ?dir,
                        error,
                        ?since,
                        times,
                        "spool position not saved: samples may be sent twice"
                    );
                }
            }
            Notice::Dropped { samples } => {
                if let Some(Lasting { since, times }) = self.full.holds() {
                    warn!(
                        ?dir,
                        samples,
                        ?since,
                        times,
                        "spool is full: dropping its oldest samples"
                    );
                }
            }
            Notice::Abandoned { samples } => {
                error!(
                    ?dir,
                    samples,
                    "spool was moved or taken over by another process: continuing without it"
                );
            }
            Notice::Expired { samples } if self.expired.should_log() => {
                let suppressed = self.expired.take_suppressed();
                warn!(?dir, samples, suppressed, "dropped spooled samples that are too old");
            }
            Notice::UnknownFile { name } if self.files.should_log() => {
                let suppressed = self.files.take_suppressed();
                warn!(?dir, name, suppressed, "ignoring unknown file in the spool directory");
            }
            Notice::Leftover { segment, samples } if self.files.should_log() => {
                let suppressed = self.files.take_suppressed();
                info!(
                    ?segment,
                    samples, suppressed, "removed a spool segment that was already sent"
                );
            }
            notice if is_damage(&notice) && self.damage.should_log() => {
                self.write_damage(dir, notice);
            }
            _ => {}
        }
    }

    fn write_damage(&self, dir: &Path, notice: Notice) {
        let suppressed = self.damage.take_suppressed();
        match notice {
            Notice::TornTail { segment, bytes } => {
                warn!(?segment, bytes, suppressed, "cut the torn end of the last spool segment");
            }
            Notice::Quarantined { path, reason: QuarantineReason::Committed } => {
                warn!(?path, suppressed, "quarantined a spool segment that counts as sent");
            }
            Notice::Quarantined { path, .. } => {
                warn!(?path, suppressed, "quarantined an unreadable spool segment");
            }
            Notice::SegmentMissing { segment } => {
                warn!(?segment, suppressed, "spool segment was removed or cut by another process");
            }
            Notice::DirectoryRecreated => {
                warn!(?dir, suppressed, "spool directory was removed: created again");
            }
            Notice::Lost { samples } => {
                warn!(?dir, samples, suppressed, "spooled samples are lost");
            }
            _ => {}
        }
    }
}

fn is_damage(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::TornTail { .. }
            | Notice::Quarantined { .. }
            | Notice::SegmentMissing { .. }
            | Notice::DirectoryRecreated
            | Notice::Lost { .. }
    )
}
