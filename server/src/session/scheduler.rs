//! Schedules sessions when more of them have work than the processor can do at once.

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

use metrics_client::internal::wake::wake_each;
use tokio::{runtime::Handle, sync::Notify, task::yield_now};

use crate::net::ConnectionPermit;

/// Start-time fair queueing of all sessions (P. Goyal, H. Vin and H. Cheng, SIGCOMM 1996).
///
/// Every poll of a session is one time slice. While less than [`UNSCHEDULED_BUDGET`] bytes have been
/// moved since the scheduler last ran, sessions are polled directly by Tokio. Beyond that, a woken session
/// is queued here and dispatched by its virtual finish time.
///
/// A slice costs the bytes that it moves, times the number of connections from the same source. It
/// starts, in virtual time, when the last slice of the session ended, or now; its finish time assumes that
/// it costs as much as the last one. So a thousand connections from one address together get as much as
/// one connection from another address, and a peer with few requests does not wait for peers with many,
/// even if thousands of them arrive at once. A session cannot save up unused slices.
#[derive(Debug)]
pub(super) struct FairScheduler {
    /// How many scheduled slices may run at once.
    limit: usize,
    /// How many bytes may be moved before the scheduler runs.
    budget: usize,
    /// The number of sessions.
    sessions: AtomicUsize,
    queue: Mutex<SliceQueue>,
    /// Notified when a queued session may be dispatched, or when half of the budget is used.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct SliceQueue {
    /// How many scheduled slices are running.
    running: usize,
    budget_left: usize,
    /// The start tag of the latest slice, in cost.
    virtual_time: u64,
    entered: u64,
    /// By virtual finish time; the number breaks ties in order of arrival.
    waiting: BTreeMap<(u64, u64), Queued>,
}

#[derive(Debug)]
struct Queued {
    virtual_start: u64,
    waker: Waker,
}

impl FairScheduler {
    /// Creates a scheduler that runs as many slices at once as the runtime has worker threads.
    pub(super) fn new() -> Self {
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self {
            limit: threads,
            budget: UNSCHEDULED_BUDGET,
            sessions: AtomicUsize::new(0),
            queue: Mutex::new(SliceQueue {
                budget_left: UNSCHEDULED_BUDGET,
                ..SliceQueue::default()
            }),
            wanted: Notify::new(),
        }
    }

    /// Wraps `session`, so that its polls are scheduled. Its work is charged to `usage`; `permit` counts
    /// the connections from its source.
    pub(super) fn schedule<F: Future>(
        self: &Arc<Self>,
        session: F,
        usage: Usage,
        permit: ConnectionPermit,
    ) -> Scheduled<F> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        // A new session starts behind those that exist, so that reconnecting is no advantage.
        let last_cost = cost(INITIAL_COST, &permit);
        let virtual_start = self.queue().virtual_time.saturating_add(last_cost);
        let ticket =
            Ticket { scheduler: Arc::clone(self), virtual_start, last_cost, queue_key: None };
        Scheduled { session: Box::pin(session), usage, permit, ticket }
    }

    /// Dispatches queued sessions, without end.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            // The runtime may wake further sessions first, one of which may have used less.
            yield_now().await;
            wake_each(self.dispatch());
        }
    }

    fn dispatch(&self) -> Vec<Waker> {
        let mut queue = self.queue();
        queue.budget_left = self.budget;
        let mut wakers = Vec::new();
        while queue.running < self.limit
            && let Some((_, Queued { virtual_start, waker })) = queue.waiting.pop_first()
        {
            queue.running += 1;
            queue.virtual_time = queue.virtual_time.max(virtual_start);
            wakers.push(waker);
        }
        wakers
    }

    /// Returns how many sessions are queued.
    pub(super) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, SliceQueue> {
        // No panic can leave the queue inconsistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a scheduled slice.
    fn release(&self) {
        let mut queue = self.queue();
        queue.running -= 1;
        if !queue.waiting.is_empty() {
            drop(queue);
            self.wanted.notify_one();
        }
    }

    /// Charges a slice that was not scheduled.
    fn charge_budget(&self, bytes: usize) {
        let mut queue = self.queue();
        let (before, half) = (queue.budget_left, self.budget / 2);
        queue.budget_left = before.saturating_sub(bytes);
        if before >= half && queue.budget_left < half {
            drop(queue);
            self.wanted.notify_one();
        }
    }
}

/// Counts the work and memory of one session, in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(Arc<UsageInner>);

#[derive(Debug, Default)]
struct UsageInner {
    bytes: AtomicUsize,
    /// The memory of TLS.
    held: AtomicUsize,
    is_evicted: AtomicBool,
}

impl Usage {
    pub(super) fn charge(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets whether the session has to end. An evicted session is not queued, since it holds memory that
    /// others need.
    pub(super) fn mark_evicted(&self, is_evicted: bool) {
        self.0.is_evicted.store(is_evicted, Ordering::Relaxed);
    }

    /// Sets how much memory TLS holds while the peer does not read.
    #[cfg(feature = "tls")]
    pub(super) fn set_held(&self, bytes: usize) {
        self.0.held.store(bytes, Ordering::Relaxed);
    }

    /// Returns how much memory TLS holds while the peer does not read.
    pub(super) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.0.is_evicted.load(Ordering::Relaxed)
    }

    /// Returns the work since the last call.
    pub(super) fn take(&self) -> usize {
        self.0.bytes.swap(0, Ordering::Relaxed)
    }
}

/// A session whose polls are scheduled.
pub(super) struct Scheduled<F> {
    session: Pin<Box<F>>,
    usage: Usage,
    permit: ConnectionPermit,
    ticket: Ticket,
}

/// The scheduling state of one session.
struct Ticket {
    scheduler: Arc<FairScheduler>,
    /// The start tag of the next slice, if the session has work by then.
    virtual_start: u64,
    /// The cost of the last slice, or the assumed cost of the first.
    last_cost: u64,
    /// Its key in the queue. The entry is gone once the session is dispatched.
    queue_key: Option<(u64, u64)>,
}

impl<F: Future> Future for Scheduled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { session, usage, permit, ticket } = &mut *self;
        let Poll::Ready(mut slice) = ticket.poll_slice(usage, cx) else {
            return Poll::Pending;
        };
        let outcome = session.as_mut().poll(cx);
        slice.bytes += usage.take();
        ticket.last_cost = cost(slice.bytes, permit);
        ticket.virtual_start = ticket.virtual_start.saturating_add(ticket.last_cost);
        outcome
    }
}

impl Ticket {
    /// Ready when the session may run.
    fn poll_slice(&mut self, usage: &Usage, cx: &Context<'_>) -> Poll<Slice> {
        let Self { scheduler, virtual_start, last_cost, queue_key } = self;
        let slice = |is_scheduled| {
            Poll::Ready(Slice {
                scheduler: Arc::clone(scheduler),
                is_scheduled,
                bytes: SLICE_OVERHEAD_BYTES,
            })
        };
        let is_evicted = usage.is_evicted();
        let mut queue = scheduler.queue();
        if let Some(key) = queue_key {
            if is_evicted && queue.waiting.remove(key).is_some() {
                *queue_key = None;
                return slice(false);
            }
            if let Some(queued) = queue.waiting.get_mut(key) {
                queued.waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            *queue_key = None;
            return slice(true);
        }
        *virtual_start = queue.virtual_time.max(*virtual_start);
        let few = scheduler.sessions.load(Ordering::Relaxed) <= UNCONTENDED_SESSIONS;
        if few || (queue.waiting.is_empty() && queue.budget_left > 0) {
            queue.virtual_time = *virtual_start;
            return slice(false);
        }
        if is_evicted {
            // Virtual time does not advance: queued sessions keep their order.
            return slice(false);
        }
        queue.entered += 1;
        let key = (virtual_start.saturating_add(*last_cost), queue.entered);
        let queued = Queued { virtual_start: *virtual_start, waker: cx.waker().clone() };
        queue.waiting.insert(key, queued);
        *queue_key = Some(key);
        if queue.running < scheduler.limit {
            drop(queue);
            scheduler.wanted.notify_one();
        }
        Poll::Pending
    }
}

/// Removes a queued session from the queue, and ends the slice of a dispatched one.
impl Drop for Ticket {
    fn drop(&mut self) {
        self.scheduler.sessions.fetch_sub(1, Ordering::Relaxed);
        if let Some(key) = self.queue_key
            && self.scheduler.queue().waiting.remove(&key).is_none()
        {
            self.scheduler.release();
        }
    }
}

/// A time slice; ends when it is dropped.
struct Slice {
    scheduler: Arc<FairScheduler>,
    /// False if the session ran without being queued.
    is_scheduled: bool,
    bytes: usize,
}

impl Drop for Slice {
    fn drop(&mut self) {
        if self.is_scheduled {
            self.scheduler.release();
        } else {
            self.scheduler.charge_budget(self.bytes);
        }
    }
}

fn cost(bytes: usize, permit: &ConnectionPermit) -> u64 {
    (bytes as u64).saturating_mul(permit.connections_from_source() as u64)
}

/// Up to this number of sessions are never queued: each may run one slice of 64 KiB, less than a
/// millisecond, before another.
const UNCONTENDED_SESSIONS: usize = 4;

/// How many bytes may be moved before the scheduler runs: some milliseconds of work. A run costs some
/// microseconds, too much for each of many small requests.
const UNSCHEDULED_BUDGET: usize = 256 * 1024;

/// The fixed cost of a slice, in bytes: two system calls take about as long as moving this many.
const SLICE_OVERHEAD_BYTES: usize = 1024;

/// The assumed cost of a session's first slice, in bytes: as much as a slice of a peer that sends without
/// a pause. A peer that reconnects for each large answer still gets ahead of peers that ask over one
/// connection; to charge the answer in advance would delay every new peer with a small request.
const INITIAL_COST: usize = 16 * 1024;

#[cfg(test)]
mod tests;
