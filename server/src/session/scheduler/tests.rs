//! Fair scheduling of sessions: shares by bytes and by address, in paused time.

use std::{net::IpAddr, task::Wake, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::session::conn_limit::PerSourceLimit;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

/// Only who waits for ever waits so long.
const LONG: Duration = Duration::from_secs(60);

/// What a peer that sends without a pause has done in a turn, in bytes.
const MUCH: usize = 16 * 1024;

impl FairScheduler {
    /// None of which is had without waiting for it.
    fn without_burst() -> Self {
        let scheduler = Self::new();
        scheduler.queue().left = 0;
        Self { burst: 0, ..scheduler }
    }

    /// Has so many wait who will never come.
    pub(in crate::session) fn conn_limit(&self, count: usize) {
        let mut queue = self.queue();
        let waiting = || Waiting { start: u64::MAX, waker: Waker::noop().clone() };
        queue.waiting.extend((0..count).map(|number| ((u64::MAX, number as u64), waiting())));
    }
}

/// One turn at a time, and sessions that are polled in the order in which they were woken.
struct World {
    scheduler: Arc<FairScheduler>,
    conn_limit: Arc<PerSourceLimit>,
    sessions: Vec<Option<Scheduled<Session>>>,
    woken: Arc<Mutex<Vec<usize>>>,
    /// Who had a turn, one after the other.
    had: Arc<Mutex<Vec<usize>>>,
}

/// Does so much in each of its turns, and wants another if it is busy.
struct Session {
    number: usize,
    bytes: usize,
    is_busy: bool,
    work: Usage,
    had: Arc<Mutex<Vec<usize>>>,
}

struct Bell {
    number: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.number);
    }
}

impl Future for Session {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.work.add(self.bytes);
        self.had.lock().unwrap().push(self.number);
        if self.is_busy {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl World {
    fn new() -> Self {
        let world = Self {
            scheduler: Arc::new(FairScheduler::without_burst()),
            conn_limit: PerSourceLimit::new(usize::MAX),
            sessions: Vec::new(),
            woken: Arc::default(),
            had: Arc::default(),
        };
        // There are many, of whom most want nothing.
        world.scheduler.sessions.store(1000, Ordering::Relaxed);
        world
    }

    /// A session that wants a turn now, and all the time if it is busy.
    fn come(&mut self, addr: [u8; 4], bytes: usize, is_busy: bool) -> usize {
        let (number, work) = (self.sessions.len(), Usage::default());
        let had = Arc::clone(&self.had);
        let session = Session { number, bytes, is_busy, work: work.clone(), had };
        let member = self.conn_limit.enter(IpAddr::from(addr)).unwrap();
        self.sessions.push(Some(self.scheduler.take(session, work, member)));
        self.wake(number);
        number
    }

    fn wake(&self, number: usize) {
        self.woken.lock().unwrap().push(number);
    }

    fn go(&mut self, number: usize) {
        self.sessions[number] = None;
    }

    /// Polls whoever is woken, until only a turn that is given could wake anybody.
    fn poll_all(&mut self) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock().unwrap());
            if woken.is_empty() {
                return;
            }
            for number in woken {
                if let Some(session) = &mut self.sessions[number] {
                    let waker = Arc::new(Bell { number, woken: Arc::clone(&self.woken) }).into();
                    let _ = Pin::new(session).poll(&mut Context::from_waker(&waker));
                }
            }
        }
    }

    /// Gives so many turns, and says who had them.
    fn give(&mut self, count: usize) -> Vec<usize> {
        let before = self.had.lock().unwrap().len();
        self.poll_all();
        for _ in 0..count {
            let now = self.scheduler.queue().now;
            self.scheduler.dispatch().into_iter().for_each(Waker::wake);
            self.poll_all();
            assert!(self.scheduler.queue().now >= now, "time goes back");
        }
        self.had.lock().unwrap().split_off(before)
    }

    fn is_at_rest(&self) -> bool {
        let queue = self.scheduler.queue();
        queue.given == 0 && queue.waiting.is_empty()
    }
}

#[test]
fn an_address_has_its_share_however_many_connections_it_makes() {
    let mut world = World::new();
    (0..100).for_each(|_| _ = world.come(A, MUCH, true));
    let alone = world.come(B, MUCH, true);
    world.give(200);
    let scheduler = world.give(1000);
    let own = scheduler.iter().filter(|&&turn| turn == alone).count();
    assert!((450..=550).contains(&own), "{own}");
    // And those of one address have the rest as equals.
    for number in 0..100 {
        let scheduler = scheduler.iter().filter(|&&turn| turn == number).count();
        assert!((4..=6).contains(&scheduler), "{number}: {scheduler}");
    }
}

#[test]
fn who_asks_for_little_does_not_wait_behind_those_who_ask_for_much() {
    let mut world = World::new();
    (0..100).for_each(|_| _ = world.come(A, MUCH, true));
    let elsewhere = world.come(B, 30, false);
    let here = world.come(A, 30, false);
    world.give(500);
    for _ in 0..100 {
        world.wake(elsewhere);
        assert_eq!(world.give(1), [elsewhere]);
        world.give(3);
    }
    // Among its own it gets more turns than they do, as its turns are cheaper.
    world.give(100);
    let mut own = 0;
    for _ in 0..1000 {
        world.wake(here);
        own += world.give(1).iter().filter(|&&turn| turn == here).count();
    }
    assert!(own > 100, "{own}");
}

/// Peers that send less than they may all have their turns begin now.
#[test]
fn who_asks_for_little_does_not_wait_behind_a_crowd_that_comes_at_once() {
    let mut world = World::new();
    let conn_limit: Vec<_> = (0..1000).map(|_| world.come(A, MUCH, false)).collect();
    let elsewhere = world.come(B, 30, false);
    let greedy = world.come(C, 10_000 * MUCH, false);
    world.give(2000);
    for _ in 0..2 {
        // When its turn begins, the others may long have had another.
        world.wake(greedy);
        assert_eq!(world.give(1), [greedy]);
        conn_limit.iter().for_each(|&number| world.wake(number));
        for _ in 0..100 {
            world.wake(elsewhere);
            assert_eq!(world.give(1), [elsewhere]);
            assert_ne!(world.give(5), [elsewhere]);
        }
        // And the crowd is not kept waiting for ever.
        assert_eq!(world.give(1000).len(), 500);
        assert!(world.is_at_rest());
    }
}

#[test]
fn nobody_saves_up_turns() {
    let mut world = World::new();
    let quiet = world.come(B, MUCH, false);
    let busy = world.come(A, MUCH, true);
    world.give(1000);
    let mut own = 0;
    for _ in 0..100 {
        world.wake(quiet);
        own += world.give(1).iter().filter(|&&turn| turn == quiet).count();
    }
    assert!((48..=52).contains(&own), "{own}");
    assert_ne!(quiet, busy);
}

#[test]
fn to_come_anew_is_no_way_to_be_first() {
    let mut world = World::new();
    let stays = world.come(B, MUCH, true);
    let mut newcomer = world.come(A, MUCH, true);
    let mut own = 0;
    for _ in 0..1000 {
        if world.give(1) == [newcomer] {
            own += 1;
            world.go(newcomer);
            newcomer = world.come(A, MUCH, true);
        }
    }
    assert!((300..=530).contains(&own), "{own}");
    assert_ne!(stays, newcomer);
}

#[test]
fn who_goes_keeps_no_turn_and_no_place() {
    let mut world = World::new();
    let [first, second, third] = [(); 3].map(|()| world.come(A, MUCH, false));
    world.poll_all();
    assert_eq!(world.scheduler.waiting(), 3);
    let given = world.scheduler.dispatch();
    assert_eq!((given.len(), world.scheduler.waiting()), (1, 2));
    // One goes with the turn that it was given, another from its place.
    world.go(first);
    world.go(second);
    assert_eq!(world.scheduler.waiting(), 1);
    assert_eq!(world.give(1), [third]);
    assert!(world.is_at_rest());
    world.go(third);
    assert_eq!(world.scheduler.sessions.load(Ordering::Relaxed), 1000);
    assert!(
        world
            .conn_limit
            .enter(A.into())
            .is_some_and(|member| member.connections_from_source() == 1)
    );
}

#[test]
fn a_session_that_is_to_end_waits_for_no_turn() {
    let mut world = World::new();
    (0..100).for_each(|_| _ = world.come(A, MUCH, true));
    let over = world.come(A, MUCH, false);
    world.give(1);
    world.sessions[over].as_ref().unwrap().work.mark_evicted(true);
    world.wake(over);
    assert_eq!(world.give(0), [over]);
    assert_eq!(world.scheduler.waiting(), 100);
    world.go(over);
    assert_eq!(world.give(5).len(), 5);
}

/// Its own next turn would have begun long after theirs, who wait.
#[test]
fn a_session_that_is_to_end_puts_nobody_behind_the_others() {
    let mut world = World::new();
    let over = world.come(A, 1000 * MUCH, false);
    (0..100).for_each(|_| _ = world.come(A, MUCH, true));
    let elsewhere = world.come(B, 30, false);
    world.give(500);
    world.sessions[over].as_ref().unwrap().work.mark_evicted(true);
    world.wake(over);
    assert_eq!(world.give(0), [over]);
    world.wake(elsewhere);
    assert_eq!(world.give(1), [elsewhere]);
}

#[test]
fn few_sessions_wait_for_nothing() {
    let mut world = World::new();
    world.scheduler.sessions.store(0, Ordering::Relaxed);
    let alone = world.come(A, MUCH, false);
    world.poll_all();
    assert_eq!(*world.had.lock().unwrap(), [alone]);
    assert!(world.is_at_rest());
    // Nor is what they had held against them once there are many.
    for _ in 0..1000 {
        world.wake(alone);
        world.poll_all();
    }
    world.scheduler.sessions.store(1000, Ordering::Relaxed);
    let busy = world.come(B, MUCH, true);
    world.give(3);
    world.wake(alone);
    assert_eq!(world.give(1), [alone]);
    assert_ne!(alone, busy);
}

#[test]
fn many_who_ask_for_little_wait_for_nothing_and_whoever_asks_for_much_ends_that() {
    let mut world = World::new();
    world.scheduler = Arc::new(FairScheduler::new());
    world.scheduler.sessions.store(1000, Ordering::Relaxed);
    let first = world.come(A, 30, false);
    let begin = world.scheduler.queue().left;
    let others: Vec<_> = (0..50).map(|_| world.come(A, 30, false)).collect();
    world.poll_all();
    let had: Vec<_> = [first].into_iter().chain(others).collect();
    assert_eq!(*world.had.lock().unwrap(), had);
    assert!(world.is_at_rest());
    assert_eq!(world.scheduler.queue().left, begin - 51 * (SLICE_OVERHEAD_BYTES + 30));
    // Until the burst is over.
    let fit = world.scheduler.queue().left.div_ceil(SLICE_OVERHEAD_BYTES + MUCH);
    let much: Vec<_> = (0..fit + 5).map(|_| world.come(A, MUCH, false)).collect();
    world.poll_all();
    let waiting = world.scheduler.waiting();
    assert_eq!(waiting, 5, "{:?}", world.scheduler);
    world.wake(first);
    world.poll_all();
    assert_eq!(world.scheduler.waiting(), waiting + 1);
    // Who asks for little is not the last one then.
    let had = world.give(1);
    assert_eq!(had, [first]);
    assert_eq!(world.give(5), much[fit..]);
    assert!(world.is_at_rest());
    assert_eq!(world.scheduler.queue().left, begin);
}

#[tokio::test(start_paused = true)]
async fn turns_are_given_to_all_who_want_them() {
    let scheduler = Arc::new(FairScheduler::without_burst());
    scheduler.sessions.store(1000, Ordering::Relaxed);
    let giver = tokio::spawn(Arc::clone(&scheduler).give());
    let conn_limit = PerSourceLimit::new(usize::MAX);
    let sessions = (0..100).map(|_| {
        let session = async {
            for _ in 0..10 {
                yield_now().await;
            }
        };
        tokio::spawn(scheduler.take(session, Usage::default(), conn_limit.enter(A.into()).unwrap()))
    });
    for session in sessions.collect::<Vec<_>>() {
        timeout(LONG, session).await.unwrap().unwrap();
    }
    giver.abort();
    let queue = scheduler.queue();
    assert_eq!((queue.given, queue.waiting.len()), (0, 0));
}

/// A session that panics has a turn while it does.
#[tokio::test(start_paused = true)]
async fn a_panic_takes_no_turn_away() {
    let scheduler = Arc::new(FairScheduler::without_burst());
    scheduler.sessions.store(1000, Ordering::Relaxed);
    let giver = tokio::spawn(Arc::clone(&scheduler).give());
    let conn_limit = PerSourceLimit::new(usize::MAX);
    let run = |session: Pin<Box<dyn Future<Output = ()> + Send>>| {
        tokio::spawn(scheduler.take(session, Usage::default(), conn_limit.enter(A.into()).unwrap()))
    };
    let failed = run(Box::pin(async { panic!("as a store may") }));
    assert!(timeout(LONG, failed).await.unwrap().is_err());
    timeout(LONG, run(Box::pin(async {}))).await.unwrap().unwrap();
    giver.abort();
}
