//! What a spool counts.

use std::io;

/// What a spool has done since it was opened.
///
/// At any time,
/// `recovered + spooled = replayed + dropped + expired + lost + abandoned + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStats {
    /// Samples that lay in the folder when it was opened.
    pub recovered: u64,
    /// Samples written since.
    pub spooled: u64,
    /// Samples that were read and have had their outcome.
    pub replayed: u64,
    /// Samples dropped, oldest first, because the folder was full.
    pub dropped: u64,
    /// Bytes of the segments that were dropped, samples that had been replayed already among them.
    pub dropped_bytes: u64,
    /// Samples dropped because they were older than they [may be](crate::spool::Spool::max_age).
    pub expired: u64,
    /// Samples that could not be read any more: damaged, or their file was gone or unreadable.
    pub lost: u64,
    /// Samples left in the folder when it was moved or taken over: whichever process opens it next
    /// sends them.
    pub abandoned: u64,
    /// Samples that wait in the folder.
    pub waiting: u64,
    /// Bytes of segments in the folder.
    pub bytes: u64,
    /// What the segments take on disk, in bytes: whole blocks of 4,096. This is what
    /// [`max_bytes`](crate::spool::Spool::max_bytes) bounds.
    pub disk_bytes: u64,
    /// Segments in the folder.
    pub segments: u64,
    /// Bytes in which no samples were found when they were read.
    pub damaged_bytes: u64,
    /// Bytes cut from the end of the last segment when the folder was opened: what a process was
    /// writing when it was killed.
    pub torn_bytes: u64,
    /// Files set aside, under a name with a suffix: `.unreadable` where nothing in them could be read,
    /// `.settled` where their samples count as sent, as in a segment that was put back from a backup.
    /// What is in them can be read with [`salvage`](crate::spool::Spool::salvage).
    pub quarantine: u64,
    /// What the file system refused.
    pub io_errors: IoErrors,
}

/// Errors of the file system, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoErrors {
    /// The disk, or the quota of the user, is full.
    pub full: u64,
    /// Something is not permitted, or the file system is read-only.
    pub denied: u64,
    /// A file or the folder is gone.
    pub missing: u64,
    /// Anything else.
    pub other: u64,
}

impl IoErrors {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.denied + self.missing + self.other
    }

    pub(super) fn count(&mut self, error: &io::Error) {
        let counter = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => &mut self.full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => &mut self.denied,
            io::ErrorKind::NotFound => &mut self.missing,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}
