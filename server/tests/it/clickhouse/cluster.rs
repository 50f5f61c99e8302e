//! Two shards of two replicas, with ZooKeeper.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics_client::{Metrics, MetricsClient, Sample};
use metrics_server::{
    Server, Store,
    store::{ClickHouseOptions, ClickHouseStore},
};
use tokio::runtime::Runtime;

use super::{batch, engine::Debian, key, open, rows, single::behaves_as_the_model};

#[tokio::test]
#[ignore = "starts clickhouse-server and ZooKeeper"]
async fn cluster_behaves_as_the_model() {
    let Some(debian) = Debian::cluster().await else { return };
    let hosts: Vec<_> = debian.hosts().split(',').map(str::to_owned).collect();
    // Each server has a replica of another shard.
    let [first, second] = [&hosts[1], &hosts[2]]
        .map(|host| format!("clickhouse://{host}/default?cluster=main&quorum=2&wait=5ms"));
    behaves_as_the_model([&first, &second]).await;
}

#[tokio::test]
#[ignore = "starts clickhouse-server and ZooKeeper"]
async fn every_server_reads_what_was_acknowledged() {
    let Some(debian) = Debian::cluster().await else { return };
    let hosts: Vec<_> = debian.hosts().split(',').map(str::to_owned).collect();
    let mut stores = Vec::new();
    for host in &hosts {
        let url = format!("clickhouse://{host}/default?cluster=main&quorum=2&wait=1ms");
        stores.push(open(&url).await);
    }
    let mut stale = 0;
    for round in 0..1000 {
        let name = format!("k.{}", round % 7);
        let [writer, reader] = [0, 1].map(|_| &stores[fastrand::usize(..stores.len())]);
        writer.apply(&batch([(&*name, 1, f64::from(round))])).await.unwrap();
        let found = rows(reader.get(&key(&name)).await.unwrap()).await;
        stale += usize::from(found != [(name, 1, f64::from(round).to_bits())]);
    }
    assert_eq!(stale, 0);
}

/// A server with a runtime of its own, so that it can be killed.
struct KillableServer {
    runtime: Option<Runtime>,
    addr: SocketAddr,
}

impl KillableServer {
    fn start(url: &str, addr: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let options: ClickHouseOptions = url.parse().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let store = ClickHouseStore::open(options).await.unwrap();
            let server = Server::bind(addr).await.unwrap().store(store);
            sender.send(server.local_addr()).unwrap();
            server.serve().await;
        });
        Self { addr: receiver.recv().unwrap(), runtime: Some(runtime) }
    }

    /// Ends all its tasks at once, also between an insert and its `ok`.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for KillableServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a client knows: each point has the last value that was acknowledged, or one of a put that was not.
#[derive(Default)]
struct Acknowledged(BTreeMap<(String, i64), Vec<f64>>);

impl Acknowledged {
    fn put(&mut self, key: &str, second: i64, value: f64, is_acknowledged: bool) {
        let values = self.0.entry((key.into(), second)).or_default();
        if is_acknowledged {
            values.clear();
        }
        values.push(value);
    }

    /// Returns the points that are missing, and those that are stale.
    fn differences(&self, found: &Metrics, key: Option<&str>) -> Vec<(String, i64)> {
        let mine = self.0.iter().filter(|((name, _), _)| key.is_none_or(|key| key == name));
        let value = |name: &str, second| {
            let point = found.points(name).iter().find(|point| point.timestamp == second);
            point.map(|point| point.value)
        };
        let wrong = mine
            .filter(|((name, at), values)| value(name, *at).is_none_or(|v| !values.contains(&v)));
        wrong.map(|(point, _)| point.clone()).collect()
    }
}

/// Four clients through three servers, while replicas, a shard and servers fail and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts clickhouse-server and ZooKeeper"]
async fn no_fault_loses_or_outdates_an_acknowledged_put() {
    let Some(mut debian) = Debian::cluster().await else { return };
    let url = format!("clickhouse://{}/default?cluster=main&quorum=2", debian.hosts());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut servers: Vec<_> = (0..3).map(|_| KillableServer::start(&url, any)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.addr.to_string()).collect();
    let rounds = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    // A key of all clients: whoever holds the lock puts the next value, through any server.
    let shared = Arc::new(tokio::sync::Mutex::new(0.0));
    let clients = (0..4).map(|client| {
        let (rounds, stop) = (Arc::clone(&rounds), Arc::clone(&stop));
        let (mut addresses, shared) = (addresses.clone(), Arc::clone(&shared));
        addresses.rotate_left(client % 3);
        tokio::spawn(async move {
            let builder = MetricsClient::builder(addresses);
            let connected =
                builder.request_timeout(Duration::from_secs(120)).connect().await.unwrap();
            let mut model = Acknowledged::default();
            let mut stale = Vec::new();
            let mut unacknowledged = 0;
            for round in 0_i64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("c{client}.{}", round % 5);
                let samples: Vec<_> = (0..40)
                    .map(|n| {
                        Sample::new(&*key, (round * 100 + n) as f64, (round * 7 + n) % 500).unwrap()
                    })
                    .collect();
                let stored = connected.put_all(samples.clone()).await.is_ok();
                unacknowledged += usize::from(!stored);
                for sample in samples {
                    let point = sample.point;
                    model.put(&key, point.timestamp, point.value, stored);
                }
                {
                    let mut last = shared.lock().await;
                    let next = *last + 1.0;
                    if connected.put_at("shared", next, 1).await.is_ok() {
                        *last = next;
                    }
                    // Also a put without an answer may be stored.
                    let found = connected.get("shared").await;
                    if let Ok(found) = found {
                        let value = found.points("shared").first().map(|point| point.value);
                        if value != Some(next) && value != Some(*last) {
                            stale.push(("shared".into(), round));
                        }
                    }
                }
                if let Ok(found) = connected.get(&*key).await {
                    stale.extend(model.differences(&found, Some(&key)));
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            (model, stale, unacknowledged)
        })
    });
    let clients: Vec<_> = clients.collect();
    let advance = async |count: u64| {
        let goal = rounds.load(Ordering::Relaxed) + count;
        let begin = Instant::now();
        while rounds.load(Ordering::Relaxed) < goal {
            assert!(begin.elapsed() < Duration::from_secs(120), "nothing is stored any more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    advance(20).await;
    for turn in 0..3 {
        // A replica is killed, and comes back.
        let replica = fastrand::usize(..4);
        debian.nodes[replica].kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        debian.nodes[replica].start().await;
        advance(10).await;
        // A server is killed under load; another one takes its place.
        let address = servers[turn].addr;
        servers[turn].kill();
        advance(10).await;
        servers[turn] = KillableServer::start(&url, address);
        advance(10).await;
    }
    // A shard is away.
    debian.nodes[2].kill();
    debian.nodes[3].kill();
    tokio::time::sleep(Duration::from_secs(8)).await;
    debian.nodes[2].start().await;
    debian.nodes[3].start().await;
    advance(20).await;
    stop.store(true, Ordering::Relaxed);
    let (mut points, mut outcomes) = (0, Vec::new());
    for client in clients {
        outcomes.push(client.await.unwrap());
    }
    // Through each server.
    for address in &addresses {
        let reader = MetricsClient::connect(&**address).await.unwrap();
        let found = reader.get_all().await.unwrap();
        for (model, stale, _) in &outcomes {
            assert_eq!(model.differences(&found, None), []);
            assert_eq!(*stale, []);
            points += model.0.len();
        }
    }
    let unacknowledged: usize = outcomes.iter().map(|(_, _, count)| count).sum();
    let rounds = rounds.load(Ordering::Relaxed);
    println!(
        "{rounds} rounds, {points} points compared, {unacknowledged} batches without an answer"
    );
}
