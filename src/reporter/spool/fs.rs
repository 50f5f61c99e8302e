//! What the spool asks of a file system, so that tests can put one in its place that is full, fails,
//! or loses power.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use fs4::{FileExt, TryLockError};

/// A file system.
pub(crate) trait FileSystem: fmt::Debug {
    /// An open file. A lock is held until its file is dropped, or its process ends in whatever way.
    type File: fmt::Debug;

    /// Makes a folder and those above it, if they are not there, and returns when their names would
    /// survive a loss of power, as far as that can be had.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The files in a folder: names and lengths. What is no file, or has a name that is no text, is
    /// not among them.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file for reading and writing, and makes it if it is not there.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;
    /// Locks a file against all others that lock it. False if somebody else holds it.
    fn lock(&self, file: &Self::File) -> io::Result<bool>;
    /// Which file is at a path.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// Which file this is.
    fn file_identity(&self, file: &Self::File) -> io::Result<Identity>;
    /// Whether an open file still has a name, wherever: whether it was not removed.
    fn has_name(&self, file: &Self::File) -> io::Result<bool>;
    /// How long a file is. An error for what is no file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Reads until the buffer is full or the file is over, and says how much that was.
    fn read_at(&self, file: &mut Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes everything; if it fails, some of it may be written.
    fn write_at(&self, file: &mut Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file.
    fn truncate(&self, file: &mut Self::File, len: u64) -> io::Result<()>;
    /// Returns when what a file holds would survive a loss of power.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;
    /// Returns when the names in a folder would survive a loss of power.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// What a file is known by, whatever its name. It is used for no other as long as the file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    #[cfg(unix)]
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Windows has file numbers too, but std does not tell them, and a folder with open files cannot be
    /// moved there. So all files are taken for one, and only a file that is missing is noticed.
    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Self {
        Self { device: 0, inode: 0 }
    }
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OsFileSystem;

impl FileSystem for OsFileSystem {
    type File = File;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let is_new = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let new = path.ancestors().take_while(is_new).collect::<Vec<_>>();
        fs::create_dir_all(path)?;
        for parent in new.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            // Whoever may make a folder in another need not be allowed to open that one.
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
                // Removed since it was listed, or a folder, a socket, a link.
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

    fn read_at(&self, file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        file.seek(SeekFrom::Start(offset))?;
        let mut len = 0;
        while len < buffer.len() {
            match file.read(&mut buffer[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn write_at(&self, file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn truncate(&self, file: &mut File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Elsewhere a folder cannot be opened as a file, and names are as durable as they get.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}
