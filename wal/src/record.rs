//! The format of a segment file, without IO.
//!
//! ```text
//! segment = header *record
//! header  = "metwal" NUL version:u8  first:u64  crc:u32
//! record  = magic:4  len:u32  count:u32  first:u64  latest:i64  payload_crc:u32  crc:u32  payload
//! ```
//!
//! Integers are little-endian, and a CRC is a CRC-32 of the bytes in front of it. A record holds `count`
//! entries in `len` bytes of payload. Entries are numbered from the first that the log has ever held,
//! and each record has the number of its first: so the entries that are missing between two records can
//! be counted. One append writes one record. Behind damaged bytes, the next record is found by its magic.

use std::ops::Range;

use memchr::memmem;

/// The length of the header of a segment, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 20;

/// The length of the header of a record, in bytes.
pub const RECORD_HEADER_BYTES: usize = 36;

/// The longest payload of a record, in bytes.
///
/// If a bit of a payload is damaged, the entire record is lost: short records lose less.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

const SEGMENT_MAGIC: [u8; 7] = *b"metwal\0";
const VERSION: u8 = 1;
/// It is not UTF-8: `F0` begins a character of four bytes, and `r` does not continue it.
const RECORD_MAGIC: [u8; 4] = *b"\xF0rec";

/// A record of a log.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The number of its first entry.
    pub first: u64,
    /// How many entries it holds, at least one.
    pub count: u32,
    /// The latest timestamp of its entries, as it was appended.
    pub latest: i64,
    /// The numbers of the entries that the reader has not seen: all of them, or some if the reader is in
    /// the middle of the record or asked for fewer.
    pub unread: Range<u64>,
    /// Its payload, as it was appended.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn new(header: &RecordHeader, unread: Range<u64>, payload: &'a [u8]) -> Self {
        let RecordHeader { first, count, latest, .. } = *header;
        Self { first, count, latest, unread, payload }
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentHeader {
    Valid,
    /// It is intact, and of a version that this code cannot read.
    Newer {
        version: u8,
    },
    Damaged,
}

impl SegmentHeader {
    /// Returns the header of a segment whose first entry has this number.
    pub(crate) fn bytes(first: u64) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..7].copy_from_slice(&SEGMENT_MAGIC);
        bytes[7] = VERSION;
        bytes[8..16].copy_from_slice(&first.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let Some((checked, crc)) = bytes.split_at_checked(16) else { return Self::Damaged };
        if !checked.starts_with(&SEGMENT_MAGIC)
            || array(crc).map(u32::from_le_bytes) != Some(crc32fast::hash(checked))
        {
            Self::Damaged
        } else if checked[7] == VERSION {
            Self::Valid
        } else {
            Self::Newer { version: checked[7] }
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// The length of the payload.
    pub(crate) len: usize,
    /// How many entries it holds, at least one.
    pub(crate) count: u32,
    /// The number of the first.
    pub(crate) first: u64,
    pub(crate) latest: i64,
    payload_crc: u32,
}

impl RecordHeader {
    /// Reads the header at the beginning of some bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, crc) = bytes.split_at_checked(32)?;
        if !checked.starts_with(&RECORD_MAGIC)
            || u32::from_le_bytes(array(crc)?) != crc32fast::hash(checked)
        {
            return None;
        }
        let header = Self {
            len: usize::try_from(u32::from_le_bytes(array(&checked[4..])?)).ok()?,
            count: u32::from_le_bytes(array(&checked[8..])?),
            first: u64::from_le_bytes(array(&checked[12..])?),
            latest: i64::from_le_bytes(array(&checked[20..])?),
            payload_crc: u32::from_le_bytes(array(&checked[28..])?),
        };
        let is_valid = header.count > 0
            && header.len <= MAX_PAYLOAD_BYTES
            && header.first.checked_add(u64::from(header.count)).is_some();
        is_valid.then_some(header)
    }

    /// Returns where in some bytes the first header begins.
    pub(crate) fn find(bytes: &[u8]) -> Option<usize> {
        memmem::find_iter(bytes, &RECORD_MAGIC).find(|&at| Self::decode(&bytes[at..]).is_some())
    }

    /// Returns the number after that of the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Returns the payload, with which `bytes` begin, if it is intact.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(..self.len)?;
        (crc32fast::hash(payload) == self.payload_crc).then_some(payload)
    }
}

/// Writes a record to a buffer, in place of what that held. `payload` is at most [`MAX_PAYLOAD_BYTES`]
/// long.
pub(crate) fn encode_record(
    first: u64,
    count: u32,
    latest: i64,
    payload: &[u8],
    buffer: &mut Vec<u8>,
) {
    buffer.clear();
    buffer.extend_from_slice(&RECORD_MAGIC);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&count.to_le_bytes());
    buffer.extend_from_slice(&first.to_le_bytes());
    buffer.extend_from_slice(&latest.to_le_bytes());
    buffer.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let crc = crc32fast::hash(buffer);
    buffer.extend_from_slice(&crc.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// Visits the valid records of a segment's bytes, whatever has become of them, and returns how many
/// bytes hold no valid record. For quarantined files, and for tools.
///
/// `visit` returns false for a record whose payload it cannot use: it then counts as damaged.
pub fn salvage(segment: &[u8], visit: impl FnMut(Record<'_>) -> bool) -> usize {
    damaged_ranges(segment, visit).iter().map(Range::len).sum()
}

/// Visits the valid records of a segment's bytes as [`salvage`] does, and returns where no valid record is.
///
/// Zeros at the end, with which segments are filled, are no damage. What is behind the last record of the last
/// segment is neither: a record that was not written completely.
pub fn damaged_ranges(
    segment: &[u8],
    mut visit: impl FnMut(Record<'_>) -> bool,
) -> Vec<Range<usize>> {
    let mut damaged = Vec::new();
    let mut used = match SegmentHeader::decode(segment) {
        SegmentHeader::Valid => SEGMENT_HEADER_BYTES,
        SegmentHeader::Newer { .. } | SegmentHeader::Damaged => 0,
    };
    let mut from = used;
    while let Some(at) = segment.get(from..).and_then(RecordHeader::find) {
        let begin = from + at;
        // If the payload is damaged, its length is not to be trusted either.
        from = begin + RECORD_HEADER_BYTES;
        let Some(header) = RecordHeader::decode(&segment[begin..]) else { break };
        if let Some(payload) = segment.get(from..).and_then(|rest| header.payload(rest))
            && visit(Record::new(&header, header.first..header.end(), payload))
        {
            if used < begin {
                damaged.push(used..begin);
            }
            from += header.len;
            used = from;
        }
    }
    // A segment may be filled with zeros ahead of its records.
    let zeros = segment.iter().rev().take_while(|&&byte| byte == 0).count();
    let end = segment.len() - zeros;
    if used < end {
        damaged.push(used..end);
    }
    damaged
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}
