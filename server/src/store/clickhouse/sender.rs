//! The task of a shard: sends one block after the other, and again until it is stored.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    block::{Encoded, InsertBlock},
    cluster::Settings,
    error::ClickHouseError,
    lane::Lane,
    prepare,
    shared::ClusterShared,
    snapshot::select_written,
};
use crate::store::StoreError;

/// Sends the blocks of a lane.
pub(super) struct BlockSender {
    pub(super) shared: Arc<ClusterShared>,
    pub(super) lane: Arc<Lane>,
    pub(super) settings: Settings,
    pub(super) read_settings: Settings,
}

impl BlockSender {
    /// Sends blocks until it is dropped.
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            let mut block = self.lane.next_block().await;
            let encoded = block.encode();
            let begin = Instant::now();
            let sent = self.send(&block, &encoded).await;
            let counters = &self.shared.counters;
            match sent {
                Ok(()) => {
                    failures = 0;
                    counters.on_block(block.len(), begin.elapsed());
                    self.lane.set_working();
                    if let Some(lasting) = self.shared.failing.ends() {
                        info!(?lasting.since, lasting.times, "ClickHouse takes puts again");
                    }
                    let keys = encoded.new_keys.iter().map(|key| &**key);
                    self.shared.known.insert(keys);
                    block.complete(&Ok(()));
                }
                Err(error) => {
                    counters.failed_blocks.add(1);
                    let error = StoreError::from(error);
                    self.lane.set_failing(error.clone(), Instant::now() + backoff(failures));
                    failures += 1;
                    block.complete(&Err(error));
                }
            }
        }
    }

    /// Sends a block until it is stored, or until [`RETRY_TIME`] after the time of one attempt. There is only one attempt if
    /// the last block has failed, or if no batch waits for this one.
    async fn send(&self, block: &InsertBlock, encoded: &Encoded) -> Result<(), ClickHouseError> {
        let give_up = Instant::now() + self.shared.options.timeout + RETRY_TIME;
        let mut attempt = 0;
        loop {
            let error = match self.attempt(encoded, attempt > 0).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Some(lasting) = self.shared.failing.holds() {
                let times = lasting.times;
                warn!(%error, source = ?std::error::Error::source(&error), times, "ClickHouse takes no puts");
            }
            let delay = backoff(attempt);
            let is_over = Instant::now() + delay >= give_up;
            if is_over || self.lane.is_failing() || !block.is_awaited() {
                return Err(error);
            }
            debug!(%error, ?delay, "block will be sent again");
            attempt += 1;
            self.shared.counters.retries.add(1);
            sleep(delay).await;
        }
    }

    /// Sends a block once: the keys first, so that no point has a key that is not listed.
    async fn attempt(&self, encoded: &Encoded, is_retry: bool) -> Result<(), ClickHouseError> {
        let ClusterShared { cluster, schema, options, .. } = &*self.shared;
        let insert = async {
            if !encoded.keys.is_empty() {
                cluster.insert(&schema.insert_keys(), &self.settings, &encoded.keys).await?;
            }
            cluster.insert(&schema.insert_points(), &self.settings, &encoded.points).await?;
            if is_retry && options.quorum.is_some() {
                self.check_written(encoded).await?;
            }
            Ok(())
        };
        let sent: Result<(), ClickHouseError> = insert.await;
        if let Err(error) = &sent
            && error.is_unknown_table()
        {
            prepare::create_tables(cluster, options, schema).await?;
        }
        sent
    }

    /// Checks that the quorum has a block that was sent before: ClickHouse answers that it has the block already, also
    /// if the quorum does not have it yet.
    async fn check_written(&self, encoded: &Encoded) -> Result<(), ClickHouseError> {
        let ClusterShared { cluster, schema, options, .. } = &*self.shared;
        let Some((key, second, version)) = encoded.first_point() else { return Ok(()) };
        let select = select_written(schema, key, second, version);
        let count = cluster.query(&select, &self.read_settings, options.timeout).await?;
        if matches!(count.trim(), "" | "0") {
            return Err(ClickHouseError::invalid_answer(
                cluster.host_name(),
                "the quorum does not have a block that is said to be stored",
            ));
        }
        Ok(())
    }
}

/// How long a block is sent again, besides the time of one attempt that hangs: with it less than a server gives a store,
/// so that the server sees the failure.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Returns a random time up to a limit that doubles with each attempt.
pub(super) fn backoff(attempt: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);
    let limit = FIRST.saturating_mul(1 << attempt.min(10)).min(LAST);
    limit.mul_f64(0.1 + 0.9 * fastrand::f64())
}
