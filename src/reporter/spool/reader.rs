//! Finds the blocks of a segment, one after the other, also where some of it is damaged.

use std::io;

use super::{
    fs::FileSystem,
    segment::{BlockHeader, HEADER_LEN, MAX_BLOCK_LEN, decode_block},
};
use crate::metric::Sample;

/// A place in a segment file, and the bytes around it.
#[derive(Debug)]
pub(super) struct Reader<F> {
    file: F,
    /// Where the next block is looked for.
    pub(super) offset: u64,
    /// Bytes of the file, from `window_at` on. What was once written in front of the segment's end
    /// does not change.
    window: Vec<u8>,
    window_at: u64,
}

/// A block whose header is sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRef {
    pub(super) at: u64,
    pub(super) header: BlockHeader,
}

impl BlockRef {
    /// The place behind the block.
    pub(super) fn end(&self) -> u64 {
        self.payload_at() + self.header.len as u64
    }

    /// Where its samples begin. If they are damaged, the next block is looked for from here: the
    /// length of this one is then not to be trusted either.
    pub(super) fn payload_at(&self) -> u64 {
        self.at + BlockHeader::LEN as u64
    }
}

impl<F> Reader<F> {
    /// A reader at the first block.
    pub(super) fn new(file: F) -> Self {
        Self { file, offset: HEADER_LEN as u64, window: Vec::new(), window_at: 0 }
    }

    /// The file's first bytes.
    pub(super) fn header(
        &mut self,
        fs: &impl FileSystem<File = F>,
    ) -> io::Result<[u8; HEADER_LEN]> {
        let mut bytes = [0; HEADER_LEN];
        fs.read_at(&mut self.file, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The first block at or behind `from` that lies in front of `end`, the segment's own.
    pub(super) fn find(
        &mut self,
        fs: &impl FileSystem<File = F>,
        mut from: u64,
        end: u64,
    ) -> io::Result<Option<BlockRef>> {
        loop {
            let bytes = self.bytes(fs, from, MAX_BLOCK_LEN, end)?;
            if bytes.len() < BlockHeader::LEN {
                return Ok(None);
            }
            let Some(skipped) = BlockHeader::find(bytes) else {
                from += (bytes.len() - (BlockHeader::LEN - 1)) as u64;
                continue;
            };
            let found = BlockHeader::read(&bytes[skipped..])
                .map(|header| BlockRef { at: from + skipped as u64, header })
                .filter(|found| found.end() <= end);
            if found.is_some() {
                return Ok(found);
            }
            from += skipped as u64 + 1;
        }
    }

    /// The samples of a block that was found. None if they are damaged.
    pub(super) fn samples(
        &mut self,
        fs: &impl FileSystem<File = F>,
        found: &BlockRef,
    ) -> io::Result<Option<Vec<Sample>>> {
        let bytes = self.bytes(fs, found.payload_at(), found.header.len, found.end())?;
        Ok(decode_block(&found.header, bytes))
    }

    /// As many bytes from `from` on as there are in front of `end`, `len` at most.
    pub(super) fn bytes(
        &mut self,
        fs: &impl FileSystem<File = F>,
        from: u64,
        len: usize,
        end: u64,
    ) -> io::Result<&[u8]> {
        let len = usize::try_from(end.saturating_sub(from)).map_or(len, |left| left.min(len));
        let covered = |at: u64, window: &[u8]| {
            let skipped = usize::try_from(from.checked_sub(at)?).ok()?;
            (skipped + len <= window.len()).then_some(skipped)
        };
        if let Some(skipped) = covered(self.window_at, &self.window) {
            return Ok(&self.window[skipped..skipped + len]);
        }
        let ahead =
            usize::try_from(end.saturating_sub(from)).map_or(WINDOW, |left| left.min(WINDOW));
        self.window.resize(ahead.max(len), 0);
        self.window_at = from;
        let read = fs.read_at(&mut self.file, from, &mut self.window);
        self.window.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        // The file may have become shorter than it was.
        Ok(&self.window[..len.min(self.window.len())])
    }
}

/// How much is read at once.
const WINDOW: usize = 2 * MAX_BLOCK_LEN;
