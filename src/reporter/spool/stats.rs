//! The counters of a spool.

use metrics_wal::IoErrors;

/// What a spool holds, and what it has counted since it was opened.
///
/// At any time,
/// `recovered + spooled = replayed + dropped + expired + lost + abandoned + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct SpoolStats {
    /// Samples that waited in the spool when it was opened.
    pub recovered: u64,
    /// Samples written since.
    pub spooled: u64,
    /// Samples that were sent from the spool and have their outcome.
    pub replayed: u64,
    /// Samples dropped, oldest first, because the spool was full.
    pub dropped: u64,
    /// Bytes of the dropped segments, including samples that had been replayed already.
    pub dropped_bytes: u64,
    /// Samples dropped because they were older than [`max_age`](crate::spool::Spool::max_age).
    pub expired: u64,
    /// Samples that could not be read: damaged, or their file was missing or unreadable.
    pub lost: u64,
    /// Samples left in the directory when it was moved or taken over. The process that opens it next sends
    /// them.
    pub abandoned: u64,
    /// Samples that wait in the spool.
    pub waiting: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Bytes that the segments take on disk: whole blocks of 4,096 bytes.
    /// [`max_bytes`](crate::spool::Spool::max_bytes) bounds this.
    pub disk_bytes: u64,
    /// Segments in the directory.
    pub segments: u64,
    /// Bytes of segments that held no valid samples when they were read.
    pub damaged_bytes: u64,
    /// Bytes cut from the end of the last segment at opening: what a process was writing when it was
    /// killed.
    pub torn_bytes: u64,
    /// Segments that were renamed with a suffix: `.unreadable` if nothing in them could be read,
    /// `.committed` if their samples count as sent, as in a segment restored from a backup.
    /// [`salvage`](crate::spool::Spool::salvage) reads their samples.
    pub quarantined: u64,
    /// Errors of the file system.
    pub io_errors: IoErrors,
}
