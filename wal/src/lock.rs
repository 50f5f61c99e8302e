//! The lock on a directory.
//!
//! The lock belongs to the lock file that was opened, not to its path. If the directory is moved, or
//! the lock file removed, another process can create a lock file at the same path and lock that. So
//! an owner compares the file at the path with the file that it has locked before it reads, writes or
//! removes anything by path.

use std::{
    io,
    path::{Path, PathBuf},
    process,
};

use crate::{
    error::Error,
    fs::{FileSystem, Identity},
};

/// An exclusive lock on a directory, held by a lock file `lock` in it.
///
/// It is released when this is dropped, or when the process ends in whatever way. The lock file holds
/// the id of the process, and stays in the directory.
#[derive(Debug)]
pub struct DirLock<F: FileSystem> {
    file: F::File,
    identity: Identity,
    path: PathBuf,
}

impl<F: FileSystem> DirLock<F> {
    /// Creates the directory if it does not exist, and locks it.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another process, or another lock of this one, has it; [`Error::Io`] if the
    /// path is empty or the file system fails.
    pub fn acquire(fs: &F, dir: &Path) -> Result<Self, Error> {
        if dir.as_os_str().is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path is empty");
            return Err(Error::io("open the directory", dir, source));
        }
        fs.create_dir_all(dir).map_err(|error| Error::io("create the directory", dir, error))?;
        let path = dir.join(LOCK);
        let mut file = fs.open(&path).map_err(|error| Error::io("open", &path, error))?;
        match fs.lock(&file) {
            Ok(true) => {}
            Ok(false) => return Err(Error::InUse { dir: dir.into(), pid: owner(fs, &path) }),
            Err(error) => return Err(Error::io("lock", dir, error)),
        }
        let identity =
            fs.file_identity(&file).map_err(|error| Error::io("inspect", &path, error))?;
        // It only helps to find the owner: a full disk must not keep the log from opening.
        let pid = format!("{}\n", process::id());
        let _ = fs.truncate(&mut file, 0).and_then(|()| fs.write_at(&mut file, 0, pid.as_bytes()));
        Ok(Self { file, identity, path })
    }

    /// Returns false if another file is at the lock file's path, so that another process may have the
    /// directory.
    ///
    /// # Errors
    ///
    /// An error of the file system, of the kind [`NotFound`](io::ErrorKind::NotFound) if no file is at
    /// the path.
    pub fn is_current(&self, fs: &F) -> io::Result<bool> {
        Ok(fs.identity(&self.path)? == self.identity)
    }

    /// Returns whether the lock file still has a name, here or where its directory was moved to.
    pub(crate) fn has_name(&self, fs: &F) -> bool {
        fs.has_name(&self.file).unwrap_or(false)
    }
}

/// Returns the process that has locked a directory, if the system lets others read a locked file.
fn owner<F: FileSystem>(fs: &F, path: &Path) -> Option<u32> {
    let mut bytes = [0; 16];
    let mut file = fs.open_read(path).ok()?;
    let len = fs.read_at(&mut file, 0, &mut bytes).ok()?;
    std::str::from_utf8(&bytes[..len]).ok()?.trim().parse().ok()
}

pub(crate) const LOCK: &str = "lock";
