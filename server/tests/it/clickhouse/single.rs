//! A single node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_client::{Key, Selector};
use metrics_server::{
    Store,
    store::{ClickHouseOptions, ClickHouseStore, KeyPattern, Snapshot},
};

use super::{
    PointModel, batch,
    engine::{Debian, Modern},
    key, open, rows,
};

/// Everything that a store does, against what it shall hold. Two servers, as the URLs say.
pub(super) async fn behaves_as_the_model([first, second]: [&str; 2]) {
    let (store, other) = (open(first).await, open(second).await);
    let mut model = PointModel::default();
    assert_eq!(rows(store.get(&Selector::All).await.unwrap()).await, []);
    let keys: Vec<_> = (0..40).map(|n| format!("k{};host='\\{n}é", fastrand::u32(..))).collect();
    for round in 0..20 {
        let puts: Vec<_> = (0..500)
            .map(|_| {
                let value = loop {
                    let value = f64::from_bits(fastrand::u64(..));
                    if value.is_finite() {
                        break value;
                    }
                };
                let second = match fastrand::u8(..) {
                    0 => i64::MIN,
                    1 => i64::MAX,
                    2 => -1,
                    _ => fastrand::i64(0..60),
                };
                (&*keys[fastrand::usize(..keys.len().min(2 + round * 4))], second, value)
            })
            .collect();
        puts.iter().for_each(|(key, second, value)| model.put(key, *second, *value));
        // The later put wins, whichever server took it.
        let [writer, reader] = if round % 2 == 0 { [&store, &other] } else { [&other, &store] };
        writer.apply(&batch(puts)).await.unwrap();
        assert_eq!(rows(reader.get(&Selector::All).await.unwrap()).await, model.rows());
    }
    for name in &keys {
        let expected: Vec<_> = model.rows().into_iter().filter(|(key, ..)| key == name).collect();
        assert_eq!(rows(store.get(&key(name)).await.unwrap()).await, expected);
        let last = store.last(&Key::new(&**name).unwrap()).await.unwrap();
        let last = last.map(|point| (point.timestamp, point.value.to_bits()));
        assert_eq!(last, expected.last().map(|(_, second, value)| (*second, *value)));
    }
    for (from, to) in [(10, 20), (i64::MIN, 5), (50, i64::MAX), (20, 10), (100, 200)] {
        let expected: Vec<_> =
            model.rows().into_iter().filter(|(_, at, _)| (from..=to).contains(at)).collect();
        assert_eq!(rows(store.get_range(&Selector::All, from..=to).await.unwrap()).await, expected);
        let expected: Vec<_> = expected.into_iter().filter(|(key, ..)| *key == keys[0]).collect();
        let range = store.get_range(&key(&keys[0]), from..=to).await.unwrap();
        assert_eq!(rows(range).await, expected);
    }
    for pattern in ["*", "k1*", "k?2*", &keys[3], "none"] {
        let pattern = KeyPattern::new(pattern);
        let found = store.keys(&pattern).await.unwrap();
        let expected: Vec<_> = model.keys.iter().filter(|key| pattern.matches(key)).collect();
        assert_eq!(found.iter().map(Key::as_str).collect::<Vec<_>>(), expected, "{pattern}");
    }
    assert_eq!(rows(store.get(&key("unknown")).await.unwrap()).await, []);
    assert_eq!(store.last(&Key::new("unknown").unwrap()).await.unwrap(), None);
    let stats = store.stats();
    assert_eq!((stats.failed_blocks, stats.queued_bytes), (0, 0));
    // Nothing is in the servers: a new one sees the same.
    drop((store, other));
    let store = open(second).await;
    assert_eq!(rows(store.get(&Selector::All).await.unwrap()).await, model.rows());
}

fn urls(host: &str) -> [String; 2] {
    [1, 2].map(|node| format!("clickhouse://{host}/default?wait=5ms&node={node}"))
}

/// Many points of one key, and of many keys, in answers of several blocks.
async fn reads_answers_of_many_blocks(host: &str) {
    let store = open(&format!("clickhouse://{host}/default?table=large&rows=3000")).await;
    let names: Vec<_> = (0..5000).map(|n| format!("many.{n}")).collect();
    let mut model = PointModel::default();
    let one = (0..20_000).map(|at| ("one", at, at as f64));
    let puts = one.chain(names.iter().map(|name| (&**name, 7, 0.5)));
    for (key, at, value) in puts.clone() {
        model.points.insert((key.into(), at), value.to_bits());
    }
    model.keys = std::iter::once("one".into()).chain(names.iter().cloned()).collect();
    store.apply(&batch(puts)).await.unwrap();
    assert_eq!(rows(store.get(&Selector::All).await.unwrap()).await, model.rows());
    let mut snapshot = store.get(&key("one")).await.unwrap();
    let mut lens = Vec::new();
    while let Some(block) = snapshot.next_block().await.unwrap() {
        lens.push(block.points.len());
    }
    assert_eq!(lens.iter().sum::<usize>(), 20_000);
    assert!(lens.iter().all(|len| *len <= 4096));
    // 25,000 rows in blocks of 3,000.
    assert_eq!(store.stats().blocks, 9);
}

#[tokio::test]
#[ignore = "starts clickhouse-server"]
async fn debian_node_behaves_as_the_model() {
    let Some(debian) = Debian::single().await else { return };
    behaves_as_the_model(urls(&debian.hosts()).each_ref().map(|url| &**url)).await;
    reads_answers_of_many_blocks(&debian.hosts()).await;
}

#[tokio::test]
#[ignore = "starts chdb"]
async fn modern_engine_behaves_as_the_model() {
    let Some(modern) = Modern::start().await else { return };
    behaves_as_the_model(urls(&modern.host).each_ref().map(|url| &**url)).await;
    reads_answers_of_many_blocks(&modern.host).await;
}

#[tokio::test]
#[ignore = "starts chdb"]
async fn retention_is_a_ttl_and_can_be_changed() {
    let Some(modern) = Modern::start().await else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let url = format!("clickhouse://{}/default?wait=1ms", modern.host);
    let options: ClickHouseOptions = url.parse().unwrap();
    let all = ClickHouseStore::open(options.clone()).await.unwrap();
    let puts = [("a", now - 7200, 1.0), ("a", now - 60, 2.0), ("a", i64::MAX, 3.0), ("b", -5, 4.0)];
    all.apply(&batch(puts)).await.unwrap();
    for keep in [86_400, 3600] {
        let keep = options.clone().keep(Duration::from_secs(keep));
        let store = ClickHouseStore::open(keep).await.unwrap();
        let kept = rows(store.get(&Selector::All).await.unwrap()).await;
        let ttl =
            query(&modern, "SELECT create_table_query FROM system.tables WHERE name = 'metrics'");
        assert!(ttl.await.contains("TTL toDateTime(greatest(least(ts, "));
        let error = store.apply(&batch([("a", now - 90_000, 1.0), ("a", now, 5.0)])).await;
        let error = error.unwrap_err();
        assert!(error.of_put(0).is_some_and(|error| error.to_string().starts_with("older than")));
        assert!(error.of_put(1).is_none());
        assert!(kept.iter().all(|(key, second, _)| key == "a" && *second > now - 86_400));
    }
    // What is not shown is removed too.
    query(&modern, "OPTIMIZE TABLE metrics FINAL").await;
    let seconds: Vec<_> = rows(all.get(&Selector::All).await.unwrap()).await;
    let seconds: Vec<_> = seconds.into_iter().map(|(key, second, _)| (key, second)).collect();
    assert_eq!(seconds, [("a".into(), now - 60), ("a".into(), now), ("a".into(), i64::MAX)]);
}

async fn query(modern: &Modern, statement: &str) -> String {
    super::engine::http(&modern.host, "/", statement).await.unwrap().1
}

#[tokio::test]
#[ignore = "starts clickhouse-server"]
async fn unusable_cluster_is_reported_when_opened() {
    let Some(debian) = Debian::single().await else { return };
    let host = debian.hosts();
    let error = async |url: String| {
        let options: ClickHouseOptions = url.parse().unwrap();
        ClickHouseStore::open(options).await.unwrap_err()
    };
    assert_eq!(error(format!("clickhouse://writer:no@{host}/default")).await.code(), Some(193));
    assert_eq!(error(format!("clickhouse://{host}/missing")).await.code(), Some(81));
    let message = error(format!("clickhouse://{host}/default?cluster=none")).await.to_string();
    assert!(message.contains("knows no cluster none"), "{message}");
    let keep: ClickHouseOptions = format!("clickhouse://{host}/default").parse().unwrap();
    let message = ClickHouseStore::open(keep.keep(Duration::from_secs(60))).await.unwrap_err();
    assert!(message.to_string().contains("TTL came with ClickHouse 19.6"), "{message}");
    debian.nodes[0].query("CREATE TABLE t (a String) ENGINE = Log").await;
    let message = error(format!("clickhouse://{host}/default?table=t")).await.to_string();
    assert!(message.contains("the table t has the engine Log"), "{message}");

    let url =
        format!("clickhouse://writer:s3%20cret%3A%40@{host}/default?compression=lz4&wait=1ms");
    let store = open(&url).await;
    store.apply(&batch([("a", 1, 0.5)])).await.unwrap();
    assert_eq!(rows(store.get(&Selector::All).await.unwrap()).await.len(), 1);
    // A table that is removed is created again.
    debian.nodes[0].query("DROP TABLE metrics").await;
    store.apply(&batch([("a", 2, 0.5)])).await.unwrap();
    assert_eq!(rows(store.get(&Selector::All).await.unwrap()).await.len(), 1);
    debian.nodes[0].query("DROP TABLE metrics").await;
    assert!(store.get(&Selector::All).await.unwrap_err().is_transient());
}

#[tokio::test]
#[ignore = "starts clickhouse-server"]
async fn killed_node_loses_no_acknowledged_put() {
    let Some(mut debian) = Debian::single().await else { return };
    let url = format!("clickhouse://{}/default?wait=1ms", debian.hosts());
    let store = open(&url).await;
    let mut acknowledged = Vec::new();
    for kill in 0..3 {
        for at in 0..20 {
            store.apply(&batch([("a", kill * 100 + at, 0.5)])).await.unwrap();
            acknowledged.push(kill * 100 + at);
        }
        debian.nodes[0].kill();
        // The node is away when this is sent, and back before it is answered with a failure.
        let puts = batch([("a", kill * 100 + 50, 0.5)]);
        let apply = async {
            while let Err(error) = store.apply(&puts).await {
                assert!(error.is_transient());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::join!(apply, debian.nodes[0].start());
        acknowledged.push(kill * 100 + 50);
        let found = rows(store.get(&key("a")).await.unwrap()).await;
        let seconds: Vec<_> = found.into_iter().map(|(_, second, _)| second).collect();
        assert_eq!(seconds, acknowledged);
    }
}
