//! A store against a scripted cluster, in paused time.

use std::{sync::Arc, time::Duration};

use metrics_client::{Key, Point, Selector};
use tokio::time::Instant;

use super::{
    ClickHouseError, ClickHouseOptions, ClickHouseStore, Store,
    row_binary::{put_point, take_row},
};
use crate::store::{KeyPattern, PutBatch, Snapshot, StoreError};

mod peer;

use peer::{Reply, Request, ScriptedCluster};

async fn open(cluster: &ScriptedCluster, url: &str) -> Arc<ClickHouseStore> {
    Arc::new(try_open(cluster, url).await.unwrap())
}

async fn try_open(
    cluster: &ScriptedCluster,
    url: &str,
) -> Result<ClickHouseStore, ClickHouseError> {
    let options: ClickHouseOptions = url.parse().unwrap();
    ClickHouseStore::open_with(options, &cluster.client()).await
}

fn batch(keys: impl IntoIterator<Item = impl Into<String>>) -> PutBatch {
    let mut puts = PutBatch::new();
    for key in keys {
        puts.push(&Key::new(key.into()).unwrap(), Point::new(0.5, 7));
    }
    puts
}

/// The keys and versions of the rows of an insert.
fn rows(request: &Request) -> Vec<(String, u64)> {
    let (mut rest, mut rows) = (&request.rows[..], Vec::new());
    while let Some((key, fixed)) = take_row(&mut rest, 24).unwrap() {
        let version = u64::from_le_bytes(fixed[16..].try_into().unwrap());
        rows.push((String::from_utf8(key.to_vec()).unwrap(), version));
    }
    assert!(rest.is_empty());
    rows
}

/// An answer to a read: points of keys, and the last row unless it is cut.
fn answer(points: &[(&str, i64)], is_complete: bool) -> Vec<u8> {
    let mut rows = Vec::new();
    let last = is_complete.then_some(("", 0));
    for (key, at) in points.iter().copied().chain(last) {
        let mut row = Vec::new();
        put_point(&mut row, key, Point::new(0.5, at), 0);
        rows.extend_from_slice(&row[..row.len() - 8]);
    }
    rows
}

async fn get(store: &ClickHouseStore) -> Result<Vec<(String, i64)>, StoreError> {
    let mut snapshot = store.get(&Selector::All).await?;
    let mut points = Vec::new();
    while let Some(block) = snapshot.next_block().await? {
        points.extend(block.points.iter().map(|point| (block.key.to_string(), point.timestamp)));
    }
    Ok(points)
}

#[tokio::test(start_paused = true)]
async fn batches_of_all_connections_become_one_block() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    let begin = Instant::now();
    let [one, two] = ["a", "b"].map(|key| batch([key]));
    let (one, two) = tokio::join!(store.apply(&one), store.apply(&two));
    one.and(two).unwrap();
    assert_eq!(begin.elapsed(), Duration::from_millis(50));
    let inserts = cluster.inserts();
    let keys: Vec<_> = rows(&inserts[0]).into_iter().map(|(key, _)| key).collect();
    assert_eq!((inserts.len(), keys), (1, vec!["a".into(), "b".into()]));
    let settings = &inserts[0].settings;
    assert_eq!(settings["insert_deduplicate"], "1");
    assert_eq!(settings["async_insert"], "0");
    assert_eq!(settings["database"], "default");
    assert!(!settings.contains_key("insert_quorum"));
}

#[tokio::test(start_paused = true)]
async fn full_block_does_not_wait_and_one_is_in_flight() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a?rows=100&wait=10s").await;
    let begin = Instant::now();
    let puts = batch((0..60).map(|n| format!("k.{n}")));
    let applies: Vec<_> = (0..5)
        .map(|_| {
            let (store, puts) = (Arc::clone(&store), puts.clone());
            tokio::spawn(async move { store.apply(&puts).await })
        })
        .collect();
    // A batch that is larger than a block is split.
    store.apply(&batch((0..340).map(|n| format!("k.{n}")))).await.unwrap();
    for apply in applies {
        apply.await.unwrap().unwrap();
    }
    let lens: Vec<_> = cluster.inserts().iter().map(|insert| rows(insert).len()).collect();
    assert_eq!(lens.iter().sum::<usize>(), 5 * 60 + 340);
    assert!(lens.iter().all(|len| *len <= 100), "{lens:?}");
    // Only the last one is not full.
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    assert_eq!(cluster.max_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn retried_block_has_identical_bytes() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    for cause in [
        Reply::Code(252),
        Reply::Code(241),
        Reply::Code(242),
        Reply::Code(164),
        Reply::Code(319),
        Reply::Code(286),
        Reply::Close,
        Reply::Cut(b"Co".to_vec()),
    ] {
        let before = cluster.inserts().len();
        cluster.script([cause.clone(), cause.clone()]);
        store.apply(&batch(["a", "b"])).await.unwrap();
        let inserts = cluster.inserts().split_off(before);
        assert!(inserts.len() >= 3, "{cause:?}: {}", inserts.len());
        assert!(inserts.iter().all(|insert| *insert == inserts[0]), "{cause:?}");
    }
    assert_eq!(store.stats().failed_blocks, 0);
    assert_eq!(store.stats().rows, 16);
}

#[tokio::test(start_paused = true)]
async fn later_put_has_a_greater_version() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a?node=1").await;
    let mut last = 0;
    for keys in [vec!["a", "b", "a"], vec!["a"], vec!["b", "b"]] {
        store.apply(&batch(keys)).await.unwrap();
        for (_, version) in rows(cluster.inserts().last().unwrap()) {
            assert!(version > last && version % 512 == 1);
            last = version;
        }
    }
    // Also than those of a server whose clock was ahead.
    let ahead = last + ((3600 * 1_000_000 * 8) << 9);
    cluster.on_select("SELECT max(ver)", Reply::Body(format!("{ahead}\n").into()));
    let behind = open(&cluster, "clickhouse://a?node=0").await;
    behind.apply(&batch(["a"])).await.unwrap();
    assert!(rows(cluster.inserts().last().unwrap())[0].1 > ahead);
}

#[tokio::test(start_paused = true)]
async fn failing_cluster_rejects_puts_until_it_works() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    cluster.script(std::iter::repeat_n(Reply::Code(252), 1000));
    let begin = Instant::now();
    let error = store.apply(&batch(["a"])).await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "ClickHouse failed with code 252");
    // Before the timeout of a server.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let before = cluster.inserts().len();
    assert!(store.apply(&batch(["a"])).await.unwrap_err().is_transient());
    assert_eq!(cluster.inserts().len(), before, "no request while it backs off");
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(store.apply(&batch(["a"])).await.unwrap_err().is_transient());
    }
    // Ten seconds, with a backoff of up to five.
    let attempts = cluster.inserts().len() - before;
    assert!((2..40).contains(&attempts), "{attempts}");
    cluster.clear_script();
    tokio::time::sleep(Duration::from_secs(5)).await;
    store.apply(&batch(["a"])).await.unwrap();
    assert_eq!(store.stats().queued_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn host_that_hangs_or_is_gone_is_left() {
    let cluster = ScriptedCluster::default();
    cluster.set_down("a:8123", true);
    let store = open(&cluster, "clickhouse://a,b,c").await;
    store.apply(&batch(["a"])).await.unwrap();
    cluster.set_down("b:8123", true);
    cluster.set_down("c:8123", true);
    cluster.set_down("a:8123", false);
    // Connections that exist still work, so their host has to fail.
    cluster.script([Reply::Close]);
    store.apply(&batch(["a"])).await.unwrap();
    assert_eq!(cluster.inserts().last().unwrap().host, "a:8123");
    cluster.set_down("b:8123", false);
    cluster.script([Reply::Hang]);
    store.apply(&batch(["a"])).await.unwrap();
    assert_eq!(cluster.inserts().last().unwrap().host, "b:8123");
}

#[tokio::test(start_paused = true)]
async fn cluster_that_is_away_at_first_is_used_later() {
    let cluster = ScriptedCluster::default();
    cluster.set_down("a:8123", true);
    let store = open(&cluster, "clickhouse://a").await;
    assert!(store.apply(&batch(["a"])).await.unwrap_err().is_transient());
    assert!(get(&store).await.unwrap_err().is_transient());
    cluster.set_down("a:8123", false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    store.apply(&batch(["a"])).await.unwrap();

    let cluster = ScriptedCluster::default();
    cluster.on_select("system.settings", Reply::Code(516));
    assert_eq!(try_open(&cluster, "clickhouse://a").await.unwrap_err().code(), Some(516));
}

#[tokio::test(start_paused = true)]
async fn waiting_puts_are_bounded_in_memory() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a?queue_mib=1&rows=1000").await;
    cluster.script([Reply::Hang]);
    let puts = batch((0..1000).map(|n| format!("a.key.of.some.length.{n}")));
    let (mut tasks, mut rejected) = (Vec::new(), 0);
    for _ in 0..100 {
        let (store, puts) = (Arc::clone(&store), puts.clone());
        tasks.push(tokio::spawn(async move { store.apply(&puts).await }));
    }
    tokio::task::yield_now().await;
    assert!(store.stats().queued_bytes <= 1 << 20);
    for task in tasks {
        let outcome = task.await.unwrap();
        rejected += usize::from(outcome.is_err_and(|error| error.is_transient()));
    }
    assert!((50..100).contains(&rejected), "{rejected}");
    assert_eq!(store.stats().queued_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn abandoned_block_is_not_retried() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    cluster.script(std::iter::repeat_n(Reply::Code(252), 3));
    let puts = batch(["a"]);
    let apply = tokio::time::timeout(Duration::from_millis(55), store.apply(&puts));
    apply.await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(cluster.inserts().len() < 3);
    assert_eq!(store.stats().queued_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn keys_are_stored_before_their_points_and_once() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    store.apply(&batch(["b", "a", "b"])).await.unwrap();
    let requests = cluster.requests("INSERT");
    assert!(requests[0].statement.starts_with("INSERT INTO default.metrics_keys (k, inv)"));
    assert_eq!(requests.len(), 2);
    // The key, and the inverse of the version of its first put.
    let versions = rows(&requests[1]);
    let mut expected = Vec::new();
    for (key, version) in [&versions[1], &versions[0]] {
        expected.push(key.len() as u8);
        expected.extend_from_slice(key.as_bytes());
        expected.extend_from_slice(&(u64::MAX - version).to_le_bytes());
    }
    assert_eq!(requests[0].rows, expected);
    store.apply(&batch(["a", "b"])).await.unwrap();
    assert_eq!(cluster.requests("INSERT").len(), 3);
    // Keys of a block that failed are not known.
    cluster.script([Reply::Code(252)]);
    store.apply(&batch(["c"])).await.unwrap();
    assert_eq!(cluster.requests("INSERT").len(), 7);
}

#[tokio::test(start_paused = true)]
async fn answer_without_its_last_row_is_an_error() {
    let cluster = ScriptedCluster::default();
    let store = open(&cluster, "clickhouse://a").await;
    let points = [("a", 1), ("a", 2), ("b", 1)];
    cluster.on_select("FINAL", Reply::Body(answer(&points, true)));
    let expected: Vec<_> = points.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect();
    assert_eq!(get(&store).await.unwrap(), expected);
    let exception =
        b"Code: 241, e.displayText() = DB::Exception: Memory limit, e.what() = DB::Exception\n";
    let whole = answer(&points, false);
    let mut excess = answer(&points, true);
    excess.extend(answer(&points, false));
    for body in [
        Vec::new(),
        whole.clone(),
        whole[..whole.len() - 1].to_vec(),
        // As ClickHouse 18.16 ends an answer that fails: as any other.
        [&whole, &exception[..]].concat(),
        [&whole[..whole.len() - 5], &exception[..]].concat(),
        exception.to_vec(),
        excess,
        b"\xff\xff\xff\xff".to_vec(),
        answer(&[("a b", 1)], true),
    ] {
        cluster.on_select("FINAL", Reply::Body(body.clone()));
        let error = get(&store).await.unwrap_err();
        assert!(error.is_transient(), "{:?}", String::from_utf8_lossy(&body));
    }
    cluster.on_select("FINAL", Reply::Cut(answer(&points, true)));
    assert!(get(&store).await.unwrap_err().is_transient());
    cluster.on_select("FINAL", Reply::Code(241));
    assert!(get(&store).await.unwrap_err().is_transient());

    let keys = |rows: &[u8]| cluster.on_select("_keys", Reply::Body(rows.to_vec()));
    keys(b"\x01b\x01a\x00");
    let found = store.keys(&KeyPattern::new("a*")).await.unwrap();
    assert_eq!(found, [Key::new("a").unwrap()]);
    for cut in [&b"\x01b\x01a"[..], b"\x01b\x01", b"", b"\x00\x01a", b"\x03a b\x00"] {
        keys(cut);
        assert!(store.keys(&KeyPattern::new("*")).await.unwrap_err().is_transient());
    }
}

#[tokio::test(start_paused = true)]
async fn quorum_is_awaited_and_read_and_checked_after_a_retry() {
    let cluster = ScriptedCluster::default();
    cluster.on_select("system.clusters", Reply::Body(b"1\t1\n".into()));
    let store = open(&cluster, "clickhouse://a?cluster=main&quorum=2").await;
    store.apply(&batch(["a"])).await.unwrap();
    let settings = &cluster.inserts()[0].settings;
    assert_eq!(settings["insert_quorum"], "2");
    assert_eq!(settings["insert_quorum_parallel"], "0");
    assert_eq!(settings["insert_quorum_timeout"], "4000");
    assert_eq!(settings["insert_distributed_sync"], "1");
    cluster.on_select("FINAL", Reply::Body(answer(&[], true)));
    get(&store).await.unwrap();
    let read = cluster.requests("FINAL").remove(0);
    assert_eq!(read.settings["select_sequential_consistency"], "1");
    assert_eq!(read.settings["skip_unavailable_shards"], "0");
    assert_eq!(cluster.requests("AND ver >=").len(), 0);

    // ClickHouse has the block already, but not the quorum.
    cluster.script([Reply::Code(319)]);
    cluster.on_select("AND ver >=", Reply::Body(b"0\n".into()));
    let error = store.apply(&batch(["a"])).await.unwrap_err();
    assert!(error.is_transient());
    let version = rows(cluster.inserts().last().unwrap())[0].1;
    let check = cluster.requests("AND ver >=").remove(0);
    assert!(check.statement.ends_with(&format!("k = unhex('61') AND ts = 7 AND ver >= {version}")));
    assert_eq!(check.settings["select_sequential_consistency"], "1");
    cluster.on_select("AND ver >=", Reply::Body(b"1\n".into()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.script([Reply::Code(319)]);
    let _ = store.apply(&batch(["a"])).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.script([]);
    store.apply(&batch(["a"])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shards_fail_and_work_by_themselves() {
    let cluster = ScriptedCluster::default();
    cluster.on_select("system.clusters", Reply::Body(b"1\t1\n2\t3\n".into()));
    let store = open(&cluster, "clickhouse://a?cluster=main&wait=1ms").await;
    store.apply(&batch((0..400).map(|n| format!("k.{n}")))).await.unwrap();
    let mut inserts = cluster.inserts();
    inserts.sort_by_key(|insert| rows(insert).len());
    let lens: Vec<_> = inserts.iter().map(|insert| rows(insert).len()).collect();
    // A quarter and three, as the weights say.
    assert_eq!((lens.len(), lens[0] + lens[1]), (2, 400));
    assert!((70..130).contains(&lens[0]), "{lens:?}");
    let [first, second] = [0, 1].map(|shard| rows(&inserts[shard])[0].0.clone());
    cluster.script(std::iter::repeat_n(Reply::Hang, 1));
    let (stuck, other) = (batch([first.clone()]), batch([second.clone()]));
    let hanging = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.apply(&stuck).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    store.apply(&other).await.unwrap();
    assert!(!hanging.is_finished());
    hanging.await.unwrap().unwrap();
    // Puts of both fail if one fails.
    cluster.script([Reply::Hang, Reply::Hang]);
    let stuck = batch([first.clone()]);
    assert!(store.apply(&stuck).await.unwrap_err().is_transient());
    assert!(store.apply(&batch([second.clone(), first])).await.unwrap_err().is_transient());
    store.apply(&batch([second])).await.unwrap();
}
