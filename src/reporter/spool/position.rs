//! The file `position`: how far the spool is settled, and what was removed.

use super::fs::FileSystem;

/// What `position` says.
///
/// ```text
/// position = settled:u64  check:u32  removed:u64  check:u32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The number of the first sample that has had no outcome.
    pub(super) settled: u64,
    /// All segments that end at or before this number had been removed. One that is found all the same
    /// was put back, from a backup for example.
    pub(super) removed: u64,
}

impl Position {
    /// Reads it from its file. Where that does not say, nothing is settled, and all that is settled was
    /// removed: the first sends samples twice, the second deletes nothing.
    pub(super) fn read<D: FileSystem>(fs: &D, file: &mut D::File) -> Self {
        let mut bytes = [0; POSITION_LEN];
        let is_read = fs.read_at(file, 0, &mut bytes).is_ok();
        let settled = read_checked(&bytes[..CHECKED_LEN]).filter(|_| is_read).unwrap_or(0);
        let removed = read_checked(&bytes[CHECKED_LEN..]).unwrap_or(settled).min(settled);
        Self { settled, removed }
    }

    pub(super) fn bytes(self) -> [u8; POSITION_LEN] {
        let mut bytes = [0; POSITION_LEN];
        for (bytes, number) in bytes.chunks_exact_mut(CHECKED_LEN).zip([self.settled, self.removed])
        {
            let number = number.to_le_bytes();
            bytes[..8].copy_from_slice(&number);
            bytes[8..].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
        }
        bytes
    }
}

fn read_checked(bytes: &[u8]) -> Option<u64> {
    let (number, check) = bytes.split_first_chunk::<8>()?;
    (check == crc32fast::hash(number).to_le_bytes()).then(|| u64::from_le_bytes(*number))
}

/// A number and its CRC-32.
const CHECKED_LEN: usize = 12;
const POSITION_LEN: usize = 2 * CHECKED_LEN;
