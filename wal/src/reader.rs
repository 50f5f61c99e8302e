//! Finds the records of a segment, one after the other, also behind damaged bytes.

use std::io;

use crate::{
    fs::FileSystem,
    record::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES},
};

/// A position in a segment file, and the bytes around it.
#[derive(Debug)]
pub(crate) struct SegmentReader<F> {
    file: F,
    /// Where the next record is searched.
    pub(crate) offset: u64,
    /// Bytes of the file from `buffer_offset` on. Bytes before the segment's end never change.
    buffer: Vec<u8>,
    buffer_offset: u64,
}

/// A record whose header is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordRef {
    pub(crate) offset: u64,
    pub(crate) header: RecordHeader,
}

impl RecordRef {
    /// Returns the offset behind the record.
    pub(crate) fn end(&self) -> u64 {
        self.payload_offset() + self.header.len as u64
    }

    /// Returns the offset of its payload. If that is damaged, the next record is searched from here:
    /// the length of this one is then not to be trusted either.
    pub(crate) fn payload_offset(&self) -> u64 {
        self.offset + RECORD_HEADER_BYTES as u64
    }
}

impl<F> SegmentReader<F> {
    /// Returns a reader at the first record.
    pub(crate) fn new(file: F) -> Self {
        Self { file, offset: SEGMENT_HEADER_BYTES as u64, buffer: Vec::new(), buffer_offset: 0 }
    }

    /// Returns the header of the segment.
    pub(crate) fn header(
        &mut self,
        fs: &impl FileSystem<File = F>,
    ) -> io::Result<[u8; SEGMENT_HEADER_BYTES]> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        fs.read_at(&mut self.file, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns the first record at or behind `from` that ends at or before `end`.
    pub(crate) fn find(
        &mut self,
        fs: &impl FileSystem<File = F>,
        mut from: u64,
        end: u64,
    ) -> io::Result<Option<RecordRef>> {
        loop {
            let bytes = self.bytes(fs, from, SEARCH_BYTES, end)?;
            if bytes.len() < RECORD_HEADER_BYTES {
                return Ok(None);
            }
            let Some(skipped) = RecordHeader::find(bytes) else {
                from += (bytes.len() - (RECORD_HEADER_BYTES - 1)) as u64;
                continue;
            };
            let found = RecordHeader::decode(&bytes[skipped..])
                .map(|header| RecordRef { offset: from + skipped as u64, header })
                .filter(|found| found.end() <= end);
            if found.is_some() {
                return Ok(found);
            }
            from += skipped as u64 + 1;
        }
    }

    /// Returns the payload of a record, or `None` if it is damaged.
    pub(crate) fn payload(
        &mut self,
        fs: &impl FileSystem<File = F>,
        found: &RecordRef,
    ) -> io::Result<Option<&[u8]>> {
        let bytes = self.bytes(fs, found.payload_offset(), found.header.len, found.end())?;
        Ok(found.header.payload(bytes))
    }

    /// Returns the offset behind the last byte from `from` to `end` that is not zero, or `from`.
    pub(crate) fn last_byte(
        &mut self,
        fs: &impl FileSystem<File = F>,
        from: u64,
        end: u64,
    ) -> io::Result<u64> {
        let (mut at, mut last) = (from, from);
        while at < end {
            let bytes = self.bytes(fs, at, READ_BYTES, end)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(found) = bytes.iter().rposition(|&byte| byte != 0) {
                last = at + found as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(last)
    }

    /// Returns the bytes from `from` to `end`, at most `len`.
    pub(crate) fn bytes(
        &mut self,
        fs: &impl FileSystem<File = F>,
        from: u64,
        len: usize,
        end: u64,
    ) -> io::Result<&[u8]> {
        let left = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let covered = |offset: u64, buffer: &[u8]| {
            let skipped = usize::try_from(from.checked_sub(offset)?).ok()?;
            (skipped + len <= buffer.len()).then_some(skipped)
        };
        if let Some(skipped) = covered(self.buffer_offset, &self.buffer) {
            return Ok(&self.buffer[skipped..skipped + len]);
        }
        self.buffer.resize(left.min(READ_BYTES).max(len), 0);
        self.buffer_offset = from;
        let read = fs.read_at(&mut self.file, from, &mut self.buffer);
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        // The file may have become shorter.
        Ok(&self.buffer[..len.min(self.buffer.len())])
    }
}

/// How much of a segment is searched at once for a header.
const SEARCH_BYTES: usize = 32 * 1024;

/// How much is read at once.
const READ_BYTES: usize = 2 * SEARCH_BYTES;
