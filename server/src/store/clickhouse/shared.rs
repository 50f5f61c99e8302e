//! What the calls of a store and the tasks of its shards share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickhouse::Client;

use super::{
    budget::QueueBudget, clock::Clock, cluster::Cluster, known_keys::KnownKeys,
    options::ClickHouseOptions, schema::Schema, stats::ClickHouseCounters,
};
use crate::log_condition::LimitedCondition;

#[derive(Debug)]
pub(super) struct ClusterShared {
    pub(super) options: ClickHouseOptions,
    pub(super) schema: Schema,
    pub(super) cluster: Cluster,
    pub(super) clock: Clock,
    pub(super) known: KnownKeys,
    pub(super) budget: QueueBudget,
    pub(super) counters: ClickHouseCounters,
    /// The cluster takes no puts.
    pub(super) failing: LimitedCondition,
}

impl ClusterShared {
    pub(super) fn new(options: ClickHouseOptions, client: &Client) -> Self {
        Self {
            schema: Schema::new(&options),
            cluster: Cluster::new(&options, client),
            clock: Clock::new(options.node),
            known: KnownKeys::default(),
            budget: QueueBudget::new(options.max_queue_bytes),
            counters: ClickHouseCounters::default(),
            failing: LimitedCondition::new(),
            options,
        }
    }

    /// Returns the first second that is kept.
    pub(super) fn cutoff(&self) -> i64 {
        let Some(keep) = self.options.keep else { return i64::MIN };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(now).saturating_sub(seconds(keep))
    }
}
