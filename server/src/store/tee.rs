//! A store that passes on what was applied.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics_client::{Key, Point, Selector};
#[cfg(feature = "http")]
use tokio::sync::broadcast::error::TryRecvError;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use super::{KeyPattern, PutBatch, RangeSnapshot, Store, StoreError};

/// A store that passes every applied put on to its subscribers: for relays and live views.
///
/// It never delays an answer. A subscriber that is slower than the puts [misses](Applied::Missed) the
/// oldest of them. Without subscribers it costs nothing.
///
/// A subscriber gets the batches of one connection in order. Batches that are applied concurrently may
/// arrive in another order than the store applied them in.
///
/// ```
/// use metrics_client::{Key, Point};
/// use metrics_server::store::{Applied, MemoryStore, PutBatch, Store, Tee};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let store = Tee::new(MemoryStore::new(), 1024);
/// let mut subscription = store.subscribe();
/// let mut puts = PutBatch::new();
/// puts.push(&Key::new("palm.cpu")?, Point::new(23.7, 1150864247));
/// store.apply(&puts).await?;
/// let Some(Applied::Puts(applied)) = subscription.next().await else { panic!() };
/// assert_eq!(applied.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tee<S> {
    store: S,
    sender: broadcast::Sender<Arc<PutBatch>>,
    observers: Observers,
    failing: Arc<Failing>,
}

/// Functions that are called with every applied batch.
#[derive(Clone, Default)]
struct Observers(Vec<Arc<Observer>>);

type Observer = dyn Fn(&Arc<PutBatch>) + Send + Sync;

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

/// Whether the store fails.
#[derive(Debug, Default)]
struct Failing {
    /// True if there is an error, so that a success takes no lock.
    is_failing: AtomicBool,
    /// The last transient error, and when it came.
    last: Mutex<Option<(StoreError, Instant)>>,
}

impl Failing {
    fn last(&self) -> MutexGuard<'_, Option<(StoreError, Instant)>> {
        // It is replaced as a whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, applied: &Result<(), StoreError>) {
        match applied {
            Err(error) if error.is_transient() => {
                *self.last() = Some((error.clone(), Instant::now()));
                self.is_failing.store(true, Ordering::Relaxed);
            }
            // A final error is about the puts, not about the store.
            _ if self.is_failing.load(Ordering::Relaxed) => {
                self.is_failing.store(false, Ordering::Relaxed);
                *self.last() = None;
            }
            _ => {}
        }
    }
}

impl<S> Tee<S> {
    /// Wraps `store`. Up to `capacity` batches are kept for slow subscribers, between 1 and 65,536; a
    /// server's batch has at most 64 KiB of requests.
    #[must_use]
    pub fn new(store: S, capacity: usize) -> Self {
        Self {
            store,
            sender: broadcast::Sender::new(capacity.clamp(1, MAX_CAPACITY)),
            observers: Observers::default(),
            failing: Arc::default(),
        }
    }

    /// Subscribes to the puts that are applied from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }

    /// Adds a function that is called with every batch that was applied, before
    /// [`apply`](Store::apply) returns, so before any of its puts is acknowledged. It misses no batch, so it
    /// must not block: every put waits for it. Clones that were made before do not call it.
    ///
    /// A put that a peer sends after another one was acknowledged is observed after it, on whatever
    /// connection. Batches that are applied concurrently may be observed in another order than the store
    /// applied them in. The puts of a call that was dropped, so that they were never acknowledged, may be
    /// applied and not observed.
    #[must_use]
    pub fn observer(mut self, observer: impl Fn(&Arc<PutBatch>) + Send + Sync + 'static) -> Self {
        self.observers.0.push(Arc::new(observer));
        self
    }

    /// Returns the error of the last batch, if it failed [transiently](StoreError::is_transient) within the last
    /// 10 seconds: whether a server is ready. After that time only another attempt can tell.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        let last = self.failing.last();
        last.as_ref().filter(|(_, at)| at.elapsed() < FAILURE_SHOWN).map(|(error, _)| error.clone())
    }

    /// Returns the wrapped store.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.store
    }
}

const MAX_CAPACITY: usize = 65_536;

const FAILURE_SHOWN: Duration = Duration::from_secs(10);

/// Receives what a [`Tee`] has applied.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<PutBatch>>);

/// What a [`Subscription`] receives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Applied {
    /// Puts that were applied.
    Puts(Arc<PutBatch>),
    /// The subscriber was too slow, and did not get this many batches.
    Missed(u64),
}

impl Subscription {
    /// Receives the next batch. Returns `None` when the last clone of the [`Tee`] is dropped.
    ///
    /// # Cancel safety
    ///
    /// No batch is lost.
    pub async fn next(&mut self) -> Option<Applied> {
        match self.0.recv().await {
            Ok(puts) => Some(Applied::Puts(puts)),
            Err(RecvError::Lagged(batches)) => Some(Applied::Missed(batches)),
            Err(RecvError::Closed) => None,
        }
    }

    /// Returns the next batch if there is one.
    #[cfg(feature = "http")]
    pub(crate) fn try_next(&mut self) -> Option<Applied> {
        match self.0.try_recv() {
            Ok(puts) => Some(Applied::Puts(puts)),
            Err(TryRecvError::Lagged(batches)) => Some(Applied::Missed(batches)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

impl<S: Store> Store for Tee<S> {
    type Snapshot = S::Snapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        let applied = self.store.apply(puts).await;
        self.failing.note(&applied);
        if self.sender.receiver_count() > 0 || !self.observers.0.is_empty() {
            let stored = match &applied {
                Ok(()) => puts.clone(),
                Err(error) => puts.filtered(|index| error.of_put(index).is_none()),
            };
            if !stored.is_empty() {
                let stored = Arc::new(stored);
                for observer in &self.observers.0 {
                    observer(&stored);
                }
                // Fails only without a subscriber.
                let _ = self.sender.send(stored);
            }
        }
        applied
    }

    fn get(
        &self,
        selector: &Selector,
    ) -> impl Future<Output = Result<S::Snapshot, StoreError>> + Send {
        self.store.get(selector)
    }

    fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> impl Future<Output = Result<RangeSnapshot<S::Snapshot>, StoreError>> + Send {
        self.store.get_range(selector, seconds)
    }

    fn keys(
        &self,
        pattern: &KeyPattern,
    ) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send {
        self.store.keys(pattern)
    }

    fn last(&self, key: &Key) -> impl Future<Output = Result<Option<Point>, StoreError>> + Send {
        self.store.last(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemorySnapshot, MemoryStore};

    fn batch(keys: &[&str]) -> PutBatch {
        let mut puts = PutBatch::new();
        for key in keys {
            puts.push(&Key::new(*key).unwrap(), Point::new(0.5, 1));
        }
        puts
    }

    fn keys(applied: Option<Applied>) -> Vec<String> {
        let Some(Applied::Puts(puts)) = applied else { panic!("{applied:?}") };
        puts.iter().map(|(key, _)| key.to_owned()).collect()
    }

    /// Rejects the puts of one key.
    struct Picky;

    impl Store for Picky {
        type Snapshot = MemorySnapshot;

        async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
            let rejected = puts.iter().enumerate().filter(|(_, (key, _))| *key == "no");
            let errors: Vec<_> =
                rejected.map(|(index, _)| (index, StoreError::new("no such tenant"))).collect();
            if errors.is_empty() { Ok(()) } else { Err(StoreError::of_puts(errors)) }
        }

        async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
            MemoryStore::new().get(selector).await
        }
    }

    #[tokio::test]
    async fn subscribers_get_applied_puts_only() {
        let store = Tee::new(Picky, 4);
        store.apply(&batch(&["early"])).await.unwrap();
        let [mut first, mut second] = [(); 2].map(|()| store.subscribe());
        store.apply(&batch(&["a", "no", "b"])).await.unwrap_err();
        store.apply(&batch(&["no"])).await.unwrap_err();
        store.apply(&batch(&["c"])).await.unwrap();
        drop(store);
        for subscription in [&mut first, &mut second] {
            assert_eq!(keys(subscription.next().await), ["a", "b"]);
            assert_eq!(keys(subscription.next().await), ["c"]);
            assert!(subscription.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn observer_misses_no_applied_put() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let store = Tee::new(Picky, 1).observer(move |puts| {
            sink.lock().unwrap().extend(puts.iter().map(|(key, _)| key.to_owned()));
        });
        store.apply(&batch(&["a", "no", "b"])).await.unwrap_err();
        store.apply(&batch(&["no"])).await.unwrap_err();
        store.apply(&batch(&["c"])).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn slow_subscriber_misses_the_oldest_batches() {
        let store = Tee::new(MemoryStore::new(), 2);
        let mut subscription = store.subscribe();
        for key in ["a", "b", "c", "d", "e"] {
            store.apply(&batch(&[key])).await.unwrap();
        }
        let missed = subscription.next().await;
        assert!(matches!(missed, Some(Applied::Missed(3))), "{missed:?}");
        assert_eq!(keys(subscription.next().await), ["d"]);
        assert_eq!(keys(subscription.next().await), ["e"]);
    }
}
