//! A database file that is read, and never written: what redb writes to it stays in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use metrics_wal::{FileSystem, OsFileSystem};

/// A file, and the pages that were written over it.
///
/// redb writes when it opens a database, and repairs one whose process was killed.
#[derive(Debug)]
pub(super) struct Overlay(Mutex<OverlayState>);

#[derive(Debug)]
struct OverlayState {
    file: File,
    /// How much of the file is still shown.
    file_len: u64,
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self(Mutex::new(OverlayState { file, file_len: len, len, pages: BTreeMap::new() })))
    }

    fn state(&self) -> MutexGuard<'_, OverlayState> {
        // A write that panics leaves whole pages.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OverlayState {
    /// Reads what the file has at an offset; zeros behind its end.
    fn read_file(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let left = self.file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        OsFileSystem.read_at(&mut self.file, offset, &mut out[..left]).map(drop)
    }

    /// Calls `each` with each page that a range touches, the range in the page, and where that begins in the range.
    fn pages(
        offset: u64,
        len: usize,
    ) -> impl Iterator<Item = (u64, std::ops::Range<usize>, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let begin = (at % PAGE_BYTES as u64) as usize;
            let count = (len - done).min(PAGE_BYTES - begin);
            let page = (at / PAGE_BYTES as u64, begin..begin + count, done);
            done += count;
            (count > 0).then_some(page)
        })
    }
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        if offset.saturating_add(out.len() as u64) > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.read_file(offset, out)?;
        for (page, part, begin) in OverlayState::pages(offset, out.len()) {
            if let Some(page) = state.pages.get(&page) {
                out[begin..begin + part.len()].copy_from_slice(&page[part]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.len {
            let whole = len.div_ceil(PAGE_BYTES as u64);
            drop(state.pages.split_off(&whole));
            let last = len % PAGE_BYTES as u64;
            if let Some(page) = state.pages.get_mut(&(len / PAGE_BYTES as u64)) {
                page[last as usize..].fill(0);
            }
        }
        state.file_len = state.file_len.min(len);
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        for (number, part, begin) in OverlayState::pages(offset, data.len()) {
            let new = &data[begin..begin + part.len()];
            if let Some(page) = state.pages.get_mut(&number) {
                page[part].copy_from_slice(new);
                continue;
            }
            let mut page = vec![0; PAGE_BYTES];
            state.read_file(number * PAGE_BYTES as u64, &mut page)?;
            page[part].copy_from_slice(new);
            state.pages.insert(number, page);
        }
        state.len = state.len.max(offset + data.len() as u64);
        Ok(())
    }
}

/// That of redb.
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use redb::StorageBackend as _;

    use super::*;

    #[test]
    fn writes_are_seen_and_leave_the_file_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        let overlay = Overlay::open(file.path()).unwrap();
        let mut model = content.clone();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            let offset = random.usize(..model.len());
            match random.u8(..10) {
                0 => {
                    let len = random.usize(5_000..20_000);
                    overlay.set_len(len as u64).unwrap();
                    model.resize(len, 0);
                }
                _ => {
                    let len = random.usize(..9_000).min(model.len() - offset);
                    overlay.write(offset as u64, &vec![random.u8(..); len]).unwrap();
                    let mut written = vec![0; len];
                    overlay.read(offset as u64, &mut written).unwrap();
                    model[offset..offset + len].copy_from_slice(&written);
                }
            }
            let mut read = vec![0; model.len()];
            overlay.read(0, &mut read).unwrap();
            assert!(read == model);
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
        }
        assert!(overlay.read(model.len() as u64 - 1, &mut [0; 2]).is_err());
        assert!(std::fs::read(file.path()).unwrap() == content);
    }
}
