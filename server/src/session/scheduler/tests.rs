//! Fair scheduling of sessions: shares by bytes and by address, in paused time.

use std::{net::IpAddr, task::Wake, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::net::PerSourceLimit;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

/// Passes only if a test hangs.
const LONG: Duration = Duration::from_secs(60);

/// How many bytes a slice of a peer moves that sends without a pause.
const LARGE: usize = 16 * 1024;

impl FairScheduler {
    /// A scheduler that queues every slice.
    fn without_budget() -> Self {
        let scheduler = Self::new();
        scheduler.queue().budget_left = 0;
        Self { budget: 0, ..scheduler }
    }

    /// Queues `count` sessions that never run.
    pub(in crate::session) fn fill_queue(&self, count: usize) {
        let mut queue = self.queue();
        let queued = || Queued { virtual_start: u64::MAX, waker: Waker::noop().clone() };
        queue.waiting.extend((0..count).map(|number| ((u64::MAX, number as u64), queued())));
    }
}

/// Runs one slice at a time, and polls sessions in the order in which they were woken.
struct Harness {
    scheduler: Arc<FairScheduler>,
    conn_limit: Arc<PerSourceLimit>,
    sessions: Vec<Option<Scheduled<TestSession>>>,
    woken: Arc<Mutex<Vec<usize>>>,
    /// The sessions that ran, in order.
    ran: Arc<Mutex<Vec<usize>>>,
}

/// Moves `bytes` in each slice, and wants another one at once if it is busy.
struct TestSession {
    number: usize,
    bytes: usize,
    is_busy: bool,
    usage: Usage,
    ran: Arc<Mutex<Vec<usize>>>,
}

struct SessionWaker {
    number: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.number);
    }
}

impl Future for TestSession {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.usage.charge(self.bytes);
        self.ran.lock().unwrap().push(self.number);
        if self.is_busy {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Harness {
    fn new() -> Self {
        let sim = Self {
            scheduler: Arc::new(FairScheduler::without_budget()),
            conn_limit: PerSourceLimit::new(usize::MAX),
            sessions: Vec::new(),
            woken: Arc::default(),
            ran: Arc::default(),
        };
        // Many sessions, most of them idle.
        sim.scheduler.sessions.store(1000, Ordering::Relaxed);
        sim
    }

    /// Adds a session that wants a slice now, and all the time if it is busy.
    fn add(&mut self, addr: [u8; 4], bytes: usize, is_busy: bool) -> usize {
        let (number, usage) = (self.sessions.len(), Usage::default());
        let ran = Arc::clone(&self.ran);
        let session = TestSession { number, bytes, is_busy, usage: usage.clone(), ran };
        let permit = self.conn_limit.try_acquire(IpAddr::from(addr)).unwrap();
        self.sessions.push(Some(self.scheduler.schedule(session, usage, permit)));
        self.wake(number);
        number
    }

    fn wake(&self, number: usize) {
        self.woken.lock().unwrap().push(number);
    }

    fn remove(&mut self, number: usize) {
        self.sessions[number] = None;
    }

    /// Polls woken sessions until none is left.
    fn poll_all(&mut self) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock().unwrap());
            if woken.is_empty() {
                return;
            }
            for number in woken {
                if let Some(session) = &mut self.sessions[number] {
                    let waker =
                        Arc::new(SessionWaker { number, woken: Arc::clone(&self.woken) }).into();
                    let _ = Pin::new(session).poll(&mut Context::from_waker(&waker));
                }
            }
        }
    }

    /// Dispatches `count` slices. Returns the sessions that ran.
    fn dispatch(&mut self, count: usize) -> Vec<usize> {
        let before = self.ran.lock().unwrap().len();
        self.poll_all();
        for _ in 0..count {
            let now = self.scheduler.queue().virtual_time;
            self.scheduler.dispatch().into_iter().for_each(Waker::wake);
            self.poll_all();
            assert!(self.scheduler.queue().virtual_time >= now, "virtual time went back");
        }
        self.ran.lock().unwrap().split_off(before)
    }

    fn is_at_rest(&self) -> bool {
        let queue = self.scheduler.queue();
        queue.running == 0 && queue.waiting.is_empty()
    }
}

#[test]
fn address_share_is_independent_of_its_connections() {
    let mut sim = Harness::new();
    (0..100).for_each(|_| _ = sim.add(A, LARGE, true));
    let alone = sim.add(B, LARGE, true);
    sim.dispatch(200);
    let slices = sim.dispatch(1000);
    let share = slices.iter().filter(|&&session| session == alone).count();
    assert!((450..=550).contains(&share), "{share} of 1000 slices, expected half");
    // The connections of the other address share the rest equally.
    for number in 0..100 {
        let share = slices.iter().filter(|&&session| session == number).count();
        assert!((4..=6).contains(&share), "session {number}: {share} slices, expected 5");
    }
}

#[test]
fn small_slices_run_before_large_ones() {
    let mut sim = Harness::new();
    (0..100).for_each(|_| _ = sim.add(A, LARGE, true));
    let elsewhere = sim.add(B, 30, false);
    let here = sim.add(A, 30, false);
    sim.dispatch(500);
    for _ in 0..100 {
        sim.wake(elsewhere);
        assert_eq!(sim.dispatch(1), [elsewhere]);
        sim.dispatch(3);
    }
    // Within its address it gets more slices than the others, since its slices are cheaper.
    sim.dispatch(100);
    let mut own = 0;
    for _ in 0..1000 {
        sim.wake(here);
        own += sim.dispatch(1).iter().filter(|&&turn| turn == here).count();
    }
    assert!(own > 100, "{own}");
}

/// Peers that use less than their share all start at the current virtual time.
#[test]
fn small_slices_run_before_a_burst_of_large_ones() {
    let mut sim = Harness::new();
    let many: Vec<_> = (0..1000).map(|_| sim.add(A, LARGE, false)).collect();
    let elsewhere = sim.add(B, 30, false);
    let greedy = sim.add(C, 10_000 * LARGE, false);
    sim.dispatch(2000);
    for _ in 0..2 {
        // Its virtual start time is far ahead of theirs.
        sim.wake(greedy);
        assert_eq!(sim.dispatch(1), [greedy]);
        many.iter().for_each(|&number| sim.wake(number));
        for _ in 0..100 {
            sim.wake(elsewhere);
            assert_eq!(sim.dispatch(1), [elsewhere]);
            assert_ne!(sim.dispatch(5), [elsewhere]);
        }
        // The many peers are not starved.
        assert_eq!(sim.dispatch(1000).len(), 500);
        assert!(sim.is_at_rest());
    }
}

#[test]
fn unused_slices_are_not_saved_up() {
    let mut sim = Harness::new();
    let quiet = sim.add(B, LARGE, false);
    let busy = sim.add(A, LARGE, true);
    sim.dispatch(1000);
    let mut own = 0;
    for _ in 0..100 {
        sim.wake(quiet);
        own += sim.dispatch(1).iter().filter(|&&turn| turn == quiet).count();
    }
    assert!((48..=52).contains(&own), "{own}");
    assert_ne!(quiet, busy);
}

#[test]
fn reconnecting_is_no_advantage() {
    let mut sim = Harness::new();
    let stays = sim.add(B, LARGE, true);
    let mut newcomer = sim.add(A, LARGE, true);
    let mut own = 0;
    for _ in 0..1000 {
        if sim.dispatch(1) == [newcomer] {
            own += 1;
            sim.remove(newcomer);
            newcomer = sim.add(A, LARGE, true);
        }
    }
    assert!((300..=530).contains(&own), "{own}");
    assert_ne!(stays, newcomer);
}

#[test]
fn dropped_sessions_release_slice_and_queue_entry() {
    let mut sim = Harness::new();
    let [first, second, third] = [(); 3].map(|()| sim.add(A, LARGE, false));
    sim.poll_all();
    assert_eq!(sim.scheduler.waiting(), 3);
    let dispatched = sim.scheduler.dispatch();
    assert_eq!((dispatched.len(), sim.scheduler.waiting()), (1, 2));
    // One ends while it runs, the other while it is queued.
    sim.remove(first);
    sim.remove(second);
    assert_eq!(sim.scheduler.waiting(), 1);
    assert_eq!(sim.dispatch(1), [third]);
    assert!(sim.is_at_rest());
    sim.remove(third);
    assert_eq!(sim.scheduler.sessions.load(Ordering::Relaxed), 1000);
    assert!(
        sim.conn_limit
            .try_acquire(A.into())
            .is_some_and(|permit| permit.connections_from_source() == 1)
    );
}

#[test]
fn evicted_session_is_not_queued() {
    let mut sim = Harness::new();
    (0..100).for_each(|_| _ = sim.add(A, LARGE, true));
    let over = sim.add(A, LARGE, false);
    sim.dispatch(1);
    sim.sessions[over].as_ref().unwrap().usage.mark_evicted(true);
    sim.wake(over);
    assert_eq!(sim.dispatch(0), [over]);
    assert_eq!(sim.scheduler.waiting(), 100);
    sim.remove(over);
    assert_eq!(sim.dispatch(5).len(), 5);
}

/// The virtual start time of its next slice is far ahead of those that wait.
#[test]
fn evicted_session_does_not_advance_virtual_time() {
    let mut sim = Harness::new();
    let over = sim.add(A, 1000 * LARGE, false);
    (0..100).for_each(|_| _ = sim.add(A, LARGE, true));
    let elsewhere = sim.add(B, 30, false);
    sim.dispatch(500);
    sim.sessions[over].as_ref().unwrap().usage.mark_evicted(true);
    sim.wake(over);
    assert_eq!(sim.dispatch(0), [over]);
    sim.wake(elsewhere);
    assert_eq!(sim.dispatch(1), [elsewhere]);
}

#[test]
fn few_sessions_are_never_queued() {
    let mut sim = Harness::new();
    sim.scheduler.sessions.store(0, Ordering::Relaxed);
    let alone = sim.add(A, LARGE, false);
    sim.poll_all();
    assert_eq!(*sim.ran.lock().unwrap(), [alone]);
    assert!(sim.is_at_rest());
    // What it used then is not held against it once there are many.
    for _ in 0..1000 {
        sim.wake(alone);
        sim.poll_all();
    }
    sim.scheduler.sessions.store(1000, Ordering::Relaxed);
    let busy = sim.add(B, LARGE, true);
    sim.dispatch(3);
    sim.wake(alone);
    assert_eq!(sim.dispatch(1), [alone]);
    assert_ne!(alone, busy);
}

#[test]
fn sessions_are_queued_once_the_budget_is_used_up() {
    let mut sim = Harness::new();
    sim.scheduler = Arc::new(FairScheduler::new());
    sim.scheduler.sessions.store(1000, Ordering::Relaxed);
    let first = sim.add(A, 30, false);
    let begin = sim.scheduler.queue().budget_left;
    let others: Vec<_> = (0..50).map(|_| sim.add(A, 30, false)).collect();
    sim.poll_all();
    let expected: Vec<_> = [first].into_iter().chain(others).collect();
    assert_eq!(*sim.ran.lock().unwrap(), expected);
    assert!(sim.is_at_rest());
    assert_eq!(sim.scheduler.queue().budget_left, begin - 51 * (SLICE_OVERHEAD_BYTES + 30));
    // Until the budget is used up.
    let fit = sim.scheduler.queue().budget_left.div_ceil(SLICE_OVERHEAD_BYTES + LARGE);
    let large: Vec<_> = (0..fit + 5).map(|_| sim.add(A, LARGE, false)).collect();
    sim.poll_all();
    let waiting = sim.scheduler.waiting();
    assert_eq!(waiting, 5, "{:?}", sim.scheduler);
    sim.wake(first);
    sim.poll_all();
    assert_eq!(sim.scheduler.waiting(), waiting + 1);
    // A session with small slices is not the last one then.
    assert_eq!(sim.dispatch(1), [first]);
    assert_eq!(sim.dispatch(5), large[fit..]);
    assert!(sim.is_at_rest());
    assert_eq!(sim.scheduler.queue().budget_left, begin);
}

#[tokio::test(start_paused = true)]
async fn scheduler_runs_every_session_to_its_end() {
    let scheduler = Arc::new(FairScheduler::without_budget());
    scheduler.sessions.store(1000, Ordering::Relaxed);
    let runner = tokio::spawn(Arc::clone(&scheduler).run());
    let conn_limit = PerSourceLimit::new(usize::MAX);
    let sessions = (0..100).map(|_| {
        let session = async {
            for _ in 0..10 {
                yield_now().await;
            }
        };
        tokio::spawn(scheduler.schedule(
            session,
            Usage::default(),
            conn_limit.try_acquire(A.into()).unwrap(),
        ))
    });
    for session in sessions.collect::<Vec<_>>() {
        timeout(LONG, session).await.unwrap().unwrap();
    }
    runner.abort();
    let queue = scheduler.queue();
    assert_eq!((queue.running, queue.waiting.len()), (0, 0));
}

/// A session that panics is running while it does.
#[tokio::test(start_paused = true)]
async fn panic_releases_its_slice() {
    let scheduler = Arc::new(FairScheduler::without_budget());
    scheduler.sessions.store(1000, Ordering::Relaxed);
    let runner = tokio::spawn(Arc::clone(&scheduler).run());
    let conn_limit = PerSourceLimit::new(usize::MAX);
    let run = |session: Pin<Box<dyn Future<Output = ()> + Send>>| {
        tokio::spawn(scheduler.schedule(
            session,
            Usage::default(),
            conn_limit.try_acquire(A.into()).unwrap(),
        ))
    };
    let failed = run(Box::pin(async { panic!("as a store may") }));
    assert!(timeout(LONG, failed).await.unwrap().is_err());
    timeout(LONG, run(Box::pin(async {}))).await.unwrap().unwrap();
    runner.abort();
}
