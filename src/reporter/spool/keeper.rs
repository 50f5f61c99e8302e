//! The spool of a running reporter: its folder, and what the reporter has in it.
//!
//! Everything here blocks, and runs where that disturbs nobody.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Spool,
    error::SpoolError,
    folder::Folder,
    locked::{FolderGuard, LockedFolder},
    notices::{Notice, SpoolLog},
};
use crate::{
    metric::Sample,
    reporter::{
        outbox::{Moving, Outbox},
        shared::Shared,
    },
};

/// How many samples are moved at once: nobody can record while they are taken.
pub(super) const BATCH: usize = 512;

#[derive(Debug)]
pub(in crate::reporter) struct Keeper {
    pub(in crate::reporter) settings: Spool,
    /// Locked by whoever moves all that waits to the folder, before the folder.
    rescue: Mutex<()>,
    /// Locked before the outbox.
    folder: LockedFolder,
}

/// A spool whose folder is open, and which no reporter keeps yet.
#[derive(Debug)]
pub(in crate::reporter) struct OpenSpool {
    settings: Spool,
    folder: Folder,
}

impl OpenSpool {
    pub(in crate::reporter) fn open(settings: Spool) -> Result<Self, SpoolError> {
        let folder = settings.open()?;
        Ok(Self { settings, folder })
    }

    pub(in crate::reporter) fn keep(self, outbox: &mut Outbox) -> Arc<Keeper> {
        let Self { settings, folder } = self;
        let stats = folder.stats();
        outbox.spool_opened(stats, folder.latest().filter(|_| stats.waiting > 0));
        let folder = LockedFolder::new(folder, SpoolLog::default());
        Arc::new(Keeper { settings, rescue: Mutex::default(), folder })
    }
}

impl Keeper {
    fn folder(&self) -> FolderGuard<'_> {
        self.folder.lock()
    }

    /// Whether the folder has turned out not to be ours any more: the reporter goes on without.
    pub(super) fn is_abandoned(&self) -> bool {
        self.folder.is_abandoned()
    }

    /// Syncs what was appended.
    pub(super) fn sync(&self) {
        if let Some(folder) = self.folder().as_mut() {
            folder.sync();
        }
    }

    /// Whether a loss of power would cost nothing of what was appended.
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        self.folder().as_ref().is_none_or(|folder| folder.unsynced_since.is_none())
    }

    /// Moves samples from the queue to the folder, in a [rescue](Outbox::begin_rescue) or else for the
    /// sender.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if the folder does not take them: they wait in the queue, as they did.
    pub(in crate::reporter) fn store(
        &self,
        shared: &Shared,
        moving: Moving,
        is_rescue: bool,
    ) -> Result<(), SpoolError> {
        let stored = self.store_locked(shared, moving, is_rescue);
        shared.note_settled();
        stored
    }

    fn store_locked(
        &self,
        shared: &Shared,
        moving: Moving,
        is_rescue: bool,
    ) -> Result<(), SpoolError> {
        let mut folder = self.folder();
        let Some(folder) = folder.as_mut() else { return Ok(()) };
        loop {
            let mut batch = Vec::new();
            if !shared.outbox().take_to_spool(BATCH, moving, is_rescue, &mut batch) {
                return Ok(());
            }
            let mut stored = 0;
            let mut result = Ok(());
            while stored < batch.len() && result.is_ok() {
                result = folder
                    .append(Instant::now(), &batch[stored..])
                    .map(|samples| stored += samples);
            }
            shared.outbox().spooled(batch, stored, folder.stats());
            if folder.is_abandoned() {
                shared.outbox().replayed(0, 0, folder.stats(), folder.is_drained());
            }
            if moving == Moving::Blocked {
                return result;
            }
            result?;
        }
    }

    /// Moves all samples that wait to the folder, and gives it up.
    pub(in crate::reporter) fn close(&self, shared: &Shared) {
        // Whoever comes second must not give up the folder under the first.
        let _turn = self.turn();
        self.move_all(shared);
        let folder = self.folder().take();
        drop(folder);
    }

    /// Moves all samples that wait to the folder, and syncs it: the end may be near.
    pub(in crate::reporter) fn rescue(&self, shared: &Shared) {
        let _turn = self.turn();
        self.move_all(shared);
    }

    /// The turn to move all that waits: it is waited for, but for no longer than the disk takes.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.rescue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn move_all(&self, shared: &Shared) {
        shared.begin_rescue();
        let stored = self.store(shared, Moving::All, true);
        if let Some(folder) = self.folder().as_mut() {
            folder.sync();
        }
        shared.end_rescue();
        if let Err(error) = stored {
            self.folder.log.not_rescued(&error);
        }
    }

    /// The oldest samples in the folder.
    ///
    /// # Errors
    ///
    /// [`SpoolError`] if they cannot be read now.
    pub(in crate::reporter) fn read(
        &self,
        shared: &Shared,
        most: usize,
    ) -> Result<Option<Vec<Sample>>, SpoolError> {
        let mut guard = self.folder();
        let Some(folder) = guard.as_mut() else { return Ok(None) };
        let samples = folder.read_since(self.settings.oldest(), most);
        shared.outbox().replayed(0, 0, folder.stats(), folder.is_drained());
        drop(guard);
        // What a flush waits for may have been lost.
        shared.note_settled();
        samples
    }

    /// Says what became of the first `settled` samples that were read last.
    pub(in crate::reporter) fn settle(&self, shared: &Shared, settled: usize, rejected: usize) {
        let mut guard = self.folder();
        let Some(folder) = guard.as_mut() else { return };
        if let Err(error) = folder.settle(settled) {
            folder.notices.push(Notice::PositionUnsaved(error));
        }
        let (acknowledged, rejected) = ((settled - rejected) as u64, rejected as u64);
        shared.outbox().replayed(acknowledged, rejected, folder.stats(), folder.is_drained());
        drop(guard);
        shared.note_settled();
    }
}
