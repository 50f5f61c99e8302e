//! Relays to real destinations over real sockets: each is killed, slow, full and refusing; the counters add up, and what
//! arrived is compared point by point.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics_client::{MetricsClient, Selector};
use metrics_server::{
    MemoryStore, Server, Store,
    relay::{Relay, RelayBuilder, RelayStats},
    store::{Snapshot, Tee},
};
use tokio::time::{sleep, timeout};

use super::Running;

mod influxd;
mod ours;
mod program;

/// What is stored: the value of each key and second.
type Points = BTreeMap<(String, i64), f64>;

/// A server whose puts are relayed.
struct Source {
    store: Arc<MemoryStore>,
    relay: Relay,
    client: MetricsClient,
    running: Running,
    spool: tempfile::TempDir,
}

impl Source {
    async fn start(relay: RelayBuilder) -> Self {
        Self::with(relay, tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new())).await
    }

    async fn with(relay: RelayBuilder, spool: tempfile::TempDir, store: Arc<MemoryStore>) -> Self {
        let relay = relay.open(spool.path()).await.unwrap();
        let tee = Tee::new(Arc::clone(&store), 16).observer(relay.observer());
        let running = Running::serve(Server::bind("127.0.0.1:0").await.unwrap().store(tee));
        let client = MetricsClient::connect(running.addr).await.unwrap();
        Self { store, relay, client, running, spool }
    }

    /// Puts points of some keys, each with its own value.
    async fn put(&self, seconds: std::ops::Range<i64>) {
        let keys =
            ["palm.cpu", "palm.mem;host=a b", "eardrum.cpu"].map(|key| key.replace(' ', "%20"));
        let samples = seconds.flat_map(|second| {
            keys.iter().enumerate().map(move |(index, key)| {
                let value = second as f64 / 8.0 + index as f64;
                metrics_client::Sample {
                    key: metrics_client::Key::new(key).unwrap(),
                    point: metrics_client::Point::new(value, FIRST + second),
                }
            })
        });
        self.client.put_all(samples.collect::<Vec<_>>()).await.unwrap();
    }

    /// Returns the counters, which have to add up.
    fn stats(&self) -> RelayStats {
        let stats = self.relay.stats();
        assert!(stats.is_balanced(), "{stats:?}");
        stats
    }

    async fn until(&self, what: &str, is_done: impl Fn(&RelayStats) -> bool) -> RelayStats {
        let done = async {
            while !is_done(&self.stats()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let done = timeout(Duration::from_secs(60), done).await;
        assert!(done.is_ok(), "{what}: {:?}", self.stats());
        self.stats()
    }

    /// Waits until everything has an outcome.
    async fn until_settled(&self) -> RelayStats {
        self.until("settled", |stats| stats.waiting + stats.spooled == 0).await
    }

    async fn points(&self) -> Points {
        points_of(&*self.store).await
    }

    /// Ends the listener and the relay. Returns the spool and the store, which another one can go on with.
    async fn stop(self) -> (tempfile::TempDir, Arc<MemoryStore>) {
        drop(self.client);
        let _ = self.running.stop.send(());
        self.running.serving.await.unwrap();
        self.relay.close().await;
        assert!(self.relay.stats().is_balanced() && self.relay.stats().waiting == 0);
        (self.spool, self.store)
    }
}

/// A second of which every system takes points.
const FIRST: i64 = 1_700_000_000;

async fn points_of(store: &impl Store) -> Points {
    let metrics = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
    let points = metrics.iter().flat_map(|(key, points)| {
        points.iter().map(|point| ((key.as_str().to_owned(), point.timestamp), point.value))
    });
    points.collect()
}

/// Compares what arrived, and names some differences.
fn assert_same(arrived: &Points, expected: &Points) {
    if arrived != expected {
        let missing: Vec<_> =
            expected.iter().filter(|(at, _)| !arrived.contains_key(at)).take(5).collect();
        let wrong = arrived.iter().filter(|(at, value)| expected.get(at) != Some(value));
        let wrong: Vec<_> = wrong.map(|found| (found, expected.get(found.0))).take(5).collect();
        panic!(
            "{} arrived of {}; missing {missing:?}, wrong {wrong:?}",
            arrived.len(),
            expected.len()
        );
    }
}
