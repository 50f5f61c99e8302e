//! The queue of one shard: batches become blocks, one after the other.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot::Receiver},
    time::{Instant, sleep_until},
};

use super::{
    block::{InsertBlock, Rows},
    budget::QueueBudget,
};
use crate::store::StoreError;

/// The queue of one shard.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<LaneState>,
    /// A block is full, or the first one is open.
    work: Notify,
    max_rows: usize,
    max_wait: Duration,
    budget: QueueBudget,
}

#[derive(Debug, Default)]
struct LaneState {
    /// The block that takes rows.
    open: Option<InsertBlock>,
    full: VecDeque<InsertBlock>,
    failing: Option<LaneFailure>,
}

/// The shard takes no puts.
#[derive(Debug)]
struct LaneFailure {
    error: StoreError,
    /// Puts that come before are rejected.
    retry_at: Instant,
}

impl Lane {
    pub(super) fn new(max_rows: usize, max_wait: Duration, budget: QueueBudget) -> Self {
        Self { state: Mutex::default(), work: Notify::new(), max_rows, max_wait, budget }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds rows, at most as many as a block has, to the open block. Returns what tells when they are stored.
    ///
    /// # Errors
    ///
    /// If the shard takes no puts, or if too many wait.
    pub(super) fn submit(
        &self,
        rows: Rows,
    ) -> Result<Receiver<Result<(), StoreError>>, StoreError> {
        let mut state = self.state();
        if let Some(failing) = &state.failing
            && Instant::now() < failing.retry_at
        {
            return Err(failing.error.clone());
        }
        let LaneState { open, full, .. } = &mut *state;
        let is_first = open.is_none();
        let closed = open.take_if(|open| open.len() + rows.len > self.max_rows);
        let is_closed = closed.is_some();
        full.extend(closed);
        let receiver = InsertBlock::add(open, rows, &self.budget);
        let is_full = open.as_ref().is_some_and(|open| open.len() >= self.max_rows);
        if is_full {
            full.extend(open.take());
        }
        drop(state);
        if is_first || is_closed || is_full {
            self.work.notify_one();
        }
        receiver
    }

    /// Waits for the next block: one that is full, or whose first rows have waited long enough.
    ///
    /// # Cancel safety
    ///
    /// No block is lost.
    pub(super) async fn next_block(&self) -> InsertBlock {
        loop {
            let due = {
                let mut state = self.state();
                if let Some(block) = state.full.pop_front() {
                    return block;
                }
                let due = state.open.as_ref().map(|open| open.opened + self.max_wait);
                if due.is_some_and(|due| due <= Instant::now())
                    && let Some(block) = state.open.take()
                {
                    return block;
                }
                due
            };
            // A notification that came in between is kept.
            let work = self.work.notified();
            match due {
                None => work.await,
                Some(due) => tokio::select! {
                    () = work => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Returns true if the last block failed.
    pub(super) fn is_failing(&self) -> bool {
        self.state().failing.is_some()
    }

    /// Notes that a block was stored.
    pub(super) fn set_working(&self) {
        let failing = self.state().failing.take();
        // Not under the lock.
        drop(failing);
    }

    /// Rejects all puts until `retry_at`, also those that wait.
    pub(super) fn set_failing(&self, error: StoreError, retry_at: Instant) {
        let mut state = self.state();
        let failing = state.failing.replace(LaneFailure { error: error.clone(), retry_at });
        let open = state.open.take();
        let full = std::mem::take(&mut state.full);
        drop(state);
        drop(failing);
        for block in full.into_iter().chain(open) {
            block.complete(&Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_client::Point;

    use super::*;

    fn lane(max_bytes: usize) -> Lane {
        Lane::new(10, Duration::from_millis(50), QueueBudget::new(max_bytes))
    }

    fn rows(len: usize) -> Rows {
        let mut rows = Rows::default();
        (0..len).for_each(|at| rows.push("a", Point::new(0.5, at as i64), 1));
        rows
    }

    #[tokio::test(start_paused = true)]
    async fn block_is_sent_when_it_is_full_or_old() {
        let (lane, begin) = (lane(1 << 20), Instant::now());
        let mut waits: Vec<_> = [4, 4, 4].map(|len| lane.submit(rows(len)).unwrap()).into();
        assert_eq!((lane.next_block().await.len(), begin.elapsed()), (8, Duration::ZERO));
        waits.push(lane.submit(rows(6)).unwrap());
        assert_eq!((lane.next_block().await.len(), begin.elapsed()), (10, Duration::ZERO));
        waits.push(lane.submit(rows(1)).unwrap());
        let block = lane.next_block().await;
        assert_eq!((block.len(), begin.elapsed()), (1, Duration::from_millis(50)));
        drop(waits.pop());
        assert!(!block.is_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_shard_rejects_puts_for_a_while() {
        let lane = lane(1 << 20);
        let waits = [10, 3].map(|len| lane.submit(rows(len)).unwrap());
        let down = StoreError::transient("down");
        lane.set_failing(down, Instant::now() + Duration::from_secs(1));
        for wait in waits {
            assert_eq!(wait.await.unwrap().unwrap_err().to_string(), "down");
        }
        assert!(lane.submit(rows(1)).unwrap_err().is_transient());
        assert_eq!(lane.budget.used(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        let wait = lane.submit(rows(1)).unwrap();
        lane.next_block().await.complete(&Ok(()));
        wait.await.unwrap().unwrap();
        assert!(lane.is_failing());
        lane.set_working();
        assert!(!lane.is_failing());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_puts_have_a_bound_of_memory() {
        // A row takes 26 bytes.
        let lane = lane(260);
        let wait = lane.submit(rows(10)).unwrap();
        let error = lane.submit(rows(1)).unwrap_err();
        assert_eq!(error.to_string(), "too many puts wait for ClickHouse");
        lane.next_block().await.complete(&Ok(()));
        wait.await.unwrap().unwrap();
        lane.submit(rows(10)).unwrap();
    }
}
