//! Tables: their names, and the statements that create, read and write them.

use std::time::Duration;

use super::options::ClickHouseOptions;

impl ClickHouseOptions {
    /// Returns the statements that create the tables, as they are sent when a table is missing.
    #[must_use]
    pub fn schema(&self) -> Vec<String> {
        Schema::new(self).statements()
    }
}

/// The tables of a store.
///
/// `metrics` has a row for each put, of which the one with the largest `ver` counts. `metrics_keys` has a row for each
/// key and server that has seen it; `inv` is the greatest for the first put of the key, because a
/// `ReplacingMergeTree` keeps the greatest.
///
/// On a cluster these are `Distributed` over `metrics_local` and `metrics_keys_local`.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    database: String,
    table: String,
    cluster: Option<String>,
    keep: Option<Duration>,
}

impl Schema {
    pub(super) fn new(options: &ClickHouseOptions) -> Self {
        Self {
            database: options.database.clone(),
            table: options.table.clone(),
            cluster: options.cluster.clone(),
            keep: options.keep,
        }
    }

    /// The table of points.
    pub(super) fn points(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    /// The table of keys.
    pub(super) fn keys(&self) -> String {
        format!("{}.{}_keys", self.database, self.table)
    }

    /// The names of all tables on each host, without the database.
    pub(super) fn tables(&self) -> Vec<String> {
        let (points, keys) = (self.table.clone(), format!("{}_keys", self.table));
        match self.cluster {
            None => vec![points, keys],
            Some(_) => vec![format!("{points}_local"), format!("{keys}_local"), points, keys],
        }
    }

    /// The statements that create the tables.
    pub(super) fn statements(&self) -> Vec<String> {
        let ttl = self.ttl().map_or_else(String::new, |ttl| format!(" TTL {ttl}"));
        let (points, keys) = (self.points(), self.keys());
        let Some(cluster) = &self.cluster else {
            return vec![
                format!(
                    "CREATE TABLE IF NOT EXISTS {points} ({POINT_COLUMNS}) \
                     ENGINE = ReplacingMergeTree(ver) ORDER BY (k, ts){ttl}"
                ),
                format!(
                    "CREATE TABLE IF NOT EXISTS {keys} ({KEY_COLUMNS}) ENGINE = ReplacingMergeTree(inv) ORDER BY k"
                ),
            ];
        };
        let Self { database, table, .. } = self;
        let local = |table: &str, columns: &str, version: &str, order: &str, ttl: &str| {
            format!(
                "CREATE TABLE IF NOT EXISTS {database}.{table}_local ON CLUSTER {cluster} ({columns}) \
                 ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{database}/{table}_local', \
                 '{{replica}}', {version}) ORDER BY {order}{ttl}"
            )
        };
        let distributed = |table: &str, columns: &str| {
            format!(
                "CREATE TABLE IF NOT EXISTS {database}.{table} ON CLUSTER {cluster} ({columns}) \
                 ENGINE = Distributed({cluster}, {database}, {table}_local, cityHash64(k))"
            )
        };
        let keys = format!("{table}_keys");
        vec![
            local(table, POINT_COLUMNS, "ver", "(k, ts)", &ttl),
            local(&keys, KEY_COLUMNS, "inv", "k", ""),
            distributed(table, POINT_COLUMNS),
            distributed(&keys, KEY_COLUMNS),
        ]
    }

    /// The statement that sets how long points are kept, if that is known.
    pub(super) fn alter_ttl(&self) -> Option<String> {
        let ttl = self.ttl()?;
        let (local, on_cluster) = match &self.cluster {
            None => ("", String::new()),
            Some(cluster) => ("_local", format!(" ON CLUSTER {cluster}")),
        };
        Some(format!("ALTER TABLE {}{local}{on_cluster} MODIFY TTL {ttl}", self.points()))
    }

    /// When a point may be removed: seconds that a `DateTime` does not have count as its first or last one.
    pub(super) fn ttl(&self) -> Option<String> {
        let keep = self.keep?.as_secs().min(MAX_DATE_TIME);
        let last = MAX_DATE_TIME - keep;
        Some(format!("toDateTime(greatest(least(ts, {last}), 0) + {keep})"))
    }

    pub(super) fn insert_points(&self) -> String {
        format!("INSERT INTO {} (k, ts, v, ver) FORMAT RowBinary", self.points())
    }

    pub(super) fn insert_keys(&self) -> String {
        format!("INSERT INTO {} (k, inv) FORMAT RowBinary", self.keys())
    }
}

const POINT_COLUMNS: &str = "k String, ts Int64, v Float64, ver UInt64";
const KEY_COLUMNS: &str = "k String, inv UInt64";

/// The last second of a `DateTime`.
const MAX_DATE_TIME: u64 = 4_294_967_295;

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(url: &str, keep: Option<u64>) -> Vec<String> {
        let mut options: ClickHouseOptions = url.parse().unwrap();
        if let Some(seconds) = keep {
            options = options.keep(Duration::from_secs(seconds));
        }
        options.schema()
    }

    #[test]
    fn single_node_has_two_tables() {
        assert_eq!(
            statements("clickhouse://a/db", Some(86_400)),
            [
                "CREATE TABLE IF NOT EXISTS db.metrics (k String, ts Int64, v Float64, ver UInt64) \
                 ENGINE = ReplacingMergeTree(ver) ORDER BY (k, ts) \
                 TTL toDateTime(greatest(least(ts, 4294880895), 0) + 86400)",
                "CREATE TABLE IF NOT EXISTS db.metrics_keys (k String, inv UInt64) \
                 ENGINE = ReplacingMergeTree(inv) ORDER BY k",
            ]
        );
    }

    #[test]
    fn cluster_has_replicated_and_distributed_tables() {
        let statements = statements("clickhouse://a/db?cluster=main&table=t", None);
        assert_eq!(
            statements[0],
            "CREATE TABLE IF NOT EXISTS db.t_local ON CLUSTER main (k String, ts Int64, v Float64, ver UInt64) \
             ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/db/t_local', '{replica}', ver) \
             ORDER BY (k, ts)"
        );
        assert_eq!(
            statements[3],
            "CREATE TABLE IF NOT EXISTS db.t_keys ON CLUSTER main (k String, inv UInt64) \
             ENGINE = Distributed(main, db, t_keys_local, cityHash64(k))"
        );
        assert_eq!(statements.len(), 4);
    }
}
