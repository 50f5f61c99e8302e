//! A store in ClickHouse.

use std::{
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clickhouse::Client;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use metrics_client::{Key, Point, Selector};
use tokio::{
    sync::{Mutex, oneshot::Receiver},
    task::AbortHandle,
    time::Instant,
};
use tracing::warn;

mod block;
mod budget;
mod city_hash;
mod clock;
mod cluster;
mod error;
mod known_keys;
mod lane;
mod options;
mod prepare;
mod row_binary;
mod schema;
mod sender;
mod shared;
mod snapshot;
mod stats;
#[cfg(test)]
mod tests;

pub use error::ClickHouseError;
pub use options::{ClickHouseOptions, InvalidClickHouseUrl};
pub use snapshot::ClickHouseSnapshot;
pub use stats::ClickHouseStats;

use super::{KeyPattern, PutBatch, RangeSnapshot, Snapshot, Store, StoreError, keep};

use block::Rows;
use city_hash::city_hash_64;
use clock::STEP;
use lane::Lane;
use prepare::{Prepared, prepare};
use sender::{BlockSender, backoff};
use shared::ClusterShared;

/// A store in ClickHouse: any number of servers in front of one cluster, none of which keeps anything itself.
///
/// A put is acknowledged when ClickHouse has acknowledged its block: with a quorum, when that number of replicas has it.
/// Puts of all connections wait up to 50 ms for each other, or until they are 10,000. A block that fails is sent again,
/// the same bytes, for some seconds; then its puts fail, and puts are rejected with
/// [transient](StoreError::is_transient) errors until the cluster takes one again. What waits is bounded in memory.
///
/// The later of two puts of the same key and second wins, also between servers, whose clocks must agree: see
/// `docs/clickhouse.md`. A [`get`](Store::get) sees every acknowledged put if there is a single node or a quorum.
/// Without a quorum, a replica may be a moment behind.
///
/// ```no_run
/// use metrics_server::{Server, store::{ClickHouseOptions, ClickHouseStore}};
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
///
/// let options: ClickHouseOptions = "clickhouse://ch1:8123,ch2:8123/metrics?cluster=main&quorum=2".parse()?;
/// let store = ClickHouseStore::open(options).await?;
/// let server = Server::bind("127.0.0.1:8888").await?.store(store);
/// # drop(server);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ClickHouseStore {
    shared: Arc<ClusterShared>,
    ready: OnceLock<Ready>,
    preparing: Mutex<Preparing>,
}

/// What exists once the cluster was reached.
#[derive(Debug)]
struct Ready {
    prepared: Prepared,
    /// One for each shard.
    lanes: Vec<Arc<Lane>>,
    senders: Vec<AbortHandle>,
}

/// The last attempt to reach the cluster.
#[derive(Debug, Default)]
struct Preparing {
    failure: Option<(StoreError, Instant)>,
    failures: u32,
}

impl ClickHouseStore {
    /// Opens the store; creates the tables that are missing.
    ///
    /// If the cluster cannot be reached, this succeeds, and the first call that finds the cluster creates the tables.
    ///
    /// # Errors
    ///
    /// If the cluster can be reached and cannot be used as it is configured: the password is wrong, the database or the
    /// cluster does not exist, a table has another engine.
    pub async fn open(options: ClickHouseOptions) -> Result<Self, ClickHouseError> {
        let mut connector = HttpConnector::new();
        // The last bytes of a block would wait for the acknowledgement of those before.
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.timeout / 2));
        connector.set_keepalive(Some(KEEPALIVE));
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(connector);
        Self::open_with(options, &Client::with_http_client(http)).await
    }

    async fn open_with(
        options: ClickHouseOptions,
        client: &Client,
    ) -> Result<Self, ClickHouseError> {
        let shared = Arc::new(ClusterShared::new(options, client));
        let store = Self { shared, ready: OnceLock::new(), preparing: Mutex::default() };
        match store.prepare().await {
            Ok(()) => {}
            Err(error) if error.needs_configuration() => return Err(error),
            Err(error) => {
                warn!(%error, "ClickHouse cannot be used yet");
                store.preparing.lock().await.note(error.into());
            }
        }
        Ok(store)
    }

    /// Returns the statistics of the store.
    #[must_use]
    pub fn stats(&self) -> ClickHouseStats {
        self.shared.counters.stats(self.shared.budget.used())
    }
}

/// ClickHouse closes an idle connection after 3 seconds in old versions.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

const KEEPALIVE: Duration = Duration::from_secs(60);

impl Drop for ClickHouseStore {
    fn drop(&mut self) {
        let senders = self.ready.get().map(|ready| &ready.senders);
        senders.into_iter().flatten().for_each(AbortHandle::abort);
    }
}

impl Preparing {
    fn note(&mut self, error: StoreError) {
        self.failure = Some((error, Instant::now() + backoff(self.failures)));
        self.failures += 1;
    }
}

impl ClickHouseStore {
    /// Returns what exists once the cluster was reached; tries to reach it if it was not, now and then.
    async fn ready(&self) -> Result<&Ready, StoreError> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let mut preparing = self.preparing.lock().await;
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        if let Some((error, retry_at)) = &preparing.failure
            && Instant::now() < *retry_at
        {
            return Err(error.clone());
        }
        if let Err(error) = self.prepare().await {
            let error = StoreError::from(error);
            preparing.note(error.clone());
            return Err(error);
        }
        let unknown = || StoreError::transient("ClickHouse cannot be reached");
        self.ready.get().ok_or_else(unknown)
    }

    async fn prepare(&self) -> Result<(), ClickHouseError> {
        let shared = &self.shared;
        let prepared =
            prepare(&shared.cluster, &shared.options, &shared.schema, &shared.clock).await?;
        let lane = |_| {
            let budget = shared.budget.clone();
            Arc::new(Lane::new(shared.options.max_rows, shared.options.max_wait, budget))
        };
        let lanes: Vec<_> = (0..prepared.shards).map(lane).collect();
        self.ready.get_or_init(|| {
            let send = |lane: &Arc<Lane>| {
                let sender = BlockSender {
                    shared: Arc::clone(shared),
                    lane: Arc::clone(lane),
                    settings: prepared.insert_settings.clone(),
                    read_settings: prepared.read_settings.clone(),
                };
                tokio::spawn(sender.run()).abort_handle()
            };
            let senders = lanes.iter().map(send).collect();
            Ready { prepared, lanes, senders }
        });
        Ok(())
    }

    /// Reads what a statement selects.
    async fn read(
        &self,
        statement: &str,
        only: Option<Key>,
    ) -> Result<ClickHouseSnapshot, StoreError> {
        let settings = &self.ready().await?.prepared.read_settings;
        Ok(ClickHouseSnapshot::new(self.shared.cluster.read(statement, settings).await?, only))
    }

    async fn select(
        &self,
        selector: &Selector,
        seconds: &RangeInclusive<i64>,
    ) -> Result<ClickHouseSnapshot, StoreError> {
        let seconds = *seconds.start().max(&self.shared.cutoff())..=*seconds.end();
        match selector {
            Selector::All => {
                self.read(&snapshot::select_all(&self.shared.schema, &seconds), None).await
            }
            Selector::Key(key) => {
                let statement = snapshot::select_key(&self.shared.schema, key, &seconds);
                self.read(&statement, Some(key.clone())).await
            }
            // The protocol has no other selector, so no session asks for one.
            _ => Err(StoreError::new("selector not supported")),
        }
    }

    /// Encodes puts as rows, and gives them to the lanes of their shards.
    fn submit(&self, ready: &Ready, puts: &PutBatch) -> Vec<Submitted> {
        let version = self.shared.clock.take(puts.len());
        let mut rows: Vec<_> = ready.lanes.iter().map(|_| Rows::default()).collect();
        let mut submitted = Vec::with_capacity(1);
        let Prepared { slots, shards, .. } = &ready.prepared;
        let known = self.shared.known.read();
        let mut index = 0;
        for run in puts.runs() {
            let shard = match shards {
                1 => 0,
                _ => slots[(city_hash_64(run.key.as_bytes()) % slots.len() as u64) as usize],
            };
            let mut is_new = !known.contains(run.key);
            for point in run.points() {
                let version = version + index * STEP;
                index += 1;
                if std::mem::take(&mut is_new) {
                    rows[shard].new_keys.push((run.key.into(), version));
                }
                rows[shard].push(run.key, point, version);
                if rows[shard].len >= self.shared.options.max_rows {
                    submitted.push(ready.lanes[shard].submit(std::mem::take(&mut rows[shard])));
                }
            }
        }
        drop(known);
        let rest = ready.lanes.iter().zip(rows).filter(|(_, rows)| rows.len > 0);
        submitted.extend(rest.map(|(lane, rows)| lane.submit(rows)));
        submitted
    }
}

type Submitted = Result<Receiver<Result<(), StoreError>>, StoreError>;

impl Store for ClickHouseStore {
    type Snapshot = ClickHouseSnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        let rejected = match self.shared.options.keep {
            Some(keep) => keep::too_old(puts, self.shared.cutoff(), keep),
            None => Vec::new(),
        };
        self.shared.counters.too_old.add(rejected.len() as u64);
        let is_kept = |put| rejected.binary_search_by_key(&put, |(index, _)| *index).is_err();
        let kept = (!rejected.is_empty()).then(|| puts.filtered(is_kept));
        let puts = kept.as_ref().unwrap_or(puts);
        if !puts.is_empty() {
            let ready = self.ready().await?;
            let closed = || StoreError::transient("store closed");
            let mut outcome = Ok(());
            for submitted in self.submit(ready, puts) {
                let stored = match submitted {
                    Ok(receiver) => receiver.await.unwrap_or_else(|_| Err(closed())),
                    Err(error) => Err(error),
                };
                outcome = outcome.and(stored);
            }
            outcome?;
        }
        if rejected.is_empty() { Ok(()) } else { Err(StoreError::of_puts(rejected)) }
    }

    async fn get(&self, selector: &Selector) -> Result<ClickHouseSnapshot, StoreError> {
        self.select(selector, &(i64::MIN..=i64::MAX)).await
    }

    async fn get_range(
        &self,
        selector: &Selector,
        seconds: RangeInclusive<i64>,
    ) -> Result<RangeSnapshot<ClickHouseSnapshot>, StoreError> {
        let snapshot = self.select(selector, &seconds).await?;
        Ok(RangeSnapshot::new(snapshot, seconds))
    }

    async fn keys(&self, pattern: &KeyPattern) -> Result<Vec<Key>, StoreError> {
        let text = pattern.as_str();
        let prefix = text.split(['*', '?']).next().unwrap_or_default();
        let statement = snapshot::select_keys(&self.shared.schema, prefix);
        let settings = &self.ready().await?.prepared.read_settings;
        let rows = self.shared.cluster.read(&statement, settings).await?;
        Ok(snapshot::read_keys(rows, |key| pattern.matches(key)).await?)
    }

    async fn last(&self, key: &Key) -> Result<Option<Point>, StoreError> {
        let statement = snapshot::select_last(&self.shared.schema, key, self.shared.cutoff());
        let mut snapshot = self.read(&statement, Some(key.clone())).await?;
        Ok(snapshot.next_block().await?.and_then(|block| block.points.first().copied()))
    }
}
