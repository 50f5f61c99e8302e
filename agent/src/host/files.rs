//! Reads files of `/proc` and `/sys`, and logs once which of them cannot be read.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Where the files are, and which of them cannot be read.
#[derive(Debug)]
pub(super) struct Files {
    proc: PathBuf,
    sys: PathBuf,
    bytes: Vec<u8>,
    failing: BTreeSet<&'static str>,
    failures: u64,
}

impl Files {
    pub(super) fn new(proc: PathBuf, sys: PathBuf) -> Self {
        Self { proc, sys, bytes: Vec::new(), failing: BTreeSet::new(), failures: 0 }
    }

    /// Returns the path of a file of `/sys`.
    pub(super) fn sys(&self, path: &str) -> PathBuf {
        self.sys.join(path)
    }

    /// Returns the path of a file of `/proc`.
    pub(super) fn proc(&self, path: &str) -> PathBuf {
        self.proc.join(path)
    }

    /// Reads and parses a file of `/proc`. Bytes that are not UTF-8 are replaced. A failure is noted.
    pub(super) fn read<T, E: Display>(
        &mut self,
        file: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let path = self.proc(file);
        match read_into(&path, &mut self.bytes) {
            Ok(()) => match parse(&String::from_utf8_lossy(&self.bytes)) {
                Ok(parsed) => {
                    self.succeeded(file);
                    Some(parsed)
                }
                Err(error) => {
                    self.failed(file, &error);
                    None
                }
            },
            Err(error) => {
                self.failed(file, &error);
                None
            }
        }
    }

    /// Notes that `what` cannot be measured. The first time in a row is logged.
    pub(super) fn failed(&mut self, what: &'static str, error: &dyn Display) {
        self.failures += 1;
        if self.failing.insert(what) {
            tracing::warn!(what, %error, "cannot measure a part of the host");
        }
    }

    /// Notes that `what` was measured.
    pub(super) fn succeeded(&mut self, what: &'static str) {
        if self.failing.remove(what) {
            tracing::info!(what, "measures a part of the host again");
        }
    }

    /// Returns how often something could not be measured.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }
}

/// Reads a small file of `/sys`, without its line break.
pub(super) fn read_line(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    read_into(path, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The most that is read of one file: `/proc/stat` of a thousand cores has some 100 KiB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(bytes)?;
    Ok(())
}
