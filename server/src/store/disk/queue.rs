//! The queue in front of the committer: batches that wait become groups, one for each record of the log.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use metrics_client::internal::wake::wake_each;

use super::{
    fair_queue::BatchTicket,
    group::{Committed, Group, closed},
    pace::{MIN_ROOM_BYTES, Pace},
    room::Room,
};
use crate::store::{PutBatch, StoreError};

#[derive(Debug, Default)]
pub(super) struct CommitQueue {
    state: Mutex<CommitQueueState>,
    /// Wakes the committer.
    work: Condvar,
}

#[derive(Debug)]
struct CommitQueueState {
    groups: VecDeque<Group>,
    /// Which batches are added to `groups`.
    room: Room,
    /// An empty batch with memory, for the next group.
    spare: PutBatch,
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

impl Default for CommitQueueState {
    fn default() -> Self {
        Self {
            groups: VecDeque::new(),
            room: Room::new(MIN_ROOM_BYTES),
            spare: PutBatch::new(),
            sealed: None,
            closing: None,
            is_seal_requested: false,
            is_woken: false,
            is_closed: false,
            is_waiting: false,
        }
    }
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
    /// True if the head is to be sealed, and has to wait for the one before.
    pub(super) is_head_late: bool,
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

    /// Waits for room, and adds a batch to the last group. If its caller is dropped, it is written only if another
    /// batch of the group is.
    pub(super) fn submit<'a>(&'a self, puts: &'a PutBatch) -> Submission<'a> {
        Submission { queue: self, puts, ticket: None }
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
        let mut wakers = Vec::new();
        self.update(|state| {
            state.closing.get_or_insert(how);
            wakers = state.room.close();
        });
        wake_each(wakers);
    }

    /// Fails all groups, and those to come.
    pub(super) fn reject_all(&self) {
        let (mut groups, mut wakers) = (VecDeque::new(), Vec::new());
        self.update(|state| {
            state.is_closed = true;
            groups = std::mem::take(&mut state.groups);
            wakers = state.room.close();
        });
        // Fails the callers, without the lock.
        drop(groups);
        wake_each(wakers);
    }

    /// Returns true if no batch waits for room or takes any.
    #[cfg(test)]
    pub(super) fn is_room_empty(&self) -> bool {
        self.state().room.is_empty()
    }

    // Called by the committer.

    /// Waits for work, or until `deadline`.
    pub(super) fn next_work(
        &self,
        deadline: Option<Instant>,
        pace: &Pace,
        readiness: impl Fn() -> Readiness,
    ) -> Work {
        let spin_until = Instant::now() + SPIN_TIME;
        let mut state = self.state();
        loop {
            let Readiness { accepts_groups, is_head_late, can_seal } = readiness();
            let now = Instant::now();
            state.room.set_limit(pace.room_bytes(is_head_late));
            let next_take = pace.next_take().filter(|&at| is_head_late && now < at);
            let takes_groups = accepts_groups && next_take.is_none();
            if (takes_groups && !state.groups.is_empty())
                || (can_seal && state.is_seal_requested)
                || deadline.is_some_and(|deadline| deadline <= now)
                || state.is_woken
                || state.closing.is_some()
            {
                let takes_groups = takes_groups || state.closing.is_some();
                let (groups, wakers) = if takes_groups && !state.groups.is_empty() {
                    (std::mem::take(&mut state.groups), state.room.on_taken())
                } else {
                    (VecDeque::new(), Vec::new())
                };
                state.is_woken = false;
                let work = Work { groups, sealed: state.sealed.take(), closing: state.closing };
                drop(state);
                wake_each(wakers);
                return work;
            }
            if now < spin_until {
                drop(state);
                thread::yield_now();
                state = self.state();
                continue;
            }
            state.is_waiting = true;
            let next_take = next_take.filter(|_| !state.groups.is_empty());
            state = match deadline.into_iter().chain(next_take).min() {
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
    /// Adds an admitted batch to the last group.
    fn add(&mut self, puts: &PutBatch) -> Committed {
        let last = match self.groups.pop_back() {
            Some(group) if group.puts.bytes() < MAX_GROUP_BYTES => group,
            full => {
                self.groups.extend(full);
                Group::new(std::mem::take(&mut self.spare))
            }
        };
        self.groups.push_back(last);
        let group = self.groups.back_mut().expect("a group was pushed");
        group.add(puts)
    }
}

/// Adds a batch to a group when there is room.
#[derive(Debug)]
pub(super) struct Submission<'a> {
    queue: &'a CommitQueue,
    puts: &'a PutBatch,
    /// Set while it waits for room.
    ticket: Option<BatchTicket>,
}

impl Future for Submission<'_> {
    type Output = Result<Committed, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { queue, puts, ticket } = &mut *self;
        // Cloned, and the one before is dropped, without the lock.
        let mut waker = ticket.is_some().then(|| cx.waker().clone());
        let mut polled = Poll::Pending;
        queue.update(|state| {
            if state.is_closed || state.closing.is_some() {
                polled = Poll::Ready(Err(closed()));
                return;
            }
            let is_admitted = match (*ticket, &mut waker) {
                (Some(ticket), Some(waker)) => state.room.is_admitted(ticket, puts.bytes(), waker),
                _ => {
                    let entered = state.room.enter(puts.source(), puts.bytes(), cx.waker());
                    *ticket = entered.err();
                    ticket.is_none()
                }
            };
            if is_admitted {
                *ticket = None;
                polled = Poll::Ready(Ok(state.add(puts)));
            }
        });
        polled
    }
}

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let (wakers, _own) = self.queue.state().room.leave(ticket);
            wake_each(wakers);
        }
    }
}

/// How large a group may become before another begins, in bytes: small enough that one damaged record costs
/// little, large enough that one sync serves all connections. The last batch is added to it.
pub(super) const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// How large a batch may be whose memory is kept, in bytes.
const MAX_SPARE_BYTES: usize = 256 * 1024;

/// How long the committer looks for more work before it sleeps: a client that waits for each answer sends its
/// next put by then. Other threads that can run do so first.
const SPIN_TIME: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use metrics_client::{Key, Point};

    use super::*;

    fn batch(len: i64) -> PutBatch {
        let (mut puts, key) = (PutBatch::new(), Key::new("a").unwrap());
        (0..len).for_each(|at| puts.push(&key, Point::new(0.5, at)));
        puts
    }

    /// Adds a batch for which there is room.
    fn submit(queue: &CommitQueue, puts: &PutBatch) -> Committed {
        queue.submit(puts).now_or_never().expect("there is room").unwrap()
    }

    fn take(queue: &CommitQueue) -> VecDeque<Group> {
        let readiness = Readiness { accepts_groups: true, is_head_late: false, can_seal: true };
        queue.next_work(None, &Pace::default(), || readiness).groups
    }

    #[tokio::test]
    async fn batches_that_wait_are_one_group() {
        let queue = CommitQueue::default();
        let committed: Vec<_> = (1..4).map(|len| submit(&queue, &batch(len))).collect();
        let mut groups = take(&queue);
        let group = groups.pop_front().unwrap();
        assert_eq!((groups.len(), group.puts.len()), (0, 6));
        let later = submit(&queue, &batch(1));
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
        drop(submit(&queue, &batch(1)));
        let large = batch(MAX_GROUP_BYTES as i64 / 16);
        let _waits = [submit(&queue, &large), submit(&queue, &batch(1))];
        let groups = take(&queue);
        let found: Vec<_> = groups.iter().map(|g| (g.puts.len(), g.is_abandoned())).collect();
        assert_eq!(found, [(1 + large.len(), false), (1, false)]);
        drop(submit(&queue, &batch(1)));
        assert!(take(&queue)[0].is_abandoned());
    }

    #[tokio::test]
    async fn groups_wait_while_the_head_is_late() {
        let queue = CommitQueue::default();
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.on_taken(1024 * 1024 * 1024, true, now);
        let committed = submit(&queue, &batch(1));
        let work = |is_head_late| {
            let readiness = Readiness { accepts_groups: true, is_head_late, can_seal: false };
            queue.next_work(Some(now), &pace, || readiness).groups
        };
        assert_eq!(work(true).len(), 0);
        let mut groups = work(false);
        groups.pop_front().unwrap().complete(Ok(()));
        committed.await.unwrap();
        // Nothing waits when the store is closed.
        let _committed = submit(&queue, &batch(1));
        queue.close(Closing::WithSeal);
        assert_eq!(work(true).len(), 1);
    }

    #[tokio::test]
    async fn closed_queue_rejects_batches() {
        let queue = CommitQueue::default();
        let waiting = submit(&queue, &batch(1));
        queue.reject_all();
        assert_eq!(waiting.await.unwrap_err().to_string(), "store closed");
        assert!(queue.submit(&batch(1)).await.is_err());
    }
}
