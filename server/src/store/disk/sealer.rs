//! The thread that merges heads into blocks.

use std::{error::Error, sync::Arc, time::Instant};

use imbl::Vector;
use metrics_client::{
    Key,
    internal::log_limit::{Lasting, LogCondition},
};
use metrics_wal::FileSystem;
use tracing::{debug, error, info};

use super::{
    blocks::{Blocks, BlocksView, Sealing, catch_panic},
    damaged::DamagedFolder,
    repair,
    shared::Shared,
};

pub(super) struct Sealer<F> {
    pub(super) blocks: Blocks,
    pub(super) shared: Arc<Shared>,
    pub(super) damaged: DamagedFolder<F>,
    /// The database has said that it is damaged since it was opened.
    pub(super) is_damaged: bool,
}

impl<F: FileSystem> Sealer<F> {
    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        let failing = LogCondition::new();
        let mut has_sealed = false;
        while let Some(sealing) = self.shared.next_sealing() {
            let begin = Instant::now();
            match catch_panic(|| self.seal(&sealing)) {
                Ok((blocks, points)) => {
                    self.shared.counters.block_bytes.set(self.blocks.bytes());
                    self.shared.note_seal(begin.elapsed());
                    if let Some(Lasting { since, times }) = failing.is_over() {
                        info!(failed_for = ?since, times, "blocks can be written again");
                    }
                    has_sealed = true;
                    self.shared.counters.seals.add(1);
                    self.shared.sealed(blocks, sealing.log_end, points);
                }
                Err(error) => {
                    self.shared.counters.failed_seals.add(1);
                    if let Some(Lasting { since, times }) = failing.holds() {
                        let error = &error as &dyn Error;
                        error!(error, failed_for = ?since, times, "blocks cannot be written; retrying");
                    }
                    // The log and the head still have everything.
                    if !self.shared.seal_failed(self.shared.options.retry_delay) {
                        return;
                    }
                    self.is_damaged |= repair::is_damage(&error);
                    self.reopen(&sealing.names);
                }
            }
        }
        if has_sealed && self.shared.totals().head_points == 0 {
            self.compact();
        }
    }

    /// Frees the space that merges have left in the file, about half of it, unless that would take long.
    fn compact(&mut self) {
        if self.blocks.bytes() > MAX_COMPACTED_BYTES {
            return;
        }
        self.shared.end_reads();
        if let Err(error) = catch_panic(|| self.blocks.compact()) {
            // A snapshot is open, or the disk fails: the file stays as it is.
            debug!(error = &error as &dyn Error, "the database is not compacted");
        }
    }

    fn seal(&mut self, sealing: &Sealing) -> Result<(Option<Arc<BlocksView>>, u64), redb::Error> {
        let points = self.blocks.seal(sealing, self.shared.cutoff(), |blocks| {
            self.shared.counters.damaged_blocks.add(blocks.len() as u64);
            self.damaged.keep_blocks(blocks);
            self.shared.counters.damaged_bytes.set(self.damaged.bytes());
        })?;
        // Should this fail, the same points are merged once more.
        let view = view(&self.blocks)?;
        debug!(points = sealing.head.puts(), "head sealed");
        Ok((view, points))
    }

    /// redb refuses to work after an error of the disk until it is opened again. After an error that says that it is
    /// damaged, it is looked at, and rebuilt if it is, with the ids of `names`.
    fn reopen(&mut self, names: &Vector<Key>) {
        let reopened = catch_panic(|| {
            let is_rebuilt = match self.is_damaged {
                true => repair::reopen(&mut self.blocks, names)?,
                false => self.blocks.reopen().map(|()| false)?,
            };
            Ok((is_rebuilt, view(&self.blocks)?))
        });
        self.is_damaged = reopened.as_ref().is_err_and(repair::is_damage);
        match reopened {
            Ok((is_rebuilt, view)) => {
                self.shared.counters.rebuilt.add(u64::from(is_rebuilt));
                self.shared.replace_blocks(view);
            }
            Err(error) => {
                self.shared.reopen_failed();
                debug!(error = &error as &dyn Error, "blocks cannot be opened");
            }
        }
    }
}

/// How long a file of blocks may be that is compacted when the store is closed: a service manager does not wait for
/// ever. In a larger file the free space is used by the next merges.
const MAX_COMPACTED_BYTES: u64 = 1 << 30;

/// Returns a view of the current blocks; `None` if there is no block.
pub(super) fn view(blocks: &Blocks) -> Result<Option<Arc<BlocksView>>, redb::Error> {
    let view = blocks.view()?;
    Ok(if view.is_empty()? { None } else { Some(Arc::new(view)) })
}
