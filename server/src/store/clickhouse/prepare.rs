//! What is found out about a cluster before it is used: its settings, shards and tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::{
    clock::Clock,
    cluster::{Cluster, Settings},
    error::ClickHouseError,
    options::ClickHouseOptions,
    schema::Schema,
};

/// A cluster as it was found.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) insert_settings: Settings,
    pub(super) read_settings: Settings,
    /// The index of the shard for each remainder of a hash.
    pub(super) slots: Vec<usize>,
    pub(super) shards: usize,
}

/// Looks at the cluster, creates tables that are missing, and lets `clock` see the newest version.
///
/// # Errors
///
/// If the cluster cannot be reached or cannot be used.
pub(super) async fn prepare(
    cluster: &Cluster,
    options: &ClickHouseOptions,
    schema: &Schema,
    clock: &Clock,
) -> Result<Prepared, ClickHouseError> {
    let within = options.timeout;
    let ask = |statement: String| async move {
        cluster.query(&statement, &Settings::new(), within).await
    };
    // Old versions reject a setting that they do not know.
    let known = ask("SELECT name FROM system.settings".into()).await?;
    let is_known = |name: &str| known.lines().any(|line| line == name);
    let shard_weights = match &options.cluster {
        None => vec![1],
        Some(name) => {
            let statement = format!(
                "SELECT shard_num, max(shard_weight) FROM system.clusters WHERE cluster = '{name}' \
                 GROUP BY shard_num ORDER BY shard_num"
            );
            let weight = |line: &str| line.split_once('\t')?.1.parse::<usize>().ok();
            let shards: Vec<_> = ask(statement).await?.lines().filter_map(weight).collect();
            if shards.is_empty() {
                let message = format!("it knows no cluster {name}");
                return Err(ClickHouseError::unusable(cluster.host_name(), message));
            }
            shards
        }
    };
    create_tables(cluster, options, schema).await?;
    let newest = format!("SELECT max(ver) FROM {}", schema.points());
    let newest = cluster.query(&newest, &Settings::new(), LONG_TIMEOUT).await?;
    clock.observe(newest.trim().parse().unwrap_or_default());
    let time = ask("SELECT toUnixTimestamp(now())".into()).await?;
    check_time(cluster.host_name(), time.trim().parse().unwrap_or_default());
    let indices = shard_weights.iter().enumerate();
    Ok(Prepared {
        insert_settings: insert_settings(options, is_known),
        read_settings: read_settings(options, is_known),
        slots: indices.flat_map(|(shard, &weight)| std::iter::repeat_n(shard, weight)).collect(),
        shards: shard_weights.len(),
    })
}

fn insert_settings(options: &ClickHouseOptions, is_known: impl Fn(&str) -> bool) -> Settings {
    let mut settings = Settings::new();
    let mut set = |name, value: String| settings.extend(is_known(name).then_some((name, value)));
    set("insert_deduplicate", "1".into());
    // The answer says that the rows are stored.
    set("async_insert", "0".into());
    if options.cluster.is_some() {
        set("insert_distributed_sync", "1".into());
    }
    if let Some(quorum) = options.quorum {
        set("insert_quorum", quorum.to_string());
        // A sequential read sees only what was inserted in sequence.
        set("insert_quorum_parallel", "0".into());
        // ClickHouse answers before this server stops waiting.
        let timeout = options.timeout.as_millis() * 4 / 5;
        set("insert_quorum_timeout", timeout.to_string());
    }
    settings
}

fn read_settings(options: &ClickHouseOptions, is_known: impl Fn(&str) -> bool) -> Settings {
    let mut settings = Settings::new();
    let mut set = |name, value: &str| {
        settings.extend(is_known(name).then(|| (name, value.to_owned())));
    };
    // A shard that is away is an error, and not an answer with fewer points.
    set("skip_unavailable_shards", "0");
    // A large answer is sorted on the disk.
    set("max_bytes_before_external_sort", "1000000000");
    if options.quorum.is_some() {
        set("select_sequential_consistency", "1");
    }
    settings
}

/// Creates the tables that are missing.
pub(super) async fn create_tables(
    cluster: &Cluster,
    options: &ClickHouseOptions,
    schema: &Schema,
) -> Result<(), ClickHouseError> {
    let names = schema.tables();
    let list = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let find = format!(
        "SELECT name, engine FROM system.tables WHERE database = '{}' AND name IN ({list})",
        options.database
    );
    let none = Settings::new();
    let found = cluster.query(&find, &none, options.timeout).await?;
    for (name, engine) in found.lines().filter_map(|line| line.split_once('\t')) {
        if !engine.ends_with("ReplacingMergeTree") && engine != "Distributed" {
            let message = format!("the table {name} has the engine {engine}");
            return Err(ClickHouseError::unusable(cluster.host_name(), message));
        }
    }
    if found.lines().count() < names.len() {
        for statement in schema.statements() {
            let created = cluster.query(&statement, &none, LONG_TIMEOUT).await;
            created.map_err(|error| explained(cluster, schema, error))?;
        }
        info!(host = cluster.host_name(), database = options.database, "tables created");
    }
    let (Some(alter), Some(ttl)) = (schema.alter_ttl(), schema.ttl()) else { return Ok(()) };
    let find = format!(
        "SELECT count() FROM system.tables WHERE database = '{}' AND name = '{}' \
         AND position(create_table_query, '{ttl}') > 0",
        options.database, names[0]
    );
    if cluster.query(&find, &none, options.timeout).await?.trim() != "1" {
        let altered = cluster.query(&alter, &none, LONG_TIMEOUT).await;
        altered.map_err(|error| explained(cluster, schema, error))?;
        info!(host = cluster.host_name(), "retention changed");
    }
    Ok(())
}

/// Says why a statement with a `TTL` cannot be parsed.
fn explained(cluster: &Cluster, schema: &Schema, error: ClickHouseError) -> ClickHouseError {
    if schema.ttl().is_some() && error.code() == Some(SYNTAX_ERROR) {
        let message = "it cannot remove old points: TTL came with ClickHouse 19.6";
        return ClickHouseError::unusable(cluster.host_name(), message);
    }
    error
}

const SYNTAX_ERROR: u32 = 62;

/// For what takes longer than an insert: every host of a cluster creates its tables, and all versions are read.
const LONG_TIMEOUT: Duration = Duration::from_secs(20);

/// Warns if this host and ClickHouse disagree about the time: then this and other servers may too.
fn check_time(host: &str, theirs: u64) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = ours.abs_diff(theirs);
    if seconds > MAX_TIME_DIFFERENCE {
        warn!(host, seconds, "clocks differ, so that the later of two puts may lose");
    }
}

/// In seconds: `now()` has no fraction, and the answer takes a moment.
const MAX_TIME_DIFFERENCE: u64 = 2;
