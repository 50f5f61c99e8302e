//! How far the server has acknowledged an imported file: kept beside it, in `FILE.import`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// How often it is written down how far the import has come.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// How far the file has been read.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Position {
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
}

/// What is kept beside the file.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Checkpoint {
    acknowledged: Position,
    /// The length of the file then: it may only have grown.
    file_len: u64,
}

impl Checkpoint {
    fn path(file: &Path) -> PathBuf {
        let mut name = file.file_name().unwrap_or_default().to_os_string();
        name.push(".import");
        file.with_file_name(name)
    }

    /// Returns where the file's import stopped.
    pub(crate) fn load(file: &Path, len: u64) -> Result<Position, Failure> {
        let path = Self::path(file);
        let cannot =
            |why: String| Failure::usage(format!("cannot resume {}: {why}", file.display()));
        let text = fs::read_to_string(&path).map_err(|error| {
            cannot(format!("{}: {error}; import it without --resume", path.display()))
        })?;
        let checkpoint = serde_json::from_str::<Self>(&text)
            .map_err(|error| cannot(format!("{} is damaged: {error}", path.display())))?;
        if len < checkpoint.file_len || len < checkpoint.acknowledged.bytes {
            return Err(cannot(
                "the file is shorter than it was; import it without --resume".into(),
            ));
        }
        Ok(checkpoint.acknowledged)
    }
}

/// Writes down how far the import has come.
pub(crate) struct Checkpoints {
    /// `None` if it cannot be resumed.
    path: Option<PathBuf>,
    file_len: u64,
    pub(crate) acknowledged: Position,
    /// `None` until the first time.
    saved: Option<Instant>,
}

impl Checkpoints {
    /// Returns the checkpoints of an import that begins at `acknowledged`; of a `path` that is `None` nothing
    /// is saved.
    pub(crate) fn new(path: Option<&Path>, file_len: u64, acknowledged: Position) -> Self {
        let path = path.map(Checkpoint::path);
        Self { path, file_len, acknowledged, saved: None }
    }

    /// Saves the position: the first time, and then if it is time or `at_once`. The end of the file is not saved:
    /// nothing would be left to resume.
    pub(crate) fn save(&mut self, at_once: bool) {
        let is_due =
            at_once || self.saved.is_none_or(|saved| saved.elapsed() >= CHECKPOINT_INTERVAL);
        let is_end = self.acknowledged.bytes >= self.file_len;
        let Some(path) = self.path.as_deref().filter(|_| is_due && !is_end) else { return };
        self.saved = Some(Instant::now());
        let checkpoint = Checkpoint { acknowledged: self.acknowledged, file_len: self.file_len };
        let new = path.with_extension("import-new");
        let text = serde_json::to_vec(&checkpoint).unwrap_or_default();
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, path)) {
            eprintln!("cannot write {}: {error}; this import cannot be resumed", path.display());
            self.path = None;
        }
    }

    pub(crate) fn remedy(&self) -> &'static str {
        if self.path.is_some() { " (--resume goes on from here)" } else { "" }
    }

    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path {
            // Most imports have none: they take less than a second.
            let _ = fs::remove_file(path);
        }
    }
}
