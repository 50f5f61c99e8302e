//! The state that the handle and the two threads of a store share.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use imbl::Vector;
use metrics_client::{Key, Selector};
use tokio::sync::Notify;

pub(super) use super::blocks::Sealing;
use super::{
    blocks::BlocksView,
    head::{Head, Keys},
    open_snapshots::OpenSnapshots,
    options::Options,
    pace::Pace,
    queue::{Closing, CommitQueue, Readiness, Work},
    read_ahead::ReadAhead,
    snapshot::{DiskSnapshot, Parts, Reopened, SnapshotData, Source},
};
use crate::store::{PutBatch, StoreError, accounting::MemoryAccount};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    /// Counts the points of all heads, with what only snapshots reference.
    accounting: MemoryAccount,
    pub(super) counters: Counters,
    /// Its lock is not taken while the one of `state` is held.
    pub(super) queue: CommitQueue,
    read_ahead: Arc<ReadAhead>,
    state: Mutex<State>,
    /// Wakes the sealer, and the committer while it waits for a seal.
    sealing: Condvar,
    /// Wakes callers that wait for a seal, or for the end of both threads.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) syncs: DiskCounter,
    pub(super) seals: DiskCounter,
    pub(super) failed_seals: DiskCounter,
    pub(super) damaged_blocks: DiskCounter,
    pub(super) lost: DiskCounter,
    /// Damaged databases that were rebuilt from their intact blocks.
    pub(super) rebuilt: DiskCounter,
    /// Puts that were rejected because they are older than what is kept.
    pub(super) too_old: DiskCounter,
    /// Puts that were rejected because there are too many keys.
    pub(super) too_many_keys: DiskCounter,
    /// The number of keys.
    pub(super) keys: DiskCounter,
    /// How long syncs of the log took, in all and the last one.
    pub(super) sync_nanos: DiskCounter,
    pub(super) last_sync_nanos: DiskCounter,
    /// The sizes of files.
    pub(super) log_bytes: DiskCounter,
    pub(super) block_bytes: DiskCounter,
    pub(super) damaged_bytes: DiskCounter,
}

#[derive(Debug, Default)]
pub(super) struct DiskCounter(AtomicU64);

impl DiskCounter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct State {
    keys: Keys,
    head: Head,
    /// The memory of all heads that were there before this one.
    heads_memory: usize,
    /// When the first put of the head was applied.
    head_since: Option<Instant>,
    sealing: Option<Arc<Sealing>>,
    /// When the last head was sealed, and how long that took.
    last_seal: Option<(SystemTime, Duration)>,
    /// `None` if there is no block, or the database cannot be opened.
    blocks: Option<Arc<BlocksView>>,
    /// Points in blocks.
    points: u64,
    snapshots: OpenSnapshots,
    /// How many heads were handed to the sealer, and how many of them are in blocks.
    rotations: u64,
    seals: u64,
    is_seal_failing: bool,
    /// The database could not be opened again.
    is_database_closed: bool,
    is_sealer_stopping: bool,
    /// How many of the two threads run.
    threads: usize,
}

/// Numbers of the state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) keys: u64,
    pub(super) head_points: u64,
    pub(super) head_bytes: u64,
    pub(super) block_points: u64,
    pub(super) oldest_unsealed: Option<Duration>,
    pub(super) last_seal: Option<(SystemTime, Duration)>,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        accounting: MemoryAccount,
        keys: Keys,
        head: Head,
        blocks: Option<Arc<BlocksView>>,
        points: u64,
    ) -> Self {
        Self {
            options,
            accounting,
            counters: Counters::default(),
            queue: CommitQueue::default(),
            read_ahead: Arc::default(),
            state: Mutex::new(State {
                keys,
                heads_memory: 0,
                head_since: (!head.is_empty()).then(Instant::now),
                head,
                sealing: None,
                last_seal: None,
                blocks,
                points,
                snapshots: OpenSnapshots::default(),
                rotations: 0,
                seals: 0,
                is_seal_failing: false,
                is_database_closed: false,
                is_sealer_stopping: false,
                threads: 0,
            }),
            sealing: Condvar::new(),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each put leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the second before which points are dropped.
    pub(super) fn cutoff(&self) -> i64 {
        let Some(keep) = self.options.keep else { return i64::MIN };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(now).saturating_sub(seconds(keep))
    }

    // Called by the handle.

    /// Returns a snapshot.
    pub(super) fn snapshot(
        self: &Arc<Self>,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> Result<DiskSnapshot, StoreError> {
        let from = self.cutoff().max(*seconds.start());
        let mut state = self.state();
        state.check_open()?;
        let ids = match selector {
            Selector::Key(key) => state.keys.get(key.as_str()).map_or(0..0, |id| id..id + 1),
            Selector::All => 0..state.keys.names().len() as u32,
            // The protocol has no other selector, so no session asks for one.
            _ => 0..0,
        };
        let data = Arc::new(SnapshotData::new(state.parts()));
        state.snapshots.add(&data);
        drop(state);
        let (source, read_ahead) = (Arc::clone(self) as Arc<dyn Source>, self.read_ahead.open());
        Ok(DiskSnapshot::new(source, read_ahead, data, ids, from..=*seconds.end()))
    }

    /// Returns all that is stored at this moment, and the id of a key if it is stored.
    pub(super) fn parts_with(&self, key: &Key) -> Result<Option<(Parts, u32)>, StoreError> {
        let state = self.state();
        state.check_open()?;
        Ok(state.keys.get(key.as_str()).map(|id| (state.parts(), id)))
    }

    /// Returns all that is stored at this moment. It is not evicted.
    pub(super) fn parts(&self) -> Result<Parts, StoreError> {
        let state = self.state();
        state.check_open()?;
        Ok(state.parts())
    }

    /// Returns the indices of the puts whose keys are not stored.
    pub(super) fn unknown_keys(&self, puts: &PutBatch) -> Vec<usize> {
        let state = self.state();
        let unknown = puts.iter().enumerate().filter(|(_, (key, _))| state.keys.get(key).is_none());
        unknown.map(|(index, _)| index).collect()
    }

    /// Returns all keys.
    pub(super) fn names(&self) -> Vector<Key> {
        self.state().keys.names().clone()
    }

    pub(super) fn totals(&self) -> Totals {
        let state = self.state();
        let heads = [Some(&state.head), state.sealing.as_ref().map(|sealing| &sealing.head)];
        Totals {
            keys: state.keys.names().len() as u64,
            head_points: heads.into_iter().flatten().map(Head::puts).sum::<usize>() as u64,
            head_bytes: self.accounting.bytes() as u64,
            block_points: state.points,
            oldest_unsealed: state
                .sealing
                .as_ref()
                .and_then(|sealing| sealing.since)
                .or(state.head_since)
                .map(|since| since.elapsed()),
            last_seal: state.last_seal,
        }
    }

    /// Asks the committer to hand the head to the sealer. Returns the number of seals after which all points
    /// that are stored now are in blocks.
    pub(super) fn request_seal(&self) -> u64 {
        let state = self.state();
        if state.head.is_empty() {
            return state.rotations;
        }
        let target = state.rotations + 1;
        drop(state);
        // If the head is handed over before this, the request seals another one too.
        self.queue.request_seal();
        target
    }

    /// Returns whether there were as many seals, or `None` if there will not be: sealing fails, or the
    /// store is closed.
    pub(super) fn has_sealed(&self, seals: u64) -> Option<bool> {
        let state = self.state();
        if state.seals >= seals {
            return Some(true);
        }
        (!state.is_seal_failing && state.threads == THREADS).then_some(false)
    }

    /// Asks both threads to end.
    pub(super) fn close(&self, how: Closing) {
        self.queue.close(how);
        if how == Closing::WithoutSeal {
            self.stop_sealer();
        }
    }

    pub(super) fn are_threads_running(&self) -> bool {
        self.state().threads > 0
    }

    // Called by the committer.

    /// Waits for work, or until `deadline`. If the head is full, groups are taken only if sealing fails, so
    /// that they fail too; otherwise they wait for the sealer.
    pub(super) fn next_work(
        &self,
        deadline: Option<Instant>,
        pace: &Pace,
        head: HeadState,
    ) -> Work {
        self.queue.next_work(deadline, pace, || {
            let state = self.state();
            Readiness {
                accepts_groups: !head.is_full || state.is_seal_failing,
                is_head_late: head.is_late && state.sealing.is_some(),
                can_seal: state.sealing.is_none(),
            }
        })
    }

    /// Takes the request to seal, unless a head is being sealed.
    pub(super) fn take_seal_request(&self) -> bool {
        !self.is_sealing() && self.queue.take_seal_request()
    }

    pub(super) fn apply(&self, puts: &PutBatch) {
        let mut runs = puts.runs().peekable();
        while runs.peek().is_some() {
            let mut state = self.state();
            let State { keys, head, head_since, .. } = &mut *state;
            head_since.get_or_insert_with(Instant::now);
            // Readers wait for this.
            runs.by_ref().take(MAX_RUNS).for_each(|run| head.apply(&run, keys));
            self.counters.keys.set(keys.names().len() as u64);
        }
        while self.accounting.bytes() > self.options.max_memory_bytes {
            let Some(oldest) = self.state().snapshots.evict_oldest() else { break };
            // Freed without the lock.
            drop(oldest);
        }
    }

    /// Returns how many puts the head has, and how many bytes of memory it takes.
    pub(super) fn head_size(&self) -> (usize, usize) {
        let state = self.state();
        (state.head.puts(), self.accounting.stored().saturating_sub(state.heads_memory))
    }

    pub(super) fn is_sealing(&self) -> bool {
        self.state().sealing.is_some()
    }

    /// Begins a new head, unless it is empty or the last one is not in blocks yet. Returns true if it did.
    pub(super) fn rotate(&self, sealing: impl FnOnce(Head, Vector<Key>) -> Sealing) -> bool {
        let mut state = self.state();
        if state.sealing.is_some() || state.head.is_empty() {
            return false;
        }
        let (head, names) = (
            std::mem::replace(&mut state.head, Head::new(&self.accounting)),
            state.keys.names().clone(),
        );
        state.heads_memory = self.accounting.stored();
        let since = state.head_since.take();
        state.sealing = Some(Arc::new(Sealing { since, ..sealing(head, names) }));
        state.rotations += 1;
        drop(state);
        self.sealing.notify_all();
        true
    }

    /// Waits until the sealer is done. Returns false if it fails.
    pub(super) fn wait_for_seal(&self) -> bool {
        let mut state = self.state();
        while state.sealing.is_some() && !state.is_seal_failing && !state.is_sealer_stopping {
            state = self.sealing.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sealing.is_none()
    }

    /// Returns a guard that rejects and fails all batches when it is dropped.
    pub(super) fn close_on_drop(self: &Arc<Self>) -> CloseOnDrop {
        CloseOnDrop(Arc::clone(self))
    }

    // Called by the sealer.

    /// Waits for a head to seal. Returns `None` if the thread is to end.
    pub(super) fn next_sealing(&self) -> Option<Arc<Sealing>> {
        let mut state = self.state();
        loop {
            if state.is_sealer_stopping {
                return None;
            }
            if let Some(sealing) = &state.sealing {
                return Some(Arc::clone(sealing));
            }
            state = self.sealing.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Shows the blocks instead of the head that was sealed.
    pub(super) fn sealed(&self, blocks: Option<Arc<BlocksView>>, log_end: u64, points: u64) {
        // First, so that a committer that waits for the seal finds it.
        self.queue.set_sealed(log_end);
        let mut state = self.state();
        let sealing = state.sealing.take();
        let old = std::mem::replace(&mut state.blocks, blocks);
        state.points = points;
        state.is_seal_failing = false;
        state.seals += 1;
        drop(state);
        self.sealing.notify_all();
        self.changed.notify_waiters();
        self.queue.wake();
        // Freed without a lock.
        drop((sealing, old));
    }

    /// Notes how long a seal took.
    pub(super) fn note_seal(&self, time: Duration) {
        self.state().last_seal = Some((SystemTime::now(), time));
    }

    /// Notes that sealing failed, and waits before it is tried again. Returns false if the thread is to end.
    pub(super) fn seal_failed(&self, pause: Duration) -> bool {
        self.state().is_seal_failing = true;
        self.sealing.notify_all();
        self.changed.notify_waiters();
        self.queue.wake();
        let deadline = Instant::now() + pause;
        let mut state = self.state();
        while !state.is_sealer_stopping {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let woken = self.sealing.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Shows other blocks, after the database was opened again.
    pub(super) fn replace_blocks(&self, blocks: Option<Arc<BlocksView>>) {
        let mut state = self.state();
        let old = std::mem::replace(&mut state.blocks, blocks);
        state.is_database_closed = false;
        drop(state);
        self.changed.notify_waiters();
        drop(old);
    }

    /// Notes that the database could not be opened again. Reads of blocks fail until it is.
    pub(super) fn reopen_failed(&self) {
        self.state().is_database_closed = true;
        self.changed.notify_waiters();
    }

    /// Ends reads, so that no view of the blocks is left but those of snapshots.
    pub(super) fn end_reads(&self) {
        let mut state = self.state();
        state.is_database_closed = true;
        let old = state.blocks.take();
        drop(state);
        self.changed.notify_waiters();
        drop(old);
    }

    fn stop_sealer(&self) {
        self.state().is_sealer_stopping = true;
        self.sealing.notify_all();
    }

    // Called by both threads.

    /// Counts a thread until the guard is dropped.
    pub(super) fn thread_guard(self: &Arc<Self>) -> ThreadGuard {
        self.state().threads += 1;
        ThreadGuard(Arc::clone(self))
    }
}

impl State {
    fn check_open(&self) -> Result<(), StoreError> {
        let is_closed =
            self.threads < THREADS || self.is_sealer_stopping && self.is_database_closed;
        if is_closed { Err(StoreError::transient("store closed")) } else { Ok(()) }
    }

    fn parts(&self) -> Parts {
        Parts {
            names: self.keys.names().clone(),
            head: self.head.clone(),
            sealing: self.sealing.as_ref().map(|sealing| sealing.head.clone()),
            seals: self.seals,
            blocks: self.blocks.clone(),
        }
    }
}

impl Source for Shared {
    fn reopened(&self, seals: u64, closed: Option<Arc<BlocksView>>) -> Reopened<'_> {
        Box::pin(async move {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let state = self.state();
                    let is_gone = state.is_database_closed || state.threads < THREADS;
                    if state.seals != seals || is_gone {
                        return None;
                    }
                    let is_open = |blocks: &&Arc<BlocksView>| {
                        closed.as_ref().is_none_or(|closed| !Arc::ptr_eq(blocks, closed))
                    };
                    if let Some(blocks) = state.blocks.as_ref().filter(is_open) {
                        return Some(Arc::clone(blocks));
                    }
                }
                changed.await;
            }
        })
    }
}

/// How large the head is.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadState {
    /// It is to be sealed.
    pub(super) is_late: bool,
    /// It takes no more.
    pub(super) is_full: bool,
}

/// Fails all batches when it is dropped, and those to come, and ends the sealer.
pub(super) struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.queue.reject_all();
        self.0.stop_sealer();
    }
}

/// A running thread.
pub(super) struct ThreadGuard(Arc<Shared>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.threads -= 1;
        drop(state);
        self.0.changed.notify_waiters();
    }
}

/// The committer and the sealer.
const THREADS: usize = 2;

/// How many runs of puts are applied under one lock: some 0.1 ms.
const MAX_RUNS: usize = 1000;
