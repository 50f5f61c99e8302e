//! Whose turn it is, where more sessions have something to do than the processor can serve at once.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{runtime::Handle, sync::Notify, task::yield_now};

use super::conn_limit::ConnectionPermit;
use metrics_client::internal::wake::wake_each;

/// The turns of all sessions: fair queueing, with the clock of start-time fair queueing (P. Goyal, H. Vin
/// and H. Cheng, SIGCOMM 1996).
///
/// A session has a turn each time it is polled. That is when the runtime says so, as long as all of
/// them together do no more than a little before the runtime has had time to look who else is woken.
/// From then on whoever is woken waits here. Turns are counted by the bytes that they move, times the
/// connections that come from the same address; one begins when the last of the same session ended, or now,
/// and the next to be given is that which ends first, if it is like the last. So a thousand connections from
/// one address together have what one connection from another has, and a peer that asks for little
/// does not wait behind peers that ask for much, be there thousands whose turns begin now. Nobody can save
/// up turns for later.
#[derive(Debug)]
pub(super) struct FairScheduler {
    /// How many may be given at once.
    limit: usize,
    /// How many bytes may be moved before the others are looked at.
    burst: usize,
    /// How many sessions there are.
    sessions: AtomicUsize,
    queue: Mutex<Queue>,
    /// Somebody waits and there is a turn to give, or the burst is half over.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// How many turns are given to sessions that have not ended them.
    given: usize,
    /// How many bytes are left of the burst.
    left: usize,
    /// When the latest turn began, in the time that the counted bytes make.
    now: u64,
    entered: u64,
    /// By when their turns should end; the number has those that end at one time come in order.
    waiting: BTreeMap<(u64, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    start: u64,
    waker: Waker,
}

impl FairScheduler {
    /// As many at once as the runtime has threads.
    pub(super) fn new() -> Self {
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self {
            limit: threads,
            burst: UNSCHEDULED_BUDGET,
            sessions: AtomicUsize::new(0),
            queue: Mutex::new(Queue { left: UNSCHEDULED_BUDGET, ..Queue::default() }),
            wanted: Notify::new(),
        }
    }

    /// Has `session` take turns with the others. What it does is counted as `work`, and `member` is
    /// who it is.
    pub(super) fn take<F: Future>(
        self: &Arc<Self>,
        session: F,
        work: Usage,
        member: ConnectionPermit,
    ) -> Scheduled<F> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        // To come anew is no way to be ahead of those who stay.
        let last = cost(INITIAL_COST, &member);
        let start = self.queue().now.saturating_add(last);
        let place = Place { scheduler: Arc::clone(self), start, last, at: None };
        Scheduled { session: Box::pin(session), work, member, place }
    }

    /// Gives turns to those who wait, without end.
    pub(super) async fn give(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            // Lets the runtime look who else is woken, for one of them may have had less.
            yield_now().await;
            wake_each(self.dispatch());
        }
    }

    fn dispatch(&self) -> Vec<Waker> {
        let mut queue = self.queue();
        queue.left = self.burst;
        let mut given = Vec::new();
        while queue.given < self.limit
            && let Some((_, Waiting { start, waker })) = queue.waiting.pop_first()
        {
            queue.given += 1;
            queue.now = queue.now.max(start);
            given.push(waker);
        }
        given
    }

    /// How many sessions wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics between two changes that belong together.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) {
        let mut queue = self.queue();
        queue.given -= 1;
        if !queue.waiting.is_empty() {
            drop(queue);
            self.wanted.notify_one();
        }
    }

    fn charge_budget(&self, bytes: usize) {
        let mut queue = self.queue();
        let (before, half) = (queue.left, self.burst / 2);
        queue.left = before.saturating_sub(bytes);
        if before >= half && queue.left < half {
            drop(queue);
            self.wanted.notify_one();
        }
    }
}

/// What a session does, counted by itself, in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(Arc<Done>);

#[derive(Debug, Default)]
struct Done {
    bytes: AtomicUsize,
    /// What TLS holds of a connection, in bytes.
    held: AtomicUsize,
    is_evicted: AtomicBool,
}

impl Usage {
    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the session is to end: it then waits for no turn, for it holds memory that others need.
    pub(super) fn mark_evicted(&self, is_evicted: bool) {
        self.0.is_evicted.store(is_evicted, Ordering::Relaxed);
    }

    /// TLS holds so much of the connection whose answers are not taken.
    #[cfg(feature = "tls")]
    pub(super) fn set_held(&self, bytes: usize) {
        self.0.held.store(bytes, Ordering::Relaxed);
    }

    /// What is held of the connection beneath the session, if its answers are not taken.
    pub(super) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.0.is_evicted.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> usize {
        self.0.bytes.swap(0, Ordering::Relaxed)
    }
}

/// A session that takes turns with others.
pub(super) struct Scheduled<F> {
    session: Pin<Box<F>>,
    work: Usage,
    member: ConnectionPermit,
    place: Place,
}

/// Where a session stands.
struct Place {
    scheduler: Arc<FairScheduler>,
    /// When its next turn begins, if it wants one by then.
    start: u64,
    /// What its last one cost, or one of a newcomer is taken to cost.
    last: u64,
    /// Where it waits, or waited until it was given its turn.
    at: Option<(u64, u64)>,
}

impl<F: Future> Future for Scheduled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { session, work, member, place } = &mut *self;
        let Poll::Ready(mut turn) = place.poll_turn(work, cx) else {
            return Poll::Pending;
        };
        let outcome = session.as_mut().poll(cx);
        turn.bytes += work.take();
        place.last = cost(turn.bytes, member);
        place.start = place.start.saturating_add(place.last);
        outcome
    }
}

impl Place {
    /// Ready when it is this one's turn.
    fn poll_turn(&mut self, work: &Usage, cx: &Context<'_>) -> Poll<Slice> {
        let Self { scheduler, start, last, at } = self;
        let turn = |is_given| {
            Poll::Ready(Slice {
                scheduler: Arc::clone(scheduler),
                is_given,
                bytes: SLICE_OVERHEAD_BYTES,
            })
        };
        let is_evicted = work.is_evicted();
        let mut queue = scheduler.queue();
        if let Some(place) = at {
            if is_evicted && queue.waiting.remove(place).is_some() {
                *at = None;
                return turn(false);
            }
            if let Some(waiting) = queue.waiting.get_mut(place) {
                waiting.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            *at = None;
            return turn(true);
        }
        *start = queue.now.max(*start);
        let few = scheduler.sessions.load(Ordering::Relaxed) <= UNCONTENDED_SESSIONS;
        if few || (queue.waiting.is_empty() && queue.left > 0) {
            queue.now = *start;
            return turn(false);
        }
        if is_evicted {
            // Not its turn: time stays before the turns of those who wait.
            return turn(false);
        }
        queue.entered += 1;
        let place = (start.saturating_add(*last), queue.entered);
        queue.waiting.insert(place, Waiting { start: *start, waker: cx.waker().clone() });
        *at = Some(place);
        if queue.given < scheduler.limit {
            drop(queue);
            scheduler.wanted.notify_one();
        }
        Poll::Pending
    }
}

/// A session that ends while it waits leaves no place, and one that had been given a turn, no turn.
impl Drop for Place {
    fn drop(&mut self) {
        self.scheduler.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Some(at) = self.at
            && self.scheduler.queue().waiting.remove(&at).is_none()
        {
            self.scheduler.give_back();
        }
    }
}

/// A turn, until it is over.
struct Slice {
    scheduler: Arc<FairScheduler>,
    /// Whether it was waited for.
    is_given: bool,
    /// What it counts for.
    bytes: usize,
}

impl Drop for Slice {
    fn drop(&mut self) {
        if self.is_given {
            self.scheduler.give_back();
        } else {
            self.scheduler.charge_budget(self.bytes);
        }
    }
}

fn cost(bytes: usize, member: &ConnectionPermit) -> u64 {
    (bytes as u64).saturating_mul(member.connections_from_source() as u64)
}

/// So many sessions never wait for each other: each may have a turn of 64 KiB, less than a
/// millisecond, before another one has.
const UNCONTENDED_SESSIONS: usize = 4;

/// How much may be done before the others are looked at, in bytes: some milliseconds' work. Looking
/// costs some microseconds, which peers that ask for little should not pay for each of their requests.
const UNSCHEDULED_BUDGET: usize = 256 * 1024;

/// What a turn counts for in itself, in bytes: two calls of the system take about as long as the
/// work on so many.
const SLICE_OVERHEAD_BYTES: usize = 1024;

/// What a connection counts for before its first turn, in bytes: as much as a turn of a peer that
/// sends without a pause, with the answers. Whoever comes anew for each large answer is ahead of
/// those who ask for large ones over one connection; to count that beforehand would keep everybody waiting
/// who comes to ask for little.
const INITIAL_COST: usize = 16 * 1024;

#[cfg(test)]
mod tests;
