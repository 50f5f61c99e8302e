//! The thread that merges heads into blocks.

use std::{
    error::Error,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use metrics_client::internal::log_limit::{Lasting, LogCondition};
use tracing::{debug, error, info};

use super::{
    blocks::{Blocks, BlocksView, Sealing},
    shared::Shared,
};

pub(super) struct Sealer {
    pub(super) blocks: Blocks,
    pub(super) shared: Arc<Shared>,
}

impl Sealer {
    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        let failing = LogCondition::new();
        while let Some(sealing) = self.shared.next_sealing() {
            match catch_panic(|| self.seal(&sealing)) {
                Ok((blocks, points)) => {
                    if let Some(Lasting { since, times }) = failing.is_over() {
                        info!(failed_for = ?since, times, "blocks can be written again");
                    }
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
                    self.reopen();
                }
            }
        }
    }

    fn seal(&self, sealing: &Sealing) -> Result<(Option<Arc<BlocksView>>, u64), redb::Error> {
        let (outcome, points) = self.blocks.seal(sealing, self.shared.cutoff())?;
        // Should this fail, the same points are merged once more.
        let view = view(&self.blocks)?;
        debug!(points = sealing.head.puts(), "head sealed");
        if outcome.damaged > 0 {
            self.shared.counters.damaged_blocks.add(outcome.damaged);
            error!(blocks = outcome.damaged, "damaged blocks set aside; their points are lost");
        }
        Ok((view, points))
    }

    /// redb refuses to work after an error of the disk until it is opened again.
    fn reopen(&mut self) {
        match catch_panic(|| self.blocks.reopen().and_then(|()| view(&self.blocks))) {
            Ok(view) => self.shared.replace_blocks(view),
            Err(error) => {
                self.shared.reopen_failed();
                debug!(error = &error as &dyn Error, "blocks cannot be opened");
            }
        }
    }
}

/// Calls redb, which may panic if its file is damaged.
fn catch_panic<T>(call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    // The database is opened again after an error, whatever state it is in.
    panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("the database panicked".into())))
}

/// Returns a view of the current blocks; `None` if there is no block.
pub(super) fn view(blocks: &Blocks) -> Result<Option<Arc<BlocksView>>, redb::Error> {
    let view = blocks.view()?;
    Ok(if view.is_empty()? { None } else { Some(Arc::new(view)) })
}
