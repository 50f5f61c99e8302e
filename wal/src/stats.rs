//! The counters of a log.

use std::io;

/// What a log holds, and what it has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct WalStats {
    /// Entries that were not committed when the log was opened.
    pub recovered: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Bytes that the segments take on the device: whole blocks of 4,096 bytes.
    pub disk_bytes: u64,
    /// Segments in the directory.
    pub segments: u64,
    /// Bytes of segments that held no valid record when they were read.
    pub damaged_bytes: u64,
    /// Bytes cut from the end of the last segment at opening: a record that was being written when
    /// the process was killed.
    pub torn_bytes: u64,
    /// Segments that were quarantined.
    pub quarantined: u64,
    /// Errors of the file system.
    pub io_errors: IoErrors,
}

/// Errors of the file system, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct IoErrors {
    /// The device or the user's quota is full.
    pub full: u64,
    /// An operation is not permitted, or the file system is read-only.
    pub denied: u64,
    /// A file or the directory is missing.
    pub missing: u64,
    /// Any other error.
    pub other: u64,
}

impl IoErrors {
    /// Returns the sum of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.denied + self.missing + self.other
    }

    pub(crate) fn count(&mut self, error: &io::Error) {
        let counter = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => &mut self.full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => &mut self.denied,
            io::ErrorKind::NotFound => &mut self.missing,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}
