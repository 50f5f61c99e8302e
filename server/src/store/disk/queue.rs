//! The queue in front of the committer: batches that wait become groups, one for each record of the log.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use metrics_client::internal::wake::wake_each;

use crate::store::{PutBatch, StoreError};

#[derive(Debug, Default)]
pub(super) struct CommitQueue {
    state: Mutex<CommitQueueState>,
    /// Wakes the committer.
    work: Condvar,
}

#[derive(Debug, Default)]
struct CommitQueueState {
    groups: VecDeque<Group>,
    /// An empty batch with memory, for the next group.
    spare: PutBatch,
    /// The puts that wait.
    puts: usize,
    /// Log entries before this number are in blocks.
    sealed: Option<u64>,
    closing: Option<Closing>,
    is_seal_requested: bool,
    /// A seal has ended or failed.
    is_woken: bool,
    /// Nothing is accepted any more.
    is_closed: bool,
    /// The committer waits for `work`.
    is_waiting: bool,
}

/// What the committer does next.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) groups: VecDeque<Group>,
    /// Log entries before this number are in blocks.
    pub(super) sealed: Option<u64>,
    pub(super) closing: Option<Closing>,
}

/// How the store is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    WithSeal,
    /// The log keeps what is not in blocks.
    WithoutSeal,
}

/// What the committer can do with work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    /// False if groups have to wait, because the head is full.
    pub(super) accepts_groups: bool,
    /// True if a head can be handed to the sealer.
    pub(super) can_seal: bool,
}

impl CommitQueue {
    fn state(&self) -> MutexGuard<'_, CommitQueueState> {
        // No panic can leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the committer if it waits.
    fn update(&self, update: impl FnOnce(&mut CommitQueueState)) {
        let mut state = self.state();
        update(&mut state);
        let is_waiting = std::mem::take(&mut state.is_waiting);
        drop(state);
        if is_waiting {
            self.work.notify_one();
        }
    }

    /// Adds a batch to the last group. If its caller is dropped, it is written only if another batch of the group is.
    pub(super) fn submit(&self, puts: &PutBatch) -> Result<Committed, StoreError> {
        let mut submitted = Err(closed());
        self.update(|state| submitted = state.submit(puts));
        submitted
    }

    pub(super) fn request_seal(&self) {
        self.update(|state| state.is_seal_requested = true);
    }

    /// Notes that the log entries before a number are in blocks.
    pub(super) fn set_sealed(&self, log_end: u64) {
        self.state().sealed = Some(log_end);
    }

    /// Gives the committer work, so that it looks at everything again.
    pub(super) fn wake(&self) {
        self.update(|state| state.is_woken = true);
    }

    pub(super) fn close(&self, how: Closing) {
        self.update(|state| _ = state.closing.get_or_insert(how));
    }

    /// Fails all groups, and those to come.
    pub(super) fn reject_all(&self) {
        let mut groups = VecDeque::new();
        self.update(|state| {
            state.is_closed = true;
            groups = std::mem::take(&mut state.groups);
        });
        // Fails the callers, without the lock.
        drop(groups);
    }

    // Called by the committer.

    /// Waits for work, or until `deadline`.
    pub(super) fn next_work(
        &self,
        deadline: Option<Instant>,
        readiness: impl Fn() -> Readiness,
    ) -> Work {
        let spin_until = Instant::now() + SPIN_TIME;
        let mut state = self.state();
        loop {
            let Readiness { accepts_groups, can_seal } = readiness();
            let now = Instant::now();
            if (accepts_groups && !state.groups.is_empty())
                || (can_seal && state.is_seal_requested)
                || deadline.is_some_and(|deadline| deadline <= now)
                || state.is_woken
                || state.closing.is_some()
            {
                let groups = if accepts_groups || state.closing.is_some() {
                    state.puts = 0;
                    std::mem::take(&mut state.groups)
                } else {
                    VecDeque::new()
                };
                state.is_woken = false;
                return Work { groups, sealed: state.sealed.take(), closing: state.closing };
            }
            if now < spin_until {
                drop(state);
                thread::yield_now();
                state = self.state();
                continue;
            }
            state.is_waiting = true;
            state = match deadline {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let woken =
                        self.work.wait_timeout(state, deadline.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.is_waiting = false;
        }
    }

    pub(super) fn take_sealed(&self) -> Option<u64> {
        self.state().sealed.take()
    }

    pub(super) fn take_seal_request(&self) -> bool {
        std::mem::take(&mut self.state().is_seal_requested)
    }

    /// Keeps the memory of a batch for later groups.
    pub(super) fn recycle(&self, mut puts: PutBatch) {
        if puts.bytes() > MAX_SPARE_BYTES {
            return;
        }
        puts.clear();
        let spare = std::mem::replace(&mut self.state().spare, puts);
        drop(spare);
    }
}

impl CommitQueueState {
    fn submit(&mut self, puts: &PutBatch) -> Result<Committed, StoreError> {
        if self.is_closed || self.closing.is_some() {
            return Err(closed());
        }
        if self.puts >= MAX_QUEUED_PUTS {
            return Err(StoreError::transient("too many puts wait for the disk"));
        }
        let has_room = self.groups.back().is_some_and(|group| group.puts.bytes() < MAX_GROUP_BYTES);
        if !has_room {
            let puts = std::mem::take(&mut self.spare);
            self.groups.push_back(Group { puts, completion: Arc::default() });
        }
        self.puts += puts.len();
        let group = self.groups.back_mut().ok_or_else(closed)?;
        group.puts.append(puts);
        group.completion.state().waiting += 1;
        Ok(Committed { completion: Arc::clone(&group.completion), waker: None })
    }
}

fn closed() -> StoreError {
    StoreError::transient("store closed")
}

/// Batches that are written as one record. If it is dropped before it is completed, the store is closed.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) puts: PutBatch,
    completion: Arc<GroupCompletion>,
}

impl Group {
    /// Returns true if all callers were dropped.
    pub(super) fn is_abandoned(&self) -> bool {
        self.completion.state().waiting == 0
    }

    /// Wakes all callers with the outcome. Returns the puts.
    pub(super) fn complete(mut self, outcome: Result<(), StoreError>) -> PutBatch {
        self.completion.complete(outcome);
        std::mem::take(&mut self.puts)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.completion.complete(Err(closed()));
    }
}

#[derive(Debug, Default)]
struct GroupCompletion(Mutex<GroupCompletionState>);

#[derive(Debug, Default)]
struct GroupCompletionState {
    outcome: Option<Result<(), StoreError>>,
    wakers: Vec<Option<Waker>>,
    /// How many callers wait.
    waiting: usize,
}

impl GroupCompletion {
    fn state(&self) -> MutexGuard<'_, GroupCompletionState> {
        // No panic can leave the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the outcome, unless there is one.
    fn complete(&self, outcome: Result<(), StoreError>) {
        let mut state = self.state();
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wake_each(wakers.into_iter().flatten());
    }
}

/// Waits until a batch is committed.
#[derive(Debug)]
pub(super) struct Committed {
    completion: Arc<GroupCompletion>,
    /// The index of its waker.
    waker: Option<usize>,
}

impl Future for Committed {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { completion, waker } = &mut *self;
        let mut state = completion.state();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        let index = *waker.get_or_insert_with(|| {
            state.wakers.push(None);
            state.wakers.len() - 1
        });
        let before = match &mut state.wakers[index] {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            waker => waker.replace(cx.waker().clone()),
        };
        drop(state);
        // Not under the lock.
        drop(before);
        Poll::Pending
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        let mut state = self.completion.state();
        state.waiting -= 1;
        let waker = self.waker.and_then(|index| state.wakers.get_mut(index)?.take());
        drop(state);
        drop(waker);
    }
}

/// How large a group may become before another begins, in bytes: small enough that one damaged record costs
/// little, large enough that one sync serves all connections. The last batch is added to it.
pub(super) const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// How large a batch may be whose memory is kept, in bytes.
const MAX_SPARE_BYTES: usize = 256 * 1024;

/// How many puts may wait for the committer: some 256 MiB. A disk that hangs would otherwise fill the
/// memory with the puts of clients that retry.
const MAX_QUEUED_PUTS: usize = 4 * 1024 * 1024;

/// How long the committer looks for more work before it sleeps: a client that waits for each answer sends its
/// next put by then. Other threads that can run do so first.
const SPIN_TIME: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use metrics_client::{Key, Point};

    use super::*;

    fn batch(len: i64) -> PutBatch {
        let (mut puts, key) = (PutBatch::new(), Key::new("a").unwrap());
        (0..len).for_each(|at| puts.push(&key, Point::new(0.5, at)));
        puts
    }

    fn take(queue: &CommitQueue) -> VecDeque<Group> {
        queue.next_work(None, || Readiness { accepts_groups: true, can_seal: true }).groups
    }

    #[tokio::test]
    async fn batches_that_wait_are_one_group() {
        let queue = CommitQueue::default();
        let committed: Vec<_> = (1..4).map(|len| queue.submit(&batch(len)).unwrap()).collect();
        let mut groups = take(&queue);
        let group = groups.pop_front().unwrap();
        assert_eq!((groups.len(), group.puts.len()), (0, 6));
        let later = queue.submit(&batch(1)).unwrap();
        group.complete(Ok(()));
        for committed in committed {
            committed.await.unwrap();
        }
        drop(take(&queue));
        assert!(later.await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn abandoned_group_is_known_and_a_large_one_is_full() {
        let queue = CommitQueue::default();
        drop(queue.submit(&batch(1)).unwrap());
        let large = batch(MAX_GROUP_BYTES as i64 / 16);
        let _waits = [queue.submit(&large).unwrap(), queue.submit(&batch(1)).unwrap()];
        let groups = take(&queue);
        let found: Vec<_> = groups.iter().map(|g| (g.puts.len(), g.is_abandoned())).collect();
        assert_eq!(found, [(1 + large.len(), false), (1, false)]);
        drop(queue.submit(&batch(1)).unwrap());
        assert!(take(&queue)[0].is_abandoned());
    }

    #[tokio::test]
    async fn closed_queue_rejects_batches() {
        let queue = CommitQueue::default();
        let waiting = queue.submit(&batch(1)).unwrap();
        queue.reject_all();
        assert_eq!(waiting.await.unwrap_err().to_string(), "store closed");
        assert!(queue.submit(&batch(1)).is_err());
    }
}
