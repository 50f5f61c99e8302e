//! Finds what is left in a damaged database, and writes it to a new one.
//!
//! Blocks and names of keys have CRCs of their own, so they are searched in all leaf pages of the file, whatever
//! has become of the tree. A page that is free holds what was there before, so blocks are merged in the order of
//! their generations: what is newer replaces it. Where the newest copy of a block is damaged, an older one
//! is used, which has fewer points, and of points that were replaced the older value.
//!
//! ```text
//! leaf page  _:u16  count:u16  (end of value:u32)*count  key*count  value*count
//! ```
//!
//! This is <https://github.com/cberner/redb/blob/master/docs/design.md>, with keys of a fixed length and values
//! of any. Pages begin at multiples of 4,096.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    path::Path,
};

use imbl::Vector;
use metrics_client::Key;
use metrics_wal::{FileSystem, OsFileSystem};

use super::{
    block::{self, Header},
    blocks::decode_name,
    writer::DatabaseWriter,
};

/// What was found in a damaged database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    pub(super) keys: u64,
    pub(super) points: u64,
    /// Blocks of which the key is not known.
    pub(super) nameless: u64,
}

/// An intact block in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    id: u32,
    generation: u32,
    first: i64,
    offset: u64,
    len: usize,
}

/// Writes the keys and blocks of a damaged database to a new one. Entries of the log before `sealed` are in it.
///
/// Keys get new ids, which leave out those without blocks; unless they are `known`, all of them.
pub(super) fn salvage(
    damaged: &Path,
    new: &Path,
    cache_bytes: usize,
    sealed: u64,
    known: Option<&Vector<Key>>,
) -> Result<Salvaged, redb::Error> {
    let mut file = File::open(damaged)?;
    let (mut blocks, mut names) = (Vec::new(), HashMap::new());
    find(&mut file, &mut blocks, &mut names)?;
    blocks.sort_unstable();
    let generation = blocks.iter().map(|found: &Found| found.generation).max().unwrap_or(0);
    let mut writer = DatabaseWriter::create(new, cache_bytes, generation.saturating_add(1))?;
    let mut ids = BTreeMap::<u32, u32>::new();
    for (id, name) in known.into_iter().flatten().enumerate() {
        ids.insert(id as u32, writer.add_key(name));
        names.insert(id as u32, name.clone());
    }
    let mut outcome = Salvaged::default();
    for Found { id, first, offset, len, .. } in blocks {
        let Some(name) = names.get(&id) else {
            outcome.nameless += 1;
            continue;
        };
        let mut bytes = vec![0; len];
        let read = OsFileSystem.read_at(&mut file, offset, &mut bytes)?;
        let mut points = Vec::new();
        if block::decode(id, first, &bytes[..read], &mut points).is_ok() {
            let id = *ids.entry(id).or_insert_with(|| writer.add_key(name));
            writer.merge(id, points)?;
        }
    }
    outcome.keys = writer.keys();
    outcome.points = writer.finish(sealed)?;
    Ok(outcome)
}

/// Finds the intact blocks and names of a file.
fn find(file: &mut File, blocks: &mut Vec<Found>, names: &mut HashMap<u32, Key>) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut buffer = vec![0; WINDOW_BYTES + MAX_LEAF_BYTES];
    let mut begin = 0;
    while begin < end {
        let read = OsFileSystem.read_at(file, begin, &mut buffer)?;
        for page in (0..WINDOW_BYTES.min(read)).step_by(PAGE_BYTES) {
            let leaf = &buffer[page..read.min(page + MAX_LEAF_BYTES)];
            leaf_entries::<BLOCK_KEY_BYTES>(leaf, |key, at, value| {
                let (id, first) = split_block_key(key);
                if block::is_intact(id, first, value)
                    && let Some(Header { generation, .. }) = Header::decode(value)
                {
                    let offset = begin + (page + at) as u64;
                    blocks.push(Found { id, generation, first, offset, len: value.len() });
                }
            });
            leaf_entries::<4>(leaf, |key, _, value| {
                let id = u32::from_le_bytes(*key);
                if let Some(name) = decode_name(id, value) {
                    names.insert(id, name);
                }
            });
        }
        begin += WINDOW_BYTES as u64;
    }
    Ok(())
}

/// Calls `each` with the key, the offset of the value, and the value of each entry of a leaf page whose keys have
/// `N` bytes. Entries that make no sense are skipped.
fn leaf_entries<const N: usize>(leaf: &[u8], mut each: impl FnMut(&[u8; N], usize, &[u8])) {
    let Some(count) = leaf.get(2..4).and_then(|count| count.first_chunk::<2>()) else { return };
    let count = usize::from(u16::from_le_bytes(*count));
    let keys = 4 + 4 * count;
    let mut begin = keys + N * count;
    for index in 0..count {
        let end = leaf.get(4 + 4 * index..).and_then(|end| end.first_chunk::<4>());
        let key = leaf.get(keys + N * index..).and_then(|key| key.first_chunk::<N>());
        let (Some(end), Some(key)) = (end, key) else { return };
        let end = u32::from_le_bytes(*end) as usize;
        if let Some(value) = leaf.get(begin..end) {
            each(key, begin, value);
        }
        begin = end;
    }
}

/// A tuple of numbers is encoded as each of them.
fn split_block_key(key: &[u8; BLOCK_KEY_BYTES]) -> (u32, i64) {
    let [a, b, c, d, first @ ..] = *key;
    (u32::from_le_bytes([a, b, c, d]), i64::from_le_bytes(first))
}

const BLOCK_KEY_BYTES: usize = 12;
const PAGE_BYTES: usize = 4096;

/// A leaf with one value is as large as that; a raw block has some 8,000 bytes. Several values share a leaf only
/// if it is a single page.
const MAX_LEAF_BYTES: usize = 64 * 1024;

/// How much of the file is read at once.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
