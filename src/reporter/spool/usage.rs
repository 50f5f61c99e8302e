//! How much room segments take.

/// The blocks of a disk: the default of ext4, XFS, NTFS and APFS. A file takes whole ones, so that
/// many small segments take far more room than they have bytes.
pub(super) const DISK_BLOCK_BYTES: u64 = 4096;

/// What the segments of a folder take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// The lengths of the files.
    pub(super) bytes: u64,
    /// The disk blocks under them, in bytes.
    pub(super) disk_bytes: u64,
}

impl Usage {
    pub(super) fn add(&mut self, file_bytes: u64) {
        self.bytes += file_bytes;
        self.disk_bytes += on_disk(file_bytes);
    }

    pub(super) fn subtract(&mut self, file_bytes: u64) {
        self.bytes -= file_bytes;
        self.disk_bytes -= on_disk(file_bytes);
    }
}

/// How much of a disk a file of so many bytes takes.
pub(super) fn on_disk(file_bytes: u64) -> u64 {
    file_bytes.next_multiple_of(DISK_BLOCK_BYTES).max(DISK_BLOCK_BYTES)
}
