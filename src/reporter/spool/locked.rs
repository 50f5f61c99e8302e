//! A folder behind a lock, under which nothing is logged.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    folder::Folder,
    notices::{Notice, SpoolLog},
};

/// A folder that several threads use. None once the reporter is closed: then another may have it.
#[derive(Debug)]
pub(super) struct LockedFolder {
    folder: Mutex<Option<Folder>>,
    path: PathBuf,
    is_abandoned: AtomicBool,
    pub(super) log: SpoolLog,
}

impl LockedFolder {
    pub(super) fn new(folder: Folder, log: SpoolLog) -> Self {
        let path = folder.path.clone();
        Self { folder: Mutex::new(Some(folder)), path, is_abandoned: AtomicBool::new(false), log }
    }

    /// Locks the folder. What it has to say is logged when the guard has released the lock.
    pub(super) fn lock(&self) -> FolderGuard<'_> {
        // A folder whose calls were broken off is one whose process was: what it has said was written.
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        FolderGuard { folder, after: After { locked: self, notices: Vec::new(), has_room: false } }
    }

    /// Whether the folder has turned out not to be ours any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }
}

pub(super) struct FolderGuard<'a> {
    folder: MutexGuard<'a, Option<Folder>>,
    // Dropped behind the lock's guard, because it is declared behind it.
    after: After<'a>,
}

/// What is left to do once the lock is released.
struct After<'a> {
    locked: &'a LockedFolder,
    notices: Vec<Notice>,
    has_room: bool,
}

impl Drop for FolderGuard<'_> {
    fn drop(&mut self) {
        let Some(folder) = self.folder.as_mut() else { return };
        self.after.notices = std::mem::take(&mut folder.notices);
        self.after.has_room = folder.is_half_empty();
        if folder.is_abandoned() {
            self.after.locked.is_abandoned.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for After<'_> {
    fn drop(&mut self) {
        let LockedFolder { log, path, .. } = self.locked;
        log.write(path, std::mem::take(&mut self.notices));
        if self.has_room {
            log.has_room(path);
        }
    }
}

impl Deref for FolderGuard<'_> {
    type Target = Option<Folder>;

    fn deref(&self) -> &Option<Folder> {
        &self.folder
    }
}

impl DerefMut for FolderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Option<Folder> {
        &mut self.folder
    }
}
