//! How much space segments take.

/// The block size of ext4, XFS, NTFS and APFS by default. A file takes whole blocks, so a lot of small
/// segments take far more space than they have bytes.
pub(crate) const DISK_BLOCK_BYTES: u64 = 4096;

/// The space that the segments of a log take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// The lengths of the files.
    pub(crate) bytes: u64,
    /// The disk blocks under them, in bytes.
    pub(crate) disk_bytes: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, file_bytes: u64) {
        self.bytes += file_bytes;
        self.disk_bytes += on_disk(file_bytes);
    }

    pub(crate) fn subtract(&mut self, file_bytes: u64) {
        self.bytes -= file_bytes;
        self.disk_bytes -= on_disk(file_bytes);
    }
}

/// Returns the space that a file of this many bytes takes on the device.
pub(crate) fn on_disk(file_bytes: u64) -> u64 {
    file_bytes.next_multiple_of(DISK_BLOCK_BYTES).max(DISK_BLOCK_BYTES)
}
