//! A disk in memory that can be full, fail at any operation, die in the middle, and lose power.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use fastrand::Rng;

use super::{super::fs::Identity, FileSystem};

/// A disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct TestDisk(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Rc<RefCell<Bytes>>>,
    /// The names that survive a loss of power.
    synced_files: BTreeMap<PathBuf, Rc<RefCell<Bytes>>>,
    capacity: Option<usize>,
    operations: u64,
    faults: Faults,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    /// What survives a loss of power.
    synced: Vec<u8>,
    locked: bool,
}

/// Which operations fail, counted from the first on this disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Faults {
    #[default]
    None,
    /// This one.
    At(u64, io::ErrorKind),
    /// This one and all after it: the process was killed. What it was writing may be there in part.
    Killed(u64),
    /// All that reach a file with this in its name.
    On(&'static str, io::ErrorKind),
    /// All that open such a file for reading.
    Opening(&'static str, io::ErrorKind),
    /// All that open such a file for writing.
    OpeningToWrite(&'static str, io::ErrorKind),
    /// All that read from such a file.
    Reading(&'static str, io::ErrorKind),
    /// All that remove such a file.
    Removing(&'static str, io::ErrorKind),
}

/// An open file.
#[derive(Debug)]
pub(super) struct TestFile {
    bytes: Rc<RefCell<Bytes>>,
    path: PathBuf,
    lock: RefCell<bool>,
}

impl Drop for TestFile {
    fn drop(&mut self) {
        if *self.lock.borrow() {
            self.bytes.borrow_mut().locked = false;
        }
    }
}

impl TestDisk {
    pub(super) fn seeded(seed: u64) -> Self {
        let fs = Self::default();
        fs.0.borrow_mut().rng = Rng::with_seed(seed);
        fs
    }

    pub(super) fn faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    pub(super) fn capacity(&self, bytes: Option<usize>) {
        self.0.borrow_mut().capacity = bytes;
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// Whether the process that uses it is to be thought dead.
    pub(super) fn is_killed(&self) -> bool {
        let state = self.0.borrow();
        matches!(state.faults, Faults::Killed(from) if from < state.operations)
    }

    /// The files, by name, with what is in them.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.borrow();
        let file = |(path, bytes): (&PathBuf, &Rc<RefCell<Bytes>>)| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes.borrow().now.clone())
        };
        state.files.iter().map(file).collect()
    }

    /// The segments among them.
    pub(super) fn segments(&self) -> Vec<(String, Vec<u8>)> {
        self.files().into_iter().filter(|(name, _)| name.ends_with(".spool")).collect()
    }

    /// Puts a file there, as somebody else would.
    pub(super) fn put(&self, path: &Path, content: &[u8]) {
        let bytes = Bytes { now: content.to_vec(), synced: content.to_vec(), locked: false };
        let bytes = Rc::new(RefCell::new(bytes));
        let mut state = self.0.borrow_mut();
        state.files.insert(path.to_owned(), Rc::clone(&bytes));
        state.synced_files.insert(path.to_owned(), bytes);
    }

    pub(super) fn remove_all(&self) {
        self.0.borrow_mut().files.clear();
    }

    /// Keeps of each file what was synced, and of the rest whatever chance has written.
    pub(super) fn lose_power(&self) {
        let mut state = self.0.borrow_mut();
        let State { files, synced_files, rng, .. } = &mut *state;
        *files = synced_files.clone();
        for bytes in files.values() {
            let mut bytes = bytes.borrow_mut();
            let unsynced = bytes.now.len().saturating_sub(bytes.synced.len());
            let mut left = bytes.synced.clone();
            let more = if unsynced == 0 { 0 } else { rng.usize(..=unsynced) };
            for at in left.len()..left.len() + more {
                // Blocks of the file reach the disk in any order; those that have not are zeros.
                let byte = if rng.bool() { bytes.now[at] } else { 0 };
                left.push(byte);
            }
            bytes.locked = false;
            bytes.now = left;
        }
    }

    /// Counts an operation on a file, and says whether it fails.
    fn operation(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let number = state.operations;
        state.operations += 1;
        match state.faults {
            Faults::At(at, kind) if at == number => Err(kind.into()),
            Faults::Killed(from) if from <= number => Err(io::ErrorKind::BrokenPipe.into()),
            Faults::On(name, kind) if path.to_string_lossy().contains(name) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn opened(&self, path: &Path, create: bool) -> io::Result<TestFile> {
        self.operation(path)?;
        let mut state = self.0.borrow_mut();
        let bytes = match state.files.get(path) {
            Some(bytes) => Rc::clone(bytes),
            None if create => Rc::clone(state.files.entry(path.to_owned()).or_default()),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(TestFile { bytes, path: path.to_owned(), lock: RefCell::new(false) })
    }
}

impl FileSystem for TestDisk {
    type File = TestFile;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operation(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        self.operation(path)?;
        Ok(self.files().into_iter().map(|(name, bytes)| (name, bytes.len() as u64)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<TestFile> {
        if let Faults::OpeningToWrite(name, kind) = self.0.borrow().faults
            && path.to_string_lossy().contains(name)
        {
            return Err(kind.into());
        }
        self.opened(path, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<TestFile> {
        if let Faults::Opening(name, kind) = self.0.borrow().faults
            && path.to_string_lossy().contains(name)
        {
            return Err(kind.into());
        }
        self.opened(path, false)
    }

    fn lock(&self, file: &TestFile) -> io::Result<bool> {
        self.operation(&file.path)?;
        let mut bytes = file.bytes.borrow_mut();
        let free = !bytes.locked;
        bytes.locked = true;
        *file.lock.borrow_mut() = free;
        Ok(free)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.operation(path)?;
        let state = self.0.borrow();
        Ok(identity(state.files.get(path).ok_or(io::ErrorKind::NotFound)?))
    }

    fn file_identity(&self, file: &TestFile) -> io::Result<Identity> {
        self.operation(&file.path)?;
        Ok(identity(&file.bytes))
    }

    fn has_name(&self, file: &TestFile) -> io::Result<bool> {
        self.operation(&file.path)?;
        Ok(self.0.borrow().files.values().any(|bytes| Rc::ptr_eq(bytes, &file.bytes)))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.operation(path)?;
        let state = self.0.borrow();
        let bytes = state.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let len = bytes.borrow().now.len() as u64;
        Ok(len)
    }

    fn read_at(&self, file: &mut TestFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.operation(&file.path)?;
        if let Faults::Reading(name, kind) = self.0.borrow().faults
            && file.path.to_string_lossy().contains(name)
        {
            return Err(kind.into());
        }
        let bytes = file.bytes.borrow();
        let rest = bytes.now.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, file: &mut TestFile, offset: u64, content: &[u8]) -> io::Result<()> {
        let mut result = self.operation(&file.path);
        let mut state = self.0.borrow_mut();
        let used: usize = state.files.values().map(|bytes| bytes.borrow().now.len()).sum();
        let killed_before = matches!(state.faults, Faults::Killed(at) if at + 1 < state.operations);
        let mut written = match result {
            Ok(()) => content.len(),
            Err(_) if killed_before => 0,
            Err(_) => state.rng.usize(..=content.len()),
        };
        let mut bytes = file.bytes.borrow_mut();
        let end = offset as usize + written;
        let grows = end.saturating_sub(bytes.now.len());
        if let Some(room) = state.capacity.map(|capacity| capacity.saturating_sub(used))
            && grows > room
        {
            written -= (grows - room).min(written);
            result = Err(io::ErrorKind::StorageFull.into());
        }
        let end = offset as usize + written;
        if bytes.now.len() < end {
            bytes.now.resize(end, 0);
        }
        bytes.now[offset as usize..end].copy_from_slice(&content[..written]);
        result
    }

    fn truncate(&self, file: &mut TestFile, len: u64) -> io::Result<()> {
        self.operation(&file.path)?;
        file.bytes.borrow_mut().now.truncate(len as usize);
        Ok(())
    }

    fn sync(&self, file: &mut TestFile) -> io::Result<()> {
        self.operation(&file.path)?;
        let mut bytes = file.bytes.borrow_mut();
        bytes.synced = bytes.now.clone();
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(path)?;
        let mut state = self.0.borrow_mut();
        state.synced_files = state.files.clone();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(path)?;
        if let Faults::Removing(name, kind) = self.0.borrow().faults
            && path.to_string_lossy().contains(name)
        {
            return Err(kind.into());
        }
        let removed = self.0.borrow_mut().files.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(from)?;
        let mut state = self.0.borrow_mut();
        let bytes = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), bytes);
        Ok(())
    }
}

/// A file is what its names lead to.
fn identity(bytes: &Rc<RefCell<Bytes>>) -> Identity {
    Identity { device: 1, inode: Rc::as_ptr(bytes).addr() as u64 }
}
