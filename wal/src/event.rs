//! What happens in a log that its user should log or count.

use std::{ops::Range, path::PathBuf};

use crate::error::Error;

/// Something that happened in a log and made no call fail.
///
/// A log writes no log lines: it collects events, which [`Wal::take_events`](crate::Wal::take_events)
/// returns. Numbers are those of entries.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A file is not one of the log's, and is ignored.
    UnknownFile {
        /// Its name.
        name: String,
    },
    /// The last segment ended in an incomplete record, which was removed.
    TornTail {
        /// The segment.
        segment: PathBuf,
        /// How much was cut.
        bytes: u64,
    },
    /// Bytes of a segment hold no valid record. Reported by [`Wal::scan`](crate::Wal::scan).
    Damaged {
        /// The segment.
        segment: PathBuf,
        /// How many bytes were skipped.
        bytes: u64,
    },
    /// A segment was renamed, so that it is not part of the log any more.
    Quarantined {
        /// Its new path.
        path: PathBuf,
        /// Why it was renamed.
        reason: QuarantineReason,
    },
    /// A segment of committed entries, which could not be removed before, was removed at opening.
    Leftover {
        /// The segment.
        segment: PathBuf,
        /// How many entries it held.
        entries: u64,
    },
    /// An operation failed, and the log works on without it.
    Failed(Error),
    /// The committed position could not be written: the next process may read entries again.
    PositionNotSaved(Error),
    /// A segment was removed or cut by another process.
    SegmentMissing {
        /// The segment.
        segment: PathBuf,
    },
    /// The directory was removed by another process, and created again.
    DirectoryRecreated,
    /// Entries cannot be read any more: they are damaged, or their segment is missing.
    Lost {
        /// Their numbers.
        entries: Range<u64>,
    },
    /// The oldest entries were dropped to keep the log within its bound.
    Evicted {
        /// Their numbers, without those that were committed.
        entries: Range<u64>,
        /// The bytes of the segments that were removed or cut.
        bytes: u64,
    },
    /// The directory is not this log's any more, see [`Error::NotOwned`]. What it holds is left to
    /// others.
    Abandoned,
}

/// Why a segment was quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineReason {
    /// No record in it can be read. The suffix is `.unreadable`.
    Unreadable,
    /// Its entries were committed before it was found, as in a segment restored from a backup, or
    /// have the numbers of entries of another segment. The suffix is `.committed`.
    Committed,
    /// Some of it is damaged, and [`Options::keep_damaged`](crate::Options::keep_damaged) is set. The
    /// suffix is `.damaged`.
    Damaged,
}

impl QuarantineReason {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Unreadable => ".unreadable",
            Self::Committed => ".committed",
            Self::Damaged => ".damaged",
        }
    }
}
