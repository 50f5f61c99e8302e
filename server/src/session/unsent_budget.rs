//! Bounds the memory of unread answers over all connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;

use super::scheduler::Usage;
use metrics_client::internal::wake::wake_each;

/// The memory budget of sessions whose peers do not read their answers.
///
/// A session that cannot write registers how much it holds, and is removed when it can write again. While
/// the sum exceeds the limit, the session that has waited longest is evicted: an attacker that reads
/// nothing before a peer that is only slow.
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
    /// Ordered by since when they wait; the number breaks ties.
    sessions: BTreeMap<(Instant, u64), Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    waker: Waker,
    usage: Usage,
}

impl UnsentBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No panic can leave the sum inconsistent.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn remove(&mut self, key: (Instant, u64)) -> Option<Held> {
        let held = self.sessions.remove(&key)?;
        self.bytes -= held.bytes;
        Some(held)
    }
}

/// One session in a [`UnsentBudget`].
#[derive(Debug)]
pub(super) struct BudgetEntry {
    unsent_budget: Arc<UnsentBudget>,
    usage: Usage,
    /// Its key among the waiting sessions, if it waits.
    key: Option<(Instant, u64)>,
}

impl BudgetEntry {
    pub(super) fn new(unsent_budget: Arc<UnsentBudget>, usage: Usage) -> Self {
        Self { unsent_budget, usage, key: None }
    }

    /// Registers that this session has waited since `since` and holds `bytes`, to which the memory of TLS
    /// is added. Ready when it is evicted.
    pub(super) fn poll_evicted(
        &mut self,
        cx: &Context<'_>,
        since: Instant,
        bytes: usize,
    ) -> Poll<()> {
        let bytes = bytes + self.usage.held();
        let mut waiting = self.unsent_budget.waiting();
        if let Some(key) = self.key.take()
            && waiting.remove(key).is_none()
        {
            return Poll::Ready(());
        }
        waiting.entered += 1;
        let key = (since, waiting.entered);
        waiting.bytes += bytes;
        let (waker, usage) = (cx.waker().clone(), self.usage.clone());
        waiting.sessions.insert(key, Held { bytes, waker, usage });
        let mut evicted = Vec::new();
        while waiting.bytes > self.unsent_budget.limit
            && let Some((&longest, _)) = waiting.sessions.first_key_value()
        {
            if let Some(Held { waker, usage, .. }) = waiting.remove(longest) {
                // Under the lock, so that a session that is released now resets it afterwards.
                usage.mark_evicted(true);
                evicted.push(waker);
            }
            if longest == key {
                break;
            }
        }
        self.key = Some(key);
        drop(waiting);
        // Woken without the lock, which each of them takes first. This session may be among them; it then
        // learns it when it is polled again.
        wake_each(evicted);
        Poll::Pending
    }

    /// Removes this session from the budget, because its peer has read everything.
    pub(super) fn release(&mut self) {
        if let Some(key) = self.key.take()
            && self.unsent_budget.waiting().remove(key).is_none()
        {
            // It was evicted just before its peer read everything.
            self.usage.mark_evicted(false);
        }
    }
}

impl Drop for BudgetEntry {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_test::task::{self, Spawn};

    use super::*;

    struct Waiter(Spawn<BudgetEntry>);

    impl Waiter {
        fn new(unsent_budget: &Arc<UnsentBudget>) -> Self {
            Self(task::spawn(BudgetEntry::new(Arc::clone(unsent_budget), Usage::default())))
        }

        fn is_evicted(&mut self, since: Instant, bytes: usize) -> bool {
            self.0.enter(|cx, mut entry| entry.poll_evicted(cx, since, bytes)).is_ready()
        }

        /// Returns true if it was woken since the last call of `is_evicted`.
        fn is_woken(&self) -> bool {
            self.0.is_woken()
        }
    }

    #[test]
    fn longest_waiting_session_is_evicted() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let [mut old, mut older, mut new] = [(); 3].map(|()| Waiter::new(&unsent_budget));
        assert!(!old.is_evicted(at(2), 40));
        assert!(!older.is_evicted(at(1), 40));
        assert!(!new.is_evicted(at(3), 20));
        assert!(!older.is_woken() && !old.is_woken() && !new.is_woken());
        // It grows, and the oldest is evicted and woken.
        assert!(!new.is_evicted(at(3), 21));
        assert!(older.is_woken() && !old.is_woken() && !new.is_woken());
        assert!(older.is_evicted(at(1), 40));
        assert!(!old.is_evicted(at(2), 40));
        // A session that starts to wait again is no longer the oldest.
        assert!(!old.is_evicted(at(4), 40));
        assert!(!older.is_evicted(at(5), 40));
        assert!(new.is_evicted(at(3), 21));
        assert_eq!(unsent_budget.waiting().bytes, 80);
    }

    #[test]
    fn eviction_is_undone_when_the_peer_has_read_all() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let [mut first, mut second] = [(); 2].map(|()| Waiter::new(&unsent_budget));
        let now = Instant::now();
        assert!(!first.is_evicted(now, 60));
        assert!(!first.0.usage.is_evicted());
        assert!(!second.is_evicted(now + Duration::from_secs(1), 60));
        assert!(first.0.usage.is_evicted() && !second.0.usage.is_evicted());
        first.0.release();
        assert!(!first.0.usage.is_evicted());
        assert_eq!(unsent_budget.waiting().bytes, 60);
    }

    // FAULTS S9
    #[cfg(feature = "tls")]
    #[test]
    fn tls_memory_is_counted() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let [mut first, mut second] = [(); 2].map(|()| Waiter::new(&unsent_budget));
        let now = Instant::now();
        first.0.usage.set_held(50);
        second.0.usage.set_held(50);
        assert!(!first.is_evicted(now, 10));
        assert!(!second.is_evicted(now + Duration::from_secs(1), 10));
        assert!(first.is_evicted(now, 10));
        assert_eq!(unsent_budget.waiting().bytes, 60);
        second.0.release();
        assert_eq!(unsent_budget.waiting().bytes, 0);
    }

    #[test]
    fn released_session_leaves_nothing_behind() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let mut first = Waiter::new(&unsent_budget);
        let mut second = Waiter::new(&unsent_budget);
        assert!(!first.is_evicted(Instant::now(), 60));
        assert!(!second.is_evicted(Instant::now(), 40));
        first.0.release();
        assert_eq!(unsent_budget.waiting().bytes, 40);
        drop(second);
        assert_eq!(unsent_budget.waiting().bytes, 0);
        assert!(unsent_budget.waiting().sessions.is_empty());
    }

    #[test]
    fn session_over_the_limit_evicts_itself() {
        let unsent_budget = Arc::new(UnsentBudget::new(100));
        let mut greedy = Waiter::new(&unsent_budget);
        assert!(!greedy.is_evicted(Instant::now(), 101));
        assert!(greedy.is_woken());
        assert!(greedy.is_evicted(Instant::now(), 101));
        assert_eq!(unsent_budget.waiting().bytes, 0);
    }
}
