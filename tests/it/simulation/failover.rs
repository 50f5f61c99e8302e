//! Three servers over one store, of which each is killed in turn.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use metrics_client::{
    MetricsClient, Selector,
    client::{Pipelining, connector_fn},
};
use metrics_server::{Limits, MemoryStore, Store, serve_connection, store::Snapshot};
use tokio::time::{self, Instant};
use turmoil::{
    Sim,
    net::{TcpListener, TcpStream},
};

use super::{
    TICK,
    fault_injector::LATENCY,
    network::{PORT, SERVERS},
};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(600);
const STALL_TIMEOUT: Duration = Duration::from_millis(300);

/// For how long each server is away, and how long all are there between two of them.
const PHASE: Duration = Duration::from_secs(1);

/// How a server goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    /// Its connections are closed, and the next ones are refused.
    Process,
    /// It is silent from one moment to the next.
    Power,
}

#[test]
fn failover_loses_no_acknowledged_put_when_each_server_is_killed_in_turn() {
    for seed in 0..10 {
        for kill in [Kill::Process, Kill::Power] {
            simulate(seed, kill);
        }
    }
}

fn simulate(seed: u64, kill: Kill) {
    fastrand::seed(seed);
    let store = Arc::<MemoryStore>::default();
    let duration = PHASE * (2 * SERVERS.len() as u32 + 1);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(2 * duration)
        .max_message_latency(LATENCY)
        .build();
    for server in SERVERS {
        let store = Arc::clone(&store);
        sim.host(server, move || serve(Arc::clone(&store)));
    }
    let acknowledged = Arc::<Mutex<BTreeMap<i64, f64>>>::default();
    let noted = Arc::clone(&acknowledged);
    let connector =
        connector_fn(
            |address| async move { TcpStream::connect((address.host().unwrap(), PORT)).await },
        );
    sim.client("client0", async move {
        let client = MetricsClient::builder(SERVERS.map(|server| (server, PORT)))
            .connector(connector)
            .pipelining(Pipelining::On)
            .connect_timeout(CONNECT_TIMEOUT)
            .stall_timeout(STALL_TIMEOUT)
            .connect()
            .await?;
        // What finding out takes; and there and back, for connecting and for the call.
        let finding_out = if kill == Kill::Power { STALL_TIMEOUT } else { Duration::ZERO };
        let limit = finding_out + CONNECT_TIMEOUT + 8 * LATENCY;
        let (begun, mut seconds) = (Instant::now(), 0..);
        while begun.elapsed() < duration {
            let puts = seconds.by_ref().take(3).map(|second| {
                let (client, noted) = (client.clone(), Arc::clone(&noted));
                async move {
                    let put = Instant::now();
                    client.put_at("k", second as f64, second).await?;
                    noted.lock().unwrap().insert(second, second as f64);
                    assert!(put.elapsed() <= limit, "{kill:?}, seed {seed}: {:?}", put.elapsed());
                    Ok::<_, metrics_client::Error>(())
                }
            });
            futures_util::future::try_join_all(puts).await?;
            time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
        }
        // The server that the client is at is killed at least once, in whatever order it has them.
        assert!(client.stats().failovers >= 1, "{:?}", client.stats());
        client.close().await?;
        Ok(())
    });
    run(&mut sim, kill);

    let reading = async { store.get(&Selector::All).await?.into_metrics().await };
    let stored = reading.now_or_never().expect("memory does not wait").unwrap();
    let stored = stored.points("k").iter().map(|point| (point.timestamp, point.value));
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() > 100);
    assert_eq!(stored.collect::<BTreeMap<_, _>>(), *acknowledged, "{kill:?}, seed {seed}");
}

async fn serve(store: Arc<MemoryStore>) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (io, _) = listener.accept().await?;
        tokio::spawn(serve_connection(io, Arc::clone(&store), Limits::default()));
    }
}

/// Runs the simulation to its end, and kills each server when it is its turn.
fn run(sim: &mut Sim<'_>, kill: Kill) {
    let mut down = None;
    loop {
        let phase = sim.elapsed().as_millis() / PHASE.as_millis();
        let turn = usize::try_from(phase / 2).unwrap();
        let due = (phase % 2 == 1 && turn < SERVERS.len()).then_some(turn);
        if due != down {
            if let Some(server) = down {
                sim.release("client0", SERVERS[server]);
                sim.bounce(SERVERS[server]);
            }
            if let Some(server) = due {
                if kill == Kill::Power {
                    sim.partition("client0", SERVERS[server]);
                }
                sim.crash(SERVERS[server]);
            }
            down = due;
        }
        if sim.step().unwrap() {
            break;
        }
    }
}
