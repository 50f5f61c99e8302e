//! Whose turn it is, where more sessions have something to do than the processor can serve at once.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{runtime::Handle, sync::Notify, task::yield_now};

use super::crowd::Member;

/// The turns of all sessions: start-time fair queueing (P. Goyal, H. Vin and H. Cheng, SIGCOMM 1996).
///
/// A session has a turn each time it is polled. Where there are few sessions, that is when the runtime
/// says so. Where there are many, a session that is woken waits here, and the next turn is for whoever
/// has had least: turns are counted by the bytes that they move, times the connections that come from
/// the same address. So a thousand connections from one address together have what one connection
/// from another has, and a peer that asks for little need not wait behind peers that ask for much.
/// Nobody can save up turns for later.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many may be had at once.
    limit: usize,
    /// How many sessions there are.
    sessions: AtomicUsize,
    queue: Mutex<Queue>,
    /// Somebody waits, and there may be a turn to give.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// How many turns are had, or given to a session that is going to be polled.
    taken: usize,
    /// When the latest turn began, in the time that the counted bytes make.
    now: u64,
    entered: u64,
    /// By when their turns begin; the number has those that begin at one time come in order.
    waiting: BTreeMap<(u64, u64), Waker>,
}

impl Turns {
    /// As many at once as the runtime has threads.
    pub(super) fn new() -> Self {
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self {
            limit: threads,
            sessions: AtomicUsize::new(0),
            queue: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Has `session` take turns with the others. What it does is counted as `work`, and `member` is
    /// who it is.
    pub(super) fn take<F: Future>(
        self: &Arc<Self>,
        session: F,
        work: Work,
        member: Member,
    ) -> InTurn<F> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        // To come anew is no way to be ahead of those who stay.
        let start = self.queue().now.saturating_add(cost(COMING, &member));
        let place = Place { turns: Arc::clone(self), start, at: None };
        InTurn { session: Box::pin(session), work, member, place }
    }

    /// Gives turns to those who wait, without end.
    pub(super) async fn give(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            // Lets the runtime look who else is woken, for one of them may have had less.
            yield_now().await;
            self.give_what_there_is().into_iter().for_each(Waker::wake);
        }
    }

    fn give_what_there_is(&self) -> Vec<Waker> {
        let mut queue = self.queue();
        let mut given = Vec::new();
        while queue.taken < self.limit
            && let Some(((start, _), waker)) = queue.waiting.pop_first()
        {
            queue.taken += 1;
            queue.now = start;
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
        queue.taken -= 1;
        if !queue.waiting.is_empty() {
            drop(queue);
            self.wanted.notify_one();
        }
    }
}

/// What a session does, counted by itself, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Work(Arc<AtomicUsize>);

impl Work {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A session that takes turns with others.
pub(super) struct InTurn<F> {
    session: Pin<Box<F>>,
    work: Work,
    member: Member,
    place: Place,
}

/// Where a session stands.
struct Place {
    turns: Arc<Turns>,
    /// When its next turn begins, if it wants one by then.
    start: u64,
    /// Where it waits, or waited until it was given its turn.
    at: Option<(u64, u64)>,
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { session, work, member, place } = &mut *self;
        let Poll::Ready(turn) = place.poll_turn(cx) else {
            return Poll::Pending;
        };
        let outcome = session.as_mut().poll(cx);
        let bytes = work.0.swap(0, Ordering::Relaxed) + TURN;
        // What nobody had to wait for is not held against anybody.
        if turn.is_some() {
            place.start = place.start.saturating_add(cost(bytes, member));
        }
        outcome
    }
}

impl Place {
    /// Ready when it is this one's turn, with the turn if it was waited for.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<Option<Turn>> {
        let is_at_ease = self.turns.sessions.load(Ordering::Relaxed) <= MANY;
        if self.at.is_none() && is_at_ease {
            return Poll::Ready(None);
        }
        let mut queue = self.turns.queue();
        if let Some(at) = self.at {
            if let Some(waker) = queue.waiting.get_mut(&at) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            self.at = None;
            return Poll::Ready(Some(Turn(Arc::clone(&self.turns))));
        }
        self.start = self.start.max(queue.now);
        queue.entered += 1;
        let at = (self.start, queue.entered);
        queue.waiting.insert(at, cx.waker().clone());
        self.at = Some(at);
        if queue.taken < self.turns.limit {
            drop(queue);
            self.turns.wanted.notify_one();
        }
        Poll::Pending
    }
}

/// A session that ends while it waits leaves no place, and one that had been given a turn, no turn.
impl Drop for Place {
    fn drop(&mut self) {
        self.turns.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Some(at) = self.at
            && self.turns.queue().waiting.remove(&at).is_none()
        {
            self.turns.give_back();
        }
    }
}

/// A turn that was waited for, until it is over.
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

fn cost(bytes: usize, member: &Member) -> u64 {
    (bytes as u64).saturating_mul(member.fellows() as u64)
}

/// From how many sessions on they wait for their turns: the waiting itself has a cost.
const MANY: usize = 32;

/// What a turn counts for in itself, in bytes: two calls of the system take about as long as the
/// work on so many.
const TURN: usize = 1024;

/// What a connection counts for before its first turn, in bytes: as much as a turn of a peer that
/// sends without a pause, with the answers.
const COMING: usize = 16 * 1024;

#[cfg(test)]
mod tests;
