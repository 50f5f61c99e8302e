//! `ClickHouseStore` against ClickHouse: Debian's version of 2018 and a modern one.

mod cluster;
mod engine;
mod single;

use std::collections::BTreeMap;

use metrics_client::{Key, Point, Selector};
use metrics_server::store::{ClickHouseOptions, ClickHouseStore, PutBatch, Snapshot};

async fn open(url: &str) -> ClickHouseStore {
    let options: ClickHouseOptions = url.parse().unwrap();
    ClickHouseStore::open(options).await.unwrap()
}

fn batch<'a>(puts: impl IntoIterator<Item = (&'a str, i64, f64)>) -> PutBatch {
    let mut batch = PutBatch::new();
    for (key, second, value) in puts {
        batch.push(&Key::new(key).unwrap(), Point::new(value, second));
    }
    batch
}

/// The points of a snapshot in its order; values as bits.
async fn rows(snapshot: impl Snapshot) -> Vec<(String, i64, u64)> {
    let mut snapshot = snapshot;
    let mut rows = Vec::new();
    while let Some(block) = snapshot.next_block().await.unwrap() {
        let points = block.points.iter();
        rows.extend(points.map(|p| (block.key.to_string(), p.timestamp, p.value.to_bits())));
    }
    rows
}

fn key(text: &str) -> Selector {
    Selector::Key(Key::new(text).unwrap())
}

/// What a store shall hold.
#[derive(Clone, Debug, Default)]
struct PointModel {
    /// In the order of their first put.
    keys: Vec<String>,
    points: BTreeMap<(String, i64), u64>,
}

impl PointModel {
    fn put(&mut self, key: &str, second: i64, value: f64) {
        if !self.keys.iter().any(|known| known == key) {
            self.keys.push(key.into());
        }
        self.points.insert((key.into(), second), value.to_bits());
    }

    fn rows(&self) -> Vec<(String, i64, u64)> {
        let of = |key: &String| {
            let range = (key.clone(), i64::MIN)..=(key.clone(), i64::MAX);
            self.points.range(range).map(|((key, at), value)| (key.clone(), *at, *value))
        };
        self.keys.iter().flat_map(of).collect()
    }
}
