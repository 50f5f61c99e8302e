//! What a segment file holds: bytes to samples and back, without a file in sight.
//!
//! ```text
//! segment = header *block
//! header  = "mspool" NUL version:u8  first:u64  check:u32
//! block   = magic:4  len:u32  count:u32  first:u64  latest:i64  payload_check:u32  check:u32  payload
//! payload = *( key_len:u16  key  timestamp:i64  value:f64 )       len bytes, count samples
//! ```
//!
//! Numbers are little-endian, checks are CRC-32. Samples are numbered from the first that the folder
//! has ever held, and each block says the number of its first: so whatever is missing between two
//! blocks has a count. A block is what one write appends. Where bytes are damaged, the next block is
//! found by its magic, which no key can hold, for it is no UTF-8.

use memchr::memmem;

use crate::metric::{Key, Point, Sample};

/// How long the header of a segment is, in bytes.
pub(super) const HEADER_LEN: usize = 20;

/// The most that one block may have, its header included: what a damaged length can cost, and what
/// is lost if one bit of it turns. Some 700 samples.
pub(super) const MAX_BLOCK_LEN: usize = 32 * 1024;

const MAGIC: [u8; 7] = *b"mspool\0";
const VERSION: u8 = 1;

/// What the header of a segment file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The number of the segment's first sample.
    Valid { first: u64 },
    /// It is whole, and of a version of which this code knows nothing.
    Unknown { version: u8 },
    /// It is no header.
    Damaged,
}

impl Header {
    pub(super) fn bytes(first: u64) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = VERSION;
        bytes[8..16].copy_from_slice(&first.to_le_bytes());
        let check = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        let Some((checked, after)) = bytes.split_at_checked(16) else { return Self::Damaged };
        if !checked.starts_with(&MAGIC)
            || array(after).map(u32::from_le_bytes) != Some(crc32fast::hash(checked))
        {
            return Self::Damaged;
        }
        match array(&checked[8..]).map(u64::from_le_bytes) {
            Some(first) if checked[7] == VERSION => Self::Valid { first },
            _ => Self::Unknown { version: checked[7] },
        }
    }
}

/// What stands in front of the samples of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// How many bytes follow.
    pub(super) len: usize,
    /// How many samples they hold; never none.
    pub(super) count: u32,
    /// The number of the first.
    pub(super) first: u64,
    /// The latest timestamp among them.
    pub(super) latest: i64,
    payload_check: u32,
}

impl BlockHeader {
    pub(super) const LEN: usize = 36;
    /// `F0` begins a character of four bytes, and `b` does not continue it.
    const MAGIC: [u8; 4] = *b"\xF0blk";

    /// Reads the header at the beginning of some bytes.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (checked, after) = bytes.split_at_checked(32)?;
        if !checked.starts_with(&Self::MAGIC)
            || u32::from_le_bytes(array(after)?) != crc32fast::hash(checked)
        {
            return None;
        }
        let header = Self {
            len: usize::try_from(u32::from_le_bytes(array(&checked[4..])?)).ok()?,
            count: u32::from_le_bytes(array(&checked[8..])?),
            first: u64::from_le_bytes(array(&checked[12..])?),
            latest: i64::from_le_bytes(array(&checked[20..])?),
            payload_check: u32::from_le_bytes(array(&checked[28..])?),
        };
        let sound = header.count > 0
            && header.len <= MAX_BLOCK_LEN - Self::LEN
            && header.first.checked_add(u64::from(header.count)).is_some();
        sound.then_some(header)
    }

    /// Where in some bytes the first header begins.
    pub(super) fn find(bytes: &[u8]) -> Option<usize> {
        memmem::find_iter(bytes, &Self::MAGIC).find(|&at| Self::read(&bytes[at..]).is_some())
    }

    /// The number behind that of the last sample.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&Self::MAGIC);
        // A block's length was bounded when it was filled.
        bytes[4..8].copy_from_slice(&(self.len as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.first.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.latest.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.payload_check.to_le_bytes());
        let check = crc32fast::hash(&bytes[..32]);
        bytes[32..36].copy_from_slice(&check.to_le_bytes());
    }
}

/// Makes one block of as many of the samples as it may hold, in place of what `block` held.
pub(super) fn encode_block(first: u64, samples: &[Sample], block: &mut Vec<u8>) -> BlockHeader {
    block.clear();
    block.resize(BlockHeader::LEN, 0);
    let mut count = 0;
    let mut latest = i64::MIN;
    for Sample { key, point } in samples {
        if block.len() + FIXED_LEN + key.len() > MAX_BLOCK_LEN {
            break;
        }
        // A key has at most `Key::MAX_LEN` bytes.
        block.extend_from_slice(&(key.len() as u16).to_le_bytes());
        block.extend_from_slice(key.as_bytes());
        block.extend_from_slice(&point.timestamp.to_le_bytes());
        block.extend_from_slice(&point.value.to_le_bytes());
        latest = latest.max(point.timestamp);
        count += 1;
    }
    let payload = &block[BlockHeader::LEN..];
    let header = BlockHeader {
        len: payload.len(),
        count,
        first,
        latest,
        payload_check: crc32fast::hash(payload),
    };
    header.write(&mut block[..BlockHeader::LEN]);
    header
}

/// Reads the samples of a block, whose header `bytes` stand behind. None if they are not what was
/// written.
pub(super) fn decode_block(header: &BlockHeader, bytes: &[u8]) -> Option<Vec<Sample>> {
    let mut rest = bytes.get(..header.len)?;
    if crc32fast::hash(rest) != header.payload_check {
        return None;
    }
    let mut samples = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(u16::from_le_bytes(array(rest)?));
        let (key, after) = rest[2..].split_at_checked(len)?;
        let key = Key::new(std::str::from_utf8(key).ok()?).ok()?;
        let timestamp = i64::from_le_bytes(array(after)?);
        let value = f64::from_le_bytes(array(after.get(8..)?)?);
        if !value.is_finite() {
            return None;
        }
        samples.push(Sample { key, point: Point::new(timestamp, value) });
        rest = &after[16..];
    }
    (samples.len() == header.count as usize).then_some(samples)
}

/// What can be read of a segment, and how many of its bytes hold nothing that can.
pub(super) fn salvage(segment: &[u8]) -> (Vec<Sample>, usize) {
    let mut samples = Vec::new();
    let mut used = match Header::read(segment) {
        Header::Valid { .. } => HEADER_LEN,
        Header::Unknown { .. } | Header::Damaged => 0,
    };
    let mut rest = &segment[used..];
    while let Some(at) = BlockHeader::find(rest) {
        let payload = &rest[at + BlockHeader::LEN..];
        let block = BlockHeader::read(&rest[at..])
            .and_then(|header| Some((header.len, decode_block(&header, payload)?)));
        // If it is damaged, its length is not to be trusted either.
        rest = payload;
        if let Some((len, mut block)) = block {
            samples.append(&mut block);
            used += BlockHeader::LEN + len;
            rest = &payload[len..];
        }
    }
    (samples, segment.len() - used)
}

/// What a sample takes beside its key.
const FIXED_LEN: usize = 2 + 8 + 8;

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}
