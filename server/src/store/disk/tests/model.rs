//! The store against a model: puts in any order, seals, retention, backups, kills and losses of power.

use std::{collections::BTreeMap, time::SystemTime};

use metrics_client::Point;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Keys in the order of their first put, each with its points.
#[derive(Clone, Debug, Default)]
pub(super) struct Model(pub(super) Vec<(String, BTreeMap<i64, f64>)>);

impl Model {
    pub(super) fn put(&mut self, key: &str, point: Point) {
        let index = self.0.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.0.push((key.into(), BTreeMap::new()));
            self.0.len() - 1
        });
        self.0[index].1.insert(point.timestamp, point.value);
    }

    pub(super) fn rows(&self, only: Option<&str>, seconds: RangeInclusive<i64>) -> Vec<Row> {
        let keys = self.0.iter().filter(|(key, _)| only.is_none_or(|only| only == key));
        keys.flat_map(|(key, points)| {
            points.range(seconds.clone()).map(|(&second, &value)| row(key, second, value))
        })
        .collect()
    }
}

/// How many seconds are between two timestamps of the model, so that the clock, which moves what is too old, makes
/// no difference.
const APART: i64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// Points of a key: `count` from `from` on, `step` apart, in units of [`APART`].
    Put {
        key: u8,
        from: i64,
        count: i64,
        step: i64,
        value: i32,
    },
    Seal,
    Snapshot,
    Backup,
    /// Reopens the store so that it keeps nothing before a time, in units of [`APART`].
    Retain {
        from: i64,
    },
    Kill,
    Close,
    LosePower,
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0..5u8, -3000i64..3000, prop_oneof![1..4i64, 100..1600i64], -3i64..4, -9..9i32);
    prop_oneof![
        8 => put.prop_map(|(key, from, count, step, value)| Step::Put { key, from, count, step, value }),
        4 => Just(Step::Seal),
        2 => Just(Step::Snapshot),
        1 => Just(Step::Backup),
        1 => (-3000i64..3000).prop_map(|from| Step::Retain { from }),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => Just(Step::LosePower),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn store_matches_the_model(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = Disk::new();
            let mut store = disk.open();
            let mut builder = DiskStore::builder();
            let mut cutoff = i64::MIN;
            let (mut model, mut snapshots) = (Model::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Put { key, from, count, step, value } => {
                        let mut puts = PutBatch::new();
                        let key = Key::new(format!("key.{key}")).unwrap();
                        let mut old = Vec::new();
                        for index in 0..count {
                            let value = f64::from(value) + index as f64 / 8.0;
                            let point = Point { timestamp: (from + index * step) * APART, value };
                            puts.push(&key, point);
                            if point.timestamp < cutoff {
                                old.push(index as usize);
                            } else {
                                model.put(key.as_str(), point);
                            }
                        }
                        let error = store.apply(&puts).await.err();
                        let is_old = |put: &usize| {
                            error.as_ref().is_some_and(|error| error.of_put(*put).is_some())
                        };
                        assert_eq!((0..count as usize).filter(is_old).collect::<Vec<_>>(), old);
                    }
                    Step::Seal => store.seal().await.unwrap(),
                    Step::Snapshot => {
                        snapshots.push((store.get(&Selector::All).await.unwrap(), model.clone()));
                    }
                    Step::Backup => {
                        let dir = TempDir::new().unwrap();
                        store.backup(dir.path().join("backup")).await.unwrap();
                        let copy = DiskStore::open(dir.path().join("backup")).await.unwrap();
                        assert_eq!(all(&copy).await, model.rows(None, i64::MIN..=i64::MAX));
                        copy.close().await;
                    }
                    Step::Retain { .. } | Step::Kill | Step::Close | Step::LosePower => {
                        for (snapshot, model) in snapshots.drain(..) {
                            let rows = read(snapshot).await.unwrap();
                            assert_eq!(rows, model.rows(None, i64::MIN..=i64::MAX));
                        }
                        if matches!(step, Step::Close) {
                            store.close().await;
                        }
                        kill(store).await;
                        if matches!(step, Step::LosePower) {
                            disk.fs.lose_power();
                        }
                        if let Step::Retain { from } = step {
                            // What was dropped does not come back.
                            cutoff = cutoff.max(from * APART - APART / 2);
                            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                            let keep = now.unwrap().as_secs() as i64 - cutoff;
                            builder = builder.keep(Duration::from_secs(keep as u64));
                            model.0.iter_mut().for_each(|(_, points)| {
                                points.retain(|&second, _| second >= cutoff);
                            });
                        }
                        store = disk.try_open(builder.clone()).unwrap();
                    }
                }
            }
            snapshots.push((store.get(&Selector::All).await.unwrap(), model.clone()));
            for (snapshot, model) in snapshots {
                assert_eq!(read(snapshot).await.unwrap(), model.rows(None, i64::MIN..=i64::MAX));
            }
            for key in 0..6 {
                let key = format!("key.{key}");
                let rows = of_key(&store, &key).await.unwrap();
                assert_eq!(rows, model.rows(Some(&key), i64::MIN..=i64::MAX));
                let last = store.last(&Key::new(&key).unwrap()).await.unwrap();
                let last = last.map(|point| row(&key, point.timestamp, point.value));
                assert_eq!(last.as_ref(), rows.last());
            }
            for seconds in [-500 * APART..=500 * APART, 0..=0, 700 * APART..=9000 * APART] {
                let range = store.get_range(&Selector::All, seconds.clone()).await.unwrap();
                assert_eq!(read(range).await.unwrap(), model.rows(None, seconds));
            }
            let keys = store.keys(&KeyPattern::new("*")).await.unwrap();
            let expected = model.0.iter().map(|(key, _)| key.as_str());
            assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            store.seal().await.unwrap();
            let points: usize = model.0.iter().map(|(_, points)| points.len()).sum();
            // A block stays as long as one of its points is kept.
            let blocks = store.stats().block_points;
            assert!(if cutoff == i64::MIN { blocks == points as u64 } else { blocks >= points as u64 });
            kill(store).await;
        });
    }
}
