//! `MemoryStore` against a model.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use metrics_client::{Key, Point, Selector};
use metrics_server::{
    MemoryStore, Store,
    store::{KeyPattern, MemorySnapshot, PutBatch, Snapshot, StoreError},
};
use proptest::prelude::*;

/// Keys in the order of their first put, each with its points.
#[derive(Clone, Debug, Default)]
struct Model(Vec<(String, BTreeMap<i64, f64>)>);

impl Model {
    fn put(&mut self, key: &str, point: Point) {
        let index = self.0.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.0.push((key.into(), BTreeMap::new()));
            self.0.len() - 1
        });
        self.0[index].1.insert(point.timestamp, point.value);
    }

    fn rows(&self, only: Option<&str>) -> Vec<(String, i64, f64)> {
        let keys = self.0.iter().filter(|(key, _)| only.is_none_or(|only| only == key));
        keys.flat_map(|(key, points)| points.iter().map(|(&at, &value)| (key.clone(), at, value)))
            .collect()
    }
}

async fn rows(mut snapshot: impl Snapshot) -> Vec<(String, i64, f64)> {
    let mut rows = Vec::new();
    while let Some(block) = snapshot.next_block().await.unwrap() {
        assert!(!block.points.is_empty());
        rows.extend(
            block.points.iter().map(|point| (block.key.to_string(), point.timestamp, point.value)),
        );
    }
    rows
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        timestamp: i64,
        value: f64,
    },
    /// `count` points from a second on, `step` apart, so that chunks fill.
    Run {
        key: u8,
        from: i64,
        count: i64,
        step: i64,
    },
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, -2000i64..2000, -9.0..9.0).prop_map(|(key, timestamp, value)| Step::Put {
            key,
            timestamp,
            value
        }),
        2 => (0..6u8, -1000i64..1000, 0i64..1500, -3i64..4)
            .prop_map(|(key, from, count, step)| Step::Run { key, from, count, step }),
        1 => Just(Step::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batches_in_any_order_match_a_sorted_map(
        batches in prop::collection::vec(prop::collection::vec(step(), 0..8), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::new();
            let mut model = Model::default();
            let mut snapshots = Vec::new();
            let mut puts = PutBatch::new();
            for batch in batches {
                puts.clear();
                for step in batch {
                    let mut put = |key: u8, point| {
                        let key = Key::new(format!("key.{key}")).unwrap();
                        puts.push(&key, point);
                        model.put(key.as_str(), point);
                    };
                    match step {
                        Step::Put { key, timestamp, value } => put(key, Point::new(value, timestamp)),
                        Step::Run { key, from, count, step } => (0..count)
                            .for_each(|at| put(key, Point::new(at as f64, from + at * step))),
                        Step::Snapshot => {
                            store.apply(&puts).await.unwrap();
                            puts.clear();
                            let snapshot = store.get(&Selector::All).await.unwrap();
                            snapshots.push((snapshot, model.clone()));
                        }
                    }
                }
                store.apply(&puts).await.unwrap();
            }
            snapshots.push((store.get(&Selector::All).await.unwrap(), model.clone()));
            for (snapshot, model) in snapshots {
                assert_eq!(rows(snapshot).await, model.rows(None));
            }
            for key in 0..7 {
                let key = Key::new(format!("key.{key}")).unwrap();
                let snapshot = store.get(&Selector::from(&key)).await.unwrap();
                let expected = model.rows(Some(key.as_str()));
                assert_eq!(rows(snapshot).await, expected);
                let last = store.last(&key).await.unwrap();
                let last = last.map(|point| (key.to_string(), point.timestamp, point.value));
                assert_eq!(last.as_ref(), expected.last());
            }
            for seconds in [-700..=900, 5..=5, 400..=i64::MAX] {
                let range = store.get_range(&Selector::All, seconds.clone()).await.unwrap();
                let mut expected = model.rows(None);
                expected.retain(|(_, second, _)| seconds.contains(second));
                assert_eq!(rows(range).await, expected);
            }
        });
    }
}

#[tokio::test]
async fn snapshot_into_metrics() {
    let store = MemoryStore::new();
    let mut puts = PutBatch::new();
    for (key, at) in [("b", 2), ("a", 1), ("b", 1)] {
        puts.push(&Key::new(key).unwrap(), Point::new(0.5, at));
    }
    store.apply(&puts).await.unwrap();
    let metrics = store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap();
    assert_eq!(metrics.keys().map(Key::as_str).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(metrics.points("b"), [Point::new(0.5, 1), Point::new(0.5, 2)]);
}

/// A store without overrides of default methods.
struct Defaults(MemoryStore);

impl Store for Defaults {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        self.0.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.0.get(selector).await
    }
}

async fn check_ranges_and_keys(store: impl Store) {
    let mut puts = PutBatch::new();
    for (key, at) in [("b.x", 20), ("a", 10), ("b.y", 30)] {
        (0..1500).for_each(|step| puts.push(&Key::new(key).unwrap(), Point::new(0.5, at + step)));
    }
    store.apply(&puts).await.unwrap();
    let keys = store.keys(&KeyPattern::new("b.*")).await.unwrap();
    assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ["b.x", "b.y"]);
    assert_eq!(store.keys(&KeyPattern::new("*")).await.unwrap().len(), 3);
    for (from, until, counts) in [
        (i64::MIN, i64::MAX, [1500, 1500, 1500]),
        (15, 24, [5, 10, 0]),
        (1515, 1529, [5, 0, 15]),
        (5, 9, [0, 0, 0]),
        (600, 600, [1, 1, 1]),
    ] {
        let range = store.get_range(&Selector::All, from..=until).await.unwrap();
        let metrics = range.into_metrics().await.unwrap();
        let counted = ["b.x", "a", "b.y"].map(|key| metrics.points(key).len());
        assert_eq!(counted, counts, "{from}..={until}");
    }
}

#[tokio::test]
async fn ranges_and_keys_of_a_store() {
    check_ranges_and_keys(MemoryStore::new()).await;
    check_ranges_and_keys(Defaults(MemoryStore::new())).await;
}

#[tokio::test]
async fn snapshot_into_stream() {
    let store = MemoryStore::new();
    let mut puts = PutBatch::new();
    (0..2000).for_each(|at| puts.push(&Key::new("a").unwrap(), Point::new(0.5, at)));
    store.apply(&puts).await.unwrap();
    let samples = store.get(&Selector::All).await.unwrap().into_stream();
    let samples: Vec<_> = samples.try_collect().await.unwrap();
    assert_eq!(samples.len(), 2000);
    assert_eq!(samples[1999].to_string(), "a 0.5 1999");
}
