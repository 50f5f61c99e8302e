//! The folder `damaged/`: what was found damaged, as it was found.

use std::{
    io,
    path::{Path, PathBuf},
};

use metrics_wal::FileSystem;
use tracing::{error, warn};

use super::seal::DamagedBlock;

/// The folder. It is created with its first file.
#[derive(Debug)]
pub(super) struct DamagedFolder<F> {
    fs: F,
    dir: PathBuf,
}

impl<F: FileSystem> DamagedFolder<F> {
    /// Returns the folder of the store in `dir`.
    pub(super) fn new(fs: F, dir: &Path) -> Self {
        Self { fs, dir: dir.join(DAMAGED) }
    }

    /// Returns how many bytes its files have.
    pub(super) fn bytes(&self) -> u64 {
        self.fs.list(&self.dir).map_or(0, |files| files.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Keeps a copy of a file.
    pub(super) fn copy(&self, path: &Path) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let copied = self.read(path).and_then(|bytes| self.keep(&name.unwrap_or_default(), &bytes));
        log_failure(path, copied);
    }

    /// Moves a file here.
    pub(super) fn take(&self, path: &Path) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let moved = self.new_path(&name.unwrap_or_default()).and_then(|kept| {
            self.fs.rename(path, &kept)?;
            self.make_room();
            self.fs.sync_dir(&self.dir)
        });
        log_failure(path, moved);
    }

    /// Keeps blocks: their names say the key id and the first second.
    pub(super) fn keep_blocks(&self, blocks: &[DamagedBlock]) {
        error!(blocks = blocks.len(), "damaged blocks set aside; their points are lost");
        for DamagedBlock { id, first, bytes } in blocks {
            let name = format!("key-{id}-second-{first}.block");
            log_failure(Path::new(&name), self.keep(&name, bytes));
        }
    }

    /// Keeps a file, unless the same is here already.
    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let suffix = format!("-{name}");
        for (other, len) in self.files() {
            let is_same_name = other.ends_with(&suffix) && len == bytes.len() as u64;
            if is_same_name && self.read(&self.dir.join(other))? == bytes {
                return Ok(());
            }
        }
        let path = self.new_path(name)?;
        let mut file = self.fs.open(&path)?;
        self.fs.write_at(&mut file, 0, bytes)?;
        self.fs.sync(&mut file)?;
        self.make_room();
        self.fs.sync_dir(&self.dir)
    }

    /// Returns the path of a new file, numbered so that the files sort by age.
    pub(super) fn new_path(&self, name: &str) -> io::Result<PathBuf> {
        self.fs.create_dir_all(&self.dir)?;
        let number = |name: &str| name.split('-').next().and_then(|number| number.parse().ok());
        let last: u64 = self.files().iter().filter_map(|(name, _)| number(name)).max().unwrap_or(0);
        Ok(self.dir.join(format!("{:06}-{name}", last.saturating_add(1))))
    }

    /// Removes the oldest files until the others are within the bounds. The newest is kept in any case.
    pub(super) fn make_room(&self) {
        let mut files = self.files();
        let mut bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        files.sort();
        let mut count = files.len();
        for (name, len) in files {
            if count <= 1 || (bytes <= MAX_BYTES && count <= MAX_FILES) {
                return;
            }
            if let Err(error) = self.fs.remove(&self.dir.join(&name)) {
                warn!(
                    name,
                    error = &error as &dyn std::error::Error,
                    "old damaged file not removed"
                );
            }
            bytes -= len;
            count -= 1;
        }
    }

    fn files(&self) -> Vec<(String, u64)> {
        self.fs.list(&self.dir).unwrap_or_default()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.fs.len(path)?).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let read = self.fs.read_at(&mut self.fs.open_read(path)?, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The store works without the copy.
fn log_failure(path: &Path, kept: io::Result<()>) {
    if let Err(error) = kept {
        let error = &error as &dyn std::error::Error;
        warn!(path = %path.display(), error, "damaged file not kept");
    }
}

/// The name of the folder.
pub(super) const DAMAGED: &str = "damaged";

/// How many bytes the folder may have: some 60 segments of the log.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// How many files the folder may have.
const MAX_FILES: usize = 1000;

#[cfg(test)]
mod tests {
    use metrics_wal::testing::FaultyFs;

    use super::*;

    fn names(fs: &FaultyFs) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        fs.files().keys().map(name).collect()
    }

    #[test]
    fn the_same_file_is_kept_once() {
        let fs = FaultyFs::new();
        let folder = DamagedFolder::new(fs.clone(), Path::new("/data"));
        for bytes in [b"one", b"one", b"two"] {
            fs.put("/data/log/7.log", bytes);
            folder.copy(Path::new("/data/log/7.log"));
        }
        assert_eq!(names(&fs), ["000001-7.log", "000002-7.log", "7.log"]);
        assert_eq!(folder.bytes(), 6);
        fs.lose_power();
        folder.take(Path::new("/data/log/7.log"));
        assert_eq!(names(&fs), ["000001-7.log", "000002-7.log", "000003-7.log"]);
    }

    #[test]
    fn the_oldest_files_make_room() {
        let fs = FaultyFs::new();
        let folder = DamagedFolder::new(fs.clone(), Path::new("/data"));
        let block = |first| DamagedBlock { id: 1, first, bytes: vec![1] };
        for first in 0..1003 {
            folder.keep_blocks(&[block(first)]);
        }
        let names = names(&fs);
        assert_eq!((names.len(), &*names[0]), (1000, "000004-key-1-second-3.block"));
    }
}
