//! Answers that peers leave unread, over all connections: bounded.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;

use super::scheduler::Usage;
use metrics_client::internal::wake::wake_each;

/// What sessions hold while their peers do not take their answers.
///
/// A session that cannot write says here what it holds, and takes it back when it can. When all of
/// them hold more than they may, those that have waited longest are given up, until they do not: an
/// attacker's, who reads nothing, before those of peers that are only slow.
#[derive(Debug)]
pub(super) struct UnsentBudget {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The sum over all sessions.
    bytes: usize,
    entered: u64,
    /// By how long they have waited; the number tells those apart that began in one moment.
    sessions: BTreeMap<(Instant, u64), Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    waker: Waker,
    work: Usage,
}

impl UnsentBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics between two changes that belong together.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn remove(&mut self, place: (Instant, u64)) -> Option<Held> {
        let holding = self.sessions.remove(&place)?;
        self.bytes -= holding.bytes;
        Some(holding)
    }
}

/// One session in a [`UnsentBudget`].
#[derive(Debug)]
pub(super) struct Place {
    unsent_budget: Arc<UnsentBudget>,
    work: Usage,
    /// Where it stands, if it waits.
    place: Option<(Instant, u64)>,
}

impl Place {
    pub(super) fn new(unsent_budget: Arc<UnsentBudget>, work: Usage) -> Self {
        Self { unsent_budget, work, place: None }
    }

    /// Waits on, since `since` and with so many bytes, besides those that TLS holds. Ready when this
    /// session is given up.
    pub(super) fn poll_evicted(
        &mut self,
        cx: &Context<'_>,
        since: Instant,
        bytes: usize,
    ) -> Poll<()> {
        let bytes = bytes + self.work.held();
        let mut waiting = self.unsent_budget.waiting();
        if let Some(place) = self.place.take()
            && waiting.remove(place).is_none()
        {
            return Poll::Ready(());
        }
        waiting.entered += 1;
        let place = (since, waiting.entered);
        waiting.bytes += bytes;
        let (waker, work) = (cx.waker().clone(), self.work.clone());
        waiting.sessions.insert(place, Held { bytes, waker, work });
        let mut given_up = Vec::new();
        while waiting.bytes > self.unsent_budget.limit
            && let Some((&longest, _)) = waiting.sessions.first_key_value()
        {
            if let Some(Held { waker, work, .. }) = waiting.remove(longest) {
                // Under the lock, so that a session that leaves now takes it back afterwards.
                work.mark_evicted(true);
                given_up.push(waker);
            }
            if longest == place {
                break;
            }
        }
        self.place = Some(place);
        drop(waiting);
        // Woken without the lock, for the first thing that a session then does is to take it. This
        // one may be among them, and then finds out when it is polled again.
        wake_each(given_up);
        Poll::Pending
    }

    /// Waits no more.
    pub(super) fn leave(&mut self) {
        if let Some(place) = self.place.take()
            && self.unsent_budget.waiting().remove(place).is_none()
        {
            // Its peer has taken everything just after it was given up.
            self.work.mark_evicted(false);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
        time::Duration,
    };

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Waiter {
        place: Place,
        bell: Arc<Bell>,
    }

    impl Waiter {
        fn new(unsent_budget: &Arc<UnsentBudget>) -> Self {
            Self {
                place: Place::new(Arc::clone(unsent_budget), Usage::default()),
                bell: Arc::default(),
            }
        }

        fn is_given_up(&mut self, since: Instant, bytes: usize) -> bool {
            let waker = Arc::clone(&self.bell).into();
            self.place.poll_evicted(&Context::from_waker(&waker), since, bytes).is_ready()
        }

        fn rings(&self) -> usize {
            self.bell.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let [mut old, mut older, mut new] = [(); 3].map(|()| Waiter::new(&unsent_budget));
        assert!(!old.is_given_up(at(2), 40));
        assert!(!older.is_given_up(at(1), 40));
        assert!(!new.is_given_up(at(3), 20));
        assert_eq!((older.rings(), old.rings(), new.rings()), (0, 0, 0));
        // It grows, and another pays for it, who hears of it.
        assert!(!new.is_given_up(at(3), 21));
        assert_eq!((older.rings(), old.rings(), new.rings()), (1, 0, 0));
        assert!(older.is_given_up(at(1), 40));
        assert!(!old.is_given_up(at(2), 40));
        // A peer that has taken all that waited then is no longer the one that waits longest.
        assert!(!old.is_given_up(at(4), 40));
        assert!(!older.is_given_up(at(5), 40));
        assert!(new.is_given_up(at(3), 21));
        assert_eq!(unsent_budget.waiting().bytes, 80);
    }

    #[test]
    fn who_is_given_up_ends_without_a_turn_unless_its_peer_has_taken_everything() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let [mut first, mut second] = [(); 2].map(|()| Waiter::new(&unsent_budget));
        let now = Instant::now();
        assert!(!first.is_given_up(now, 60));
        assert!(!first.place.work.is_evicted());
        assert!(!second.is_given_up(now + Duration::from_secs(1), 60));
        assert!(first.place.work.is_evicted() && !second.place.work.is_evicted());
        first.place.leave();
        assert!(!first.place.work.is_evicted());
        assert_eq!(unsent_budget.waiting().bytes, 60);
    }

    // FAULTS S9
    #[cfg(feature = "tls")]
    #[test]
    fn what_tls_holds_of_a_connection_counts() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let [mut first, mut second] = [(); 2].map(|()| Waiter::new(&unsent_budget));
        let now = Instant::now();
        first.place.work.set_held(50);
        second.place.work.set_held(50);
        assert!(!first.is_given_up(now, 10));
        assert!(!second.is_given_up(now + Duration::from_secs(1), 10));
        assert!(first.is_given_up(now, 10));
        assert_eq!(unsent_budget.waiting().bytes, 60);
        second.place.leave();
        assert_eq!(unsent_budget.waiting().bytes, 0);
    }

    #[test]
    fn who_waits_no_more_leaves_nothing_behind() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let mut first = Waiter::new(&unsent_budget);
        let mut second = Waiter::new(&unsent_budget);
        assert!(!first.is_given_up(Instant::now(), 60));
        assert!(!second.is_given_up(Instant::now(), 40));
        first.place.leave();
        assert_eq!(unsent_budget.waiting().bytes, 40);
        drop(second);
        assert_eq!(unsent_budget.waiting().bytes, 0);
        assert!(unsent_budget.waiting().sessions.is_empty());
    }

    #[test]
    fn who_holds_more_than_all_may_gives_up_itself() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let mut greedy = Waiter::new(&unsent_budget);
        assert!(!greedy.is_given_up(Instant::now(), 101));
        assert_eq!(greedy.rings(), 1);
        assert!(greedy.is_given_up(Instant::now(), 101));
        assert_eq!(unsent_budget.waiting().bytes, 0);
    }
}
