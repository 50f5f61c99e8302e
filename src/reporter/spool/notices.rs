//! What a folder has to say. It is kept until no lock is held, and logged then.

use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use super::error::SpoolError;
use crate::{
    log_limit::{Lasting, LogLimiter},
    log_state::LogState,
};

/// Something that a person should know of a folder.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A file is no segment of the spool, and is left alone.
    ForeignFile { file: String },
    /// The segment that was written last was torn, and so many bytes were cut.
    Torn { segment: PathBuf, bytes: u64 },
    /// A segment was renamed.
    SetAside { file: PathBuf, why: Aside },
    /// A segment that an earlier process had settled, and could not remove any more, is removed.
    Leftover { segment: PathBuf, samples: u64 },
    /// An error that stops nothing.
    Failed(SpoolError),
    /// What is settled could not be written down: samples may be sent twice.
    PositionUnsaved(SpoolError),
    /// A segment was removed or cut by another process.
    SegmentGone { segment: PathBuf },
    /// The folder was removed by another process, and made anew.
    FolderGone,
    /// Samples cannot be read any more.
    Lost { samples: u64 },
    /// The oldest samples were dropped: the folder is full.
    Dropped { samples: u64 },
    /// Samples were older than they may be.
    Expired { samples: u64 },
    /// The folder is not ours any more.
    Abandoned { samples: u64 },
}

/// Why a segment is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Nothing in it can be read.
    Unreadable,
    /// Its numbers had been settled before it was found, or those of another segment are the same.
    Settled,
}

/// Logs the notices of one folder, at a limited rate.
#[derive(Debug, Default)]
pub(crate) struct SpoolLog {
    files: LogLimiter,
    damage: LogLimiter,
    expired: LogLimiter,
    failing: LogState,
    positions: LogState,
    full: LogState,
    rescues: LogLimiter,
}

/// How a folder is, apart from what it has to say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// At least half of its bound is free.
    pub(crate) has_room: bool,
    /// What is settled is written down.
    pub(crate) is_position_saved: bool,
    /// No file waits to be removed.
    pub(crate) is_tidy: bool,
}

impl SpoolLog {
    /// Logs what was noted while the folder was used, and what is over.
    pub(super) fn write(&self, folder: &Path, notices: Vec<Notice>, health: Health) {
        let is_failing = notices.iter().any(|notice| matches!(notice, Notice::Failed(_)));
        for notice in notices {
            self.write_one(folder, notice);
        }
        if health.has_room
            && let Some(Lasting { since, .. }) = self.full.is_over()
        {
            info!(?folder, lasted = ?since, "the spool has room again");
        }
        if health.is_position_saved
            && let Some(Lasting { since, .. }) = self.positions.is_over()
        {
            info!(?folder, lasted = ?since, "the spool's position is saved again");
        }
        if health.is_tidy
            && !is_failing
            && let Some(Lasting { since, .. }) = self.failing.is_over()
        {
            info!(?folder, lasted = ?since, "the spool works without errors again");
        }
    }

    /// What waited in memory could not be moved to the folder, at the end.
    pub(super) fn not_rescued(&self, error: &SpoolError) {
        if self.rescues.should_log() {
            let suppressed = self.rescues.take_suppressed();
            let error = error as &dyn std::error::Error;
            error!(error, suppressed, "samples that could not be sent cannot be stored either");
        }
    }

    fn write_one(&self, folder: &Path, notice: Notice) {
        match notice {
            Notice::Failed(error) => {
                if let Some(Lasting { since, times }) = self.failing.holds() {
                    let error = &error as &dyn std::error::Error;
                    warn!(?folder, error, ?since, times, "the spool goes on without");
                }
            }
            Notice::PositionUnsaved(error) => {
                if let Some(Lasting { since, times }) = self.positions.holds() {
                    let error = &error as &dyn std::error::Error;
                    warn!(?folder, error, ?since, times, "some samples may be sent twice");
                }
            }
            Notice::Dropped { samples } => {
                if let Some(Lasting { since, times }) = self.full.holds() {
                    warn!(
                        ?folder,
                        samples,
                        ?since,
                        times,
                        "the spool is full: its oldest samples are dropped"
                    );
                }
            }
            Notice::Abandoned { samples } => {
                error!(
                    ?folder,
                    samples,
                    "the spool was moved or taken over by another process: \
                               the reporter goes on without"
                );
            }
            Notice::Expired { samples } if self.expired.should_log() => {
                let suppressed = self.expired.take_suppressed();
                warn!(?folder, samples, suppressed, "samples in the spool were too old to be sent");
            }
            Notice::ForeignFile { file } if self.files.should_log() => {
                let suppressed = self.files.take_suppressed();
                warn!(?folder, file, suppressed, "no segment of the spool: left alone");
            }
            Notice::Leftover { segment, samples } if self.files.should_log() => {
                let suppressed = self.files.take_suppressed();
                info!(?segment, samples, suppressed, "a segment that was sent is removed");
            }
            notice if is_damage(&notice) && self.damage.should_log() => {
                self.write_damage(folder, notice);
            }
            _ => {}
        }
    }

    fn write_damage(&self, folder: &Path, notice: Notice) {
        let suppressed = self.damage.take_suppressed();
        match notice {
            Notice::Torn { segment, bytes } => {
                warn!(?segment, bytes, suppressed, "the spool's last segment is torn: cut");
            }
            Notice::SetAside { file, why: Aside::Unreadable } => {
                warn!(?file, suppressed, "nothing in this segment can be read: set aside");
            }
            Notice::SetAside { file, why: Aside::Settled } => {
                warn!(
                    ?file,
                    suppressed,
                    "a segment whose samples count as sent was put into the spool: set aside"
                );
            }
            Notice::SegmentGone { segment } => {
                warn!(
                    ?segment,
                    suppressed, "a segment of the spool was removed or cut by another process"
                );
            }
            Notice::FolderGone => {
                warn!(?folder, suppressed, "the spool's folder was removed: made again");
            }
            Notice::Lost { samples } => {
                warn!(?folder, samples, suppressed, "samples in the spool cannot be read any more");
            }
            _ => {}
        }
    }
}

fn is_damage(notice: &Notice) -> bool {
    matches!(
        notice,
        Notice::Torn { .. }
            | Notice::SetAside { .. }
            | Notice::SegmentGone { .. }
            | Notice::FolderGone
            | Notice::Lost { .. }
    )
}
