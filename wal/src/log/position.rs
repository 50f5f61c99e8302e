//! The file `position`: which entries are committed, and which segments were removed.

use crate::fs::FileSystem;

/// The content of `position`.
///
/// ```text
/// position = committed:u64  crc:u32  removed:u64  crc:u32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The number of the first entry that is not committed.
    pub(super) committed: u64,
    /// All segments that end at or before this number were removed. One that is found all the same was
    /// put back, from a backup for example.
    pub(super) removed: u64,
}

impl Position {
    /// Reads it from its file. If the first number is damaged, nothing is committed, so entries are read
    /// twice. If the second is, all that is committed was removed, so no segment is deleted unread.
    pub(super) fn read<F: FileSystem>(fs: &F, file: &mut F::File) -> Self {
        let mut bytes = [0; POSITION_BYTES];
        let is_read = fs.read_at(file, 0, &mut bytes).is_ok();
        let committed = read_checked(&bytes[..CHECKED_BYTES]).filter(|_| is_read).unwrap_or(0);
        let removed = read_checked(&bytes[CHECKED_BYTES..]).unwrap_or(committed).min(committed);
        Self { committed, removed }
    }

    pub(super) fn bytes(self) -> [u8; POSITION_BYTES] {
        let mut bytes = [0; POSITION_BYTES];
        let numbers = [self.committed, self.removed];
        for (bytes, number) in bytes.chunks_exact_mut(CHECKED_BYTES).zip(numbers) {
            let number = number.to_le_bytes();
            bytes[..8].copy_from_slice(&number);
            bytes[8..].copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
        }
        bytes
    }
}

fn read_checked(bytes: &[u8]) -> Option<u64> {
    let (number, crc) = bytes.split_first_chunk::<8>()?;
    (crc == crc32fast::hash(number).to_le_bytes()).then(|| u64::from_le_bytes(*number))
}

/// A number and its CRC.
const CHECKED_BYTES: usize = 12;
const POSITION_BYTES: usize = 2 * CHECKED_BYTES;
