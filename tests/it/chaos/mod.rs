//! Servers and networks that fail.

use std::{env, sync::Arc, time::Duration};

use fastrand::Rng;
use metrics_client::{
    Error, MetricsClient,
    client::{Pipelining, ReconnectPolicy, WhenFull},
};
use tokio::{
    join,
    net::TcpListener,
    task::JoinSet,
    time::{self, Instant},
};

use self::{proxy::Proxy, workload::ChaosAgent};
use crate::{
    oracle::{self, Oracle, SharedOracle},
    peer::MockNetwork,
};

mod lost_wakeup;
mod proxy;
mod workload;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn deadline_of_a_call_behind_an_unanswered_one() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::Off).stall_timeout(60 * SECOND);
    let client = builder.request_timeout(5 * SECOND).connect().await.unwrap();
    let mut peer = network.accept().await;

    let (first, ()) = join!(client.put_at("a", 1.0, 1), peer.expect("put a 1.0 1\n"));
    assert!(matches!(first, Err(Error::Timeout { .. })), "{first:?}");

    let asked = Instant::now();
    let second = client.put_at("a", 2.0, 2).await;
    assert!(matches!(second, Err(Error::Timeout { .. })), "{second:?}");
    assert!(asked.elapsed() < 6 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stall_is_noticed_before_a_later_deadline() {
    let (mut network, builder) = MockNetwork::new();
    let builder = builder.pipelining(Pipelining::Off).stall_timeout(SECOND);
    let client = builder.request_timeout(60 * SECOND).connect().await.unwrap();
    let mut peer = network.accept().await;

    let asked = Instant::now();
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        network.accept().await.answer("put a 1.0 1\n", "ok\n\n").await;
    };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), server);
    put.unwrap();
    assert!(asked.elapsed() < 2 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn guarantees_hold_on_a_bad_network_after_probing() {
    survive(Pipelining::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guarantees_hold_on_a_bad_network_pipelined() {
    survive(Pipelining::On).await;
}

/// How many networks each test tries, unless this variable says otherwise.
const NETWORKS: (&str, u64) = ("METRICS_TEST_CHAOS_RUNS", 4);

/// The seed of the first network, instead of a new one each time.
const SEED: &str = "METRICS_TEST_CHAOS_SEED";

/// Runs several bad networks concurrently.
async fn survive(pipelining: Pipelining) {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number(SEED).unwrap_or_else(|| fastrand::u64(..));
    let mut networks = JoinSet::new();
    for at in 0..number(NETWORKS.0).unwrap_or(NETWORKS.1) {
        let seed = first.wrapping_add(at);
        networks.spawn(async move {
            // In a task of its own, so that the seed is printed also if it panics.
            let survived = tokio::spawn(survive_network(pipelining, seed)).await;
            assert!(survived.is_ok(), "{SEED}={seed} {}=1 with {pipelining:?}", NETWORKS.0);
        });
    }
    while let Some(survived) = networks.join_next().await {
        survived.unwrap();
    }
}

const AGENTS: u32 = 8;
const CALLS: usize = 40;

async fn survive_network(pipelining: Pipelining, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let oracle = SharedOracle::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(oracle::serve(listener, Arc::clone(&oracle)));
    let proxy = Proxy::start(server, rng.fork()).await;
    let client = MetricsClient::builder(proxy.address)
        .pipelining(pipelining)
        .request_timeout(Duration::from_millis(300))
        .stall_timeout(Duration::from_millis(rng.u64(100..400)))
        .reconnect(ReconnectPolicy::backoff(Duration::from_millis(5), Duration::from_millis(50)))
        .max_in_flight(rng.usize(1..40))
        .max_buffered_bytes(rng.usize(50..2000))
        .when_full(*rng.choice([&WhenFull::Wait, &WhenFull::Fail]).unwrap())
        .resend_unacknowledged(rng.u8(..4) > 0)
        .connect_lazy()
        .unwrap();

    let mut agents = JoinSet::new();
    for id in 0..AGENTS {
        let mut agent = ChaosAgent::new(client.clone(), id, rng.fork());
        agents.spawn(async move {
            for _ in 0..CALLS {
                agent.call().await;
            }
            agent
        });
    }
    let agents = all(agents).await;

    proxy.set_calm(true);
    let mut recovering = JoinSet::new();
    for mut agent in agents {
        recovering.spawn(async move {
            agent.recover().await;
            agent
        });
    }
    let agents = all(recovering).await;
    let closed = time::timeout(Duration::from_secs(10), client.close()).await;
    closed.expect("the client does not close").unwrap();

    let oracle = oracle.lock().unwrap();
    agents.iter().for_each(|agent| agent.check_stored_puts(&oracle));
    check_order(&oracle);
    check_stats(&client, &agents);
}

async fn all(mut tasks: JoinSet<ChaosAgent>) -> Vec<ChaosAgent> {
    let mut agents = Vec::new();
    while let Some(agent) = tasks.join_next().await {
        agents.push(agent.unwrap());
    }
    agents
}

/// On one connection an agent's puts come in the order in which they were made, each once; but for
/// the one with which the client has asked whether puts are stored.
fn check_order(oracle: &Oracle) {
    let mut checked = oracle.checked.clone();
    for (at, put) in oracle.log.iter().enumerate() {
        if checked.remove(&put.connection) {
            continue;
        }
        let agent = |key: &str| key.split_once('.').unwrap().0.to_string();
        let next = oracle.log[at + 1..]
            .iter()
            .find(|next| next.connection == put.connection && agent(&next.key) == agent(&put.key));
        assert!(next.is_none_or(|next| next.value > put.value), "{next:?} after {put:?}");
    }
}

/// Every request has one outcome, and no call returned `Ok` without an acknowledgement.
fn check_stats(client: &MetricsClient, agents: &[ChaosAgent]) {
    let stats = client.stats();
    assert_eq!((stats.in_flight, stats.queued), (0, 0));
    let ended = stats.acknowledged + stats.rejected + stats.failed + stats.cancelled;
    assert_eq!(stats.accepted, ended);
    assert_eq!(stats.rejected, 0);
    let puts = agents.iter().map(|agent| agent.puts().0).sum::<u64>();
    let stored = agents.iter().map(|agent| agent.puts().1).sum::<u64>();
    let gets = agents.iter().map(|agent| agent.gets).sum::<u64>();
    assert!(stats.accepted <= puts + gets, "{stats:?}");
    assert!(stored <= stats.acknowledged, "{stats:?}");
}
