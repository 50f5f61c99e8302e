//! The operations of a file system that a log uses, so that tests can replace it by one that is full,
//! fails, or loses power.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use fs4::{FileExt, TryLockError};

/// A file system.
///
/// [`OsFileSystem`] is the operating system's. The feature `testing` has one in memory that fails when
/// a test says so.
pub trait FileSystem: fmt::Debug {
    /// An open file. A lock is held until its file is dropped, or its process ends in whatever way.
    type File: fmt::Debug;

    /// Creates a directory and its missing parents, and syncs their names as far as the system allows.
    ///
    /// # Errors
    ///
    /// If a directory cannot be created.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Returns the names and lengths of the files in a directory, without subdirectories, links,
    /// sockets and names that are not Unicode.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Opens a file for reading and writing, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or created.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;

    /// Locks a file exclusively, without waiting. Returns false if another open file holds the lock.
    ///
    /// # Errors
    ///
    /// If the file system has no locks, or fails.
    fn lock(&self, file: &Self::File) -> io::Result<bool>;

    /// Returns the identity of the file at a path.
    ///
    /// # Errors
    ///
    /// If it does not exist or cannot be inspected.
    fn identity(&self, path: &Path) -> io::Result<Identity>;

    /// Returns the identity of an open file.
    ///
    /// # Errors
    ///
    /// If it cannot be inspected.
    fn file_identity(&self, file: &Self::File) -> io::Result<Identity>;

    /// Returns whether an open file still has a name anywhere, that is, was not removed.
    ///
    /// # Errors
    ///
    /// If it cannot be inspected.
    fn has_name(&self, file: &Self::File) -> io::Result<bool>;

    /// Returns the length of the file at a path.
    ///
    /// # Errors
    ///
    /// If it does not exist, is not a regular file, or cannot be inspected.
    fn len(&self, path: &Path) -> io::Result<u64>;

    /// Reads until the buffer is full or the file ends, and returns how many bytes were read.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    fn read_at(&self, file: &mut Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes.
    ///
    /// # Errors
    ///
    /// If not all could be written. Some may have been.
    fn write_at(&self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file to a length.
    ///
    /// # Errors
    ///
    /// If it cannot be cut.
    fn truncate(&self, file: &mut Self::File, len: u64) -> io::Result<()>;

    /// Syncs the content of a file, so that it survives a loss of power.
    ///
    /// # Errors
    ///
    /// If the device fails. The system may then believe that the content is clean, so a second sync of
    /// the same file proves nothing.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;

    /// Syncs the names in a directory, so that they survive a loss of power.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// If it does not exist or cannot be removed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, and replaces the file that has the new name.
    ///
    /// # Errors
    ///
    /// If it does not exist or cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The identity of a file, whatever its name. No other file has it as long as the file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device that the file is on.
    pub device: u64,
    /// The number of the file on the device.
    pub inode: u64,
}

impl Identity {
    #[cfg(unix)]
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Windows has file numbers too, but std does not expose them, and a directory with open files
    /// cannot be moved there. So all files have one identity, and only a missing file is noticed.
    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Self {
        Self { device: 0, inode: 0 }
    }
}

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFileSystem;

impl FileSystem for OsFileSystem {
    type File = File;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let is_new = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let new = path.ancestors().take_while(is_new).collect::<Vec<_>>();
        fs::create_dir_all(path)?;
        for parent in new.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            // A process that may create a directory need not be allowed to open its parent.
            let _ = self.sync_dir(parent);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => {
                    if let Ok(name) = entry.file_name().into_string() {
                        files.push((name, metadata.len()));
                    }
                }
                // Removed since it was listed, or a directory, a socket, a link.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn lock(&self, file: &File) -> io::Result<bool> {
        match FileExt::try_lock(file) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        fs::metadata(path).map(|metadata| Identity::of(&metadata))
    }

    fn file_identity(&self, file: &File) -> io::Result<Identity> {
        file.metadata().map(|metadata| Identity::of(&metadata))
    }

    #[cfg(unix)]
    fn has_name(&self, file: &File) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        file.metadata().map(|metadata| metadata.nlink() > 0)
    }

    #[cfg(not(unix))]
    fn has_name(&self, _: &File) -> io::Result<bool> {
        Ok(false)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let metadata = fs::metadata(path)?;
        if metadata.is_file() {
            Ok(metadata.len())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn read_at(&self, file: &mut File, mut offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        while len < buffer.len() {
            match positioned::read(file, offset, &mut buffer[len..]) {
                Ok(0) => break,
                Ok(more) => (len, offset) = (len + more, offset + more as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn write_at(&self, file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        positioned::write_all(file, offset, bytes)
    }

    fn truncate(&self, file: &mut File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Other systems do not open a directory as a file.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// Reads and writes at an offset: by one system call where there is one.
#[cfg(unix)]
mod positioned {
    use std::{fs::File, io, os::unix::fs::FileExt};

    pub(super) fn read(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    pub(super) fn write_all(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
}

#[cfg(not(unix))]
mod positioned {
    use std::{
        fs::File,
        io::{self, Read, Seek, SeekFrom, Write},
    };

    pub(super) fn read(mut file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.seek(SeekFrom::Start(offset))?;
        file.read(buffer)
    }

    pub(super) fn write_all(mut file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }
}
