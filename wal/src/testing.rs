//! A file system in memory that fails, fills up, hangs, and loses power when a test says so.
//!
//! ```
//! use std::io::ErrorKind;
//! use metrics_wal::{Options, Wal, testing::{Fault, FaultyFs}};
//!
//! let fs = FaultyFs::new();
//! let mut log = Wal::open(fs.clone(), "/data/log", Options::new()).unwrap();
//! log.append(1, 0, b"synced").unwrap();
//! log.sync().unwrap();
//! log.append(1, 0, b"not synced").unwrap();
//! fs.set_fault(Fault::Killed { from: fs.operations() });
//! log.append(1, 0, b"perhaps").unwrap_err();
//! drop(log);
//! fs.set_fault(Fault::None);
//! fs.lose_power();
//! let mut log = Wal::open(fs, "/data/log", Options::new()).unwrap();
//! let entries = log.read(10, |record| !record.payload.is_empty()).unwrap();
//! assert!(entries.contains(&0) && entries.end <= 2);
//! ```

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fastrand::Rng;

use crate::fs::{FileSystem, Identity};

/// An operation of a [`FileSystem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`FileSystem::create_dir_all`]
    CreateDir,
    /// [`FileSystem::list`]
    List,
    /// [`FileSystem::open`]
    Open,
    /// [`FileSystem::open_read`]
    OpenRead,
    /// [`FileSystem::lock`]
    Lock,
    /// [`FileSystem::identity`], [`FileSystem::file_identity`] or [`FileSystem::has_name`]
    Identify,
    /// [`FileSystem::len`]
    Len,
    /// [`FileSystem::read_at`]
    Read,
    /// [`FileSystem::write_at`]
    Write,
    /// [`FileSystem::truncate`]
    Truncate,
    /// [`FileSystem::sync`]
    Sync,
    /// [`FileSystem::sync_dir`]
    SyncDir,
    /// [`FileSystem::remove`]
    Remove,
    /// [`FileSystem::rename`]
    Rename,
}

/// The operations that fail. They are counted from the first on the file system.
#[derive(Clone, Copy, Debug, Default)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// One operation. If it writes, some of the bytes are written.
    At {
        /// Its number.
        operation: u64,
        /// The error.
        kind: io::ErrorKind,
    },
    /// An operation and all after it: the process was killed. If the first writes, some of the bytes are
    /// written.
    Killed {
        /// Its number.
        from: u64,
    },
    /// All on paths that contain a string.
    On {
        /// The string.
        path: &'static str,
        /// The error.
        kind: io::ErrorKind,
    },
    /// All of one kind on paths that contain a string.
    Of {
        /// The kind of the operation.
        operation: Operation,
        /// The string.
        path: &'static str,
        /// The error.
        kind: io::ErrorKind,
    },
}

/// Called before an operation: it may return an error, or block.
type Hook = Arc<dyn Fn(Operation, &Path) -> io::Result<()> + Send + Sync>;

/// A file system in memory. Clones are the same one.
///
/// Directories need not be created. Content survives [`lose_power`](Self::lose_power) if its file was
/// synced, and a name if its directory was. After a failed sync, no later sync of the same file makes its
/// content survive, as on Linux, where the system then takes it for clean.
#[derive(Clone, Default)]
pub struct FaultyFs(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    /// The names that survive a loss of power.
    synced_files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    capacity: Option<usize>,
    operations: u64,
    fault: Fault,
    hook: Option<Hook>,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    /// What survives a loss of power.
    synced: Vec<u8>,
    /// A sync has failed: the system takes the content for clean, and no later sync writes it.
    is_poisoned: bool,
    is_locked: bool,
}

/// An open file of a [`FaultyFs`].
#[derive(Debug)]
pub struct FaultyFile {
    content: Arc<Mutex<Content>>,
    path: PathBuf,
    holds_lock: Mutex<bool>,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        if *locked(&self.holds_lock) {
            locked(&self.content).is_locked = false;
        }
    }
}

impl fmt::Debug for FaultyFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFs").finish_non_exhaustive()
    }
}

impl FaultyFs {
    /// Returns an empty file system without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns one whose partial writes and losses of power are those of a seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let fs = Self::default();
        fs.state().rng = Rng::with_seed(seed);
        fs
    }

    /// Sets which operations fail from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Sets how many bytes all files may have together; a write beyond it writes what fits, and fails with
    /// [`StorageFull`](io::ErrorKind::StorageFull). `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// Calls a function before each operation. It may return the operation's error, or block as a slow
    /// device does; no lock is held.
    pub fn set_hook(
        &self,
        hook: impl Fn(Operation, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.state().hook = Some(Arc::new(hook));
    }

    /// Returns how many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Returns whether an operation has failed because the process is [killed](Fault::Killed).
    #[must_use]
    pub fn is_killed(&self) -> bool {
        let state = self.state();
        matches!(state.fault, Fault::Killed { from } if from < state.operations)
    }

    /// Returns the content of all files, by path.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let file = |(path, content): (&PathBuf, &Arc<Mutex<Content>>)| {
            (path.clone(), locked(content).now.clone())
        };
        state.files.iter().map(file).collect()
    }

    /// Writes a file, synced, as another process would. A file that is there is replaced.
    pub fn put(&self, path: impl AsRef<Path>, content: &[u8]) {
        let bytes = content.to_vec();
        let content = Content { synced: bytes.clone(), now: bytes, ..Content::default() };
        let content = Arc::new(Mutex::new(content));
        let mut state = self.state();
        state.files.insert(path.as_ref().to_owned(), Arc::clone(&content));
        state.synced_files.insert(path.as_ref().to_owned(), content);
    }

    /// Removes all files, as another process would.
    pub fn remove_all(&self) {
        self.state().files.clear();
    }

    /// Keeps the names and content that were synced, and a random part of what was not. Files that are
    /// open have to be dropped first, as those of a process that has ended.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State { files, synced_files, rng, .. } = &mut *state;
        *files = synced_files.clone();
        for content in files.values() {
            let mut content = locked(content);
            let unsynced = content.now.len().saturating_sub(content.synced.len());
            let mut left = content.synced.clone();
            // A sector that was overwritten is on the device as it was, or as it is.
            for (left, now) in left.chunks_mut(SECTOR_BYTES).zip(content.now.chunks(SECTOR_BYTES)) {
                let len = left.len().min(now.len());
                if left[..len] != now[..len] && rng.bool() {
                    left[..len].copy_from_slice(&now[..len]);
                }
            }
            let more = if unsynced == 0 { 0 } else { rng.usize(..=unsynced) };
            for at in left.len()..left.len() + more {
                // Blocks reach the device in any order; those that have not are zeros.
                let byte = if rng.bool() { content.now[at] } else { 0 };
                left.push(byte);
            }
            (content.is_locked, content.is_poisoned) = (false, false);
            content.now = left;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    /// Counts an operation, and returns its error.
    fn operation(&self, operation: Operation, path: &Path) -> io::Result<()> {
        let hook = self.state().hook.clone();
        let hooked = hook.map_or(Ok(()), |hook| hook(operation, path));
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        let contains = |part| path.to_string_lossy().contains(part);
        match state.fault {
            Fault::At { operation, kind } if operation == number => Err(kind.into()),
            Fault::Killed { from } if from <= number => Err(io::ErrorKind::BrokenPipe.into()),
            Fault::On { path, kind } if contains(path) => Err(kind.into()),
            Fault::Of { operation: failing, path, kind }
                if failing == operation && contains(path) =>
            {
                Err(kind.into())
            }
            _ => hooked,
        }
    }

    fn open_file(&self, path: &Path, create: bool) -> io::Result<FaultyFile> {
        let mut state = self.state();
        let content = match state.files.get(path) {
            Some(content) => Arc::clone(content),
            None if create => Arc::clone(state.files.entry(path.to_owned()).or_default()),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(FaultyFile { content, path: path.to_owned(), holds_lock: Mutex::new(false) })
    }
}

impl FileSystem for FaultyFs {
    type File = FaultyFile;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operation(Operation::CreateDir, path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        self.operation(Operation::List, path)?;
        let files = self.files().into_iter().filter(|(file, _)| file.parent() == Some(path));
        let named = |(file, bytes): (PathBuf, Vec<u8>)| {
            Some((file.file_name()?.to_str()?.to_owned(), bytes.len() as u64))
        };
        Ok(files.filter_map(named).collect())
    }

    fn open(&self, path: &Path) -> io::Result<FaultyFile> {
        self.operation(Operation::Open, path)?;
        self.open_file(path, true)
    }

    fn open_read(&self, path: &Path) -> io::Result<FaultyFile> {
        self.operation(Operation::OpenRead, path)?;
        self.open_file(path, false)
    }

    fn lock(&self, file: &FaultyFile) -> io::Result<bool> {
        self.operation(Operation::Lock, &file.path)?;
        let mut content = locked(&file.content);
        let is_free = !content.is_locked;
        content.is_locked = true;
        *locked(&file.holds_lock) = is_free;
        Ok(is_free)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.operation(Operation::Identify, path)?;
        Ok(identity(self.state().files.get(path).ok_or(io::ErrorKind::NotFound)?))
    }

    fn file_identity(&self, file: &FaultyFile) -> io::Result<Identity> {
        self.operation(Operation::Identify, &file.path)?;
        Ok(identity(&file.content))
    }

    fn has_name(&self, file: &FaultyFile) -> io::Result<bool> {
        self.operation(Operation::Identify, &file.path)?;
        Ok(self.state().files.values().any(|content| Arc::ptr_eq(content, &file.content)))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.operation(Operation::Len, path)?;
        let state = self.state();
        let content = state.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let len = locked(content).now.len() as u64;
        Ok(len)
    }

    fn read_at(&self, file: &mut FaultyFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.operation(Operation::Read, &file.path)?;
        let content = locked(&file.content);
        let rest = content.now.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, file: &mut FaultyFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut result = self.operation(Operation::Write, &file.path);
        let mut state = self.state();
        let used: usize = state.files.values().map(|content| locked(content).now.len()).sum();
        let killed_before =
            matches!(state.fault, Fault::Killed { from } if from + 1 < state.operations);
        let mut written = match result {
            Ok(()) => bytes.len(),
            Err(_) if killed_before => 0,
            Err(_) => state.rng.usize(..=bytes.len()),
        };
        let mut content = locked(&file.content);
        let offset = offset as usize;
        let growth = (offset + written).saturating_sub(content.now.len());
        if let Some(room) = state.capacity.map(|capacity| capacity.saturating_sub(used))
            && growth > room
        {
            written -= (growth - room).min(written);
            result = Err(io::ErrorKind::StorageFull.into());
        }
        let end = offset + written;
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[offset..end].copy_from_slice(&bytes[..written]);
        // All of it is dirty again.
        content.is_poisoned &= offset > 0 || end < content.now.len();
        result
    }

    fn truncate(&self, file: &mut FaultyFile, len: u64) -> io::Result<()> {
        self.operation(Operation::Truncate, &file.path)?;
        locked(&file.content).now.truncate(len as usize);
        Ok(())
    }

    fn sync(&self, file: &mut FaultyFile) -> io::Result<()> {
        let result = self.operation(Operation::Sync, &file.path);
        let mut content = locked(&file.content);
        if result.is_err() {
            content.is_poisoned = true;
        } else if !content.is_poisoned {
            content.synced = content.now.clone();
        }
        result
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(Operation::SyncDir, path)?;
        let mut state = self.state();
        let State { files, synced_files, .. } = &mut *state;
        synced_files.retain(|file, _| file.parent() != Some(path));
        let here = files.iter().filter(|(file, _)| file.parent() == Some(path));
        synced_files.extend(here.map(|(file, content)| (file.clone(), Arc::clone(content))));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(Operation::Remove, path)?;
        let removed = self.state().files.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(Operation::Rename, from)?;
        let mut state = self.state();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }
}

/// A file is its content, whatever its name.
fn identity(content: &Arc<Mutex<Content>>) -> Identity {
    Identity { device: 1, inode: Arc::as_ptr(content).addr() as u64 }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a device writes as a whole, or not at all: less than the 512 bytes of a real one, so that short
/// records are torn too.
const SECTOR_BYTES: usize = 64;
