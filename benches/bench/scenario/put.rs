//! Single puts, each awaited.

use std::{fmt::Debug, io, net::SocketAddr, rc::Rc, time::Instant};

use metrics_client::MetricsClient;
use tokio::runtime::Runtime;

use super::{Candidate, Comparison, Comparisons};
use crate::{
    baseline::{
        blocking::BlockingClient, framed::BareFramed, mpsc::MpscClient, redis::RedisClient,
    },
    support::server_process::{Behavior, ServerProcess},
    support::workload::{self, Put},
};

/// How often each caller puts in one iteration.
const PUTS_BY_CALLER: u64 = 32;

/// One caller alone; and many callers of one connection, each awaiting its own puts, on both kinds of
/// runtime.
pub(super) fn comparisons() -> Comparisons {
    let peers = Peers::start()?;
    let mut comparisons = vec![round_trip(&peers)?];
    // A socket that does no client work is no more than 1.3 times as fast as redis-rs by 8 callers, and
    // 3 times by 64 (the rows "raw socket"), so rates have bars where they can tell clients apart.
    // Processor time does not depend on when the machine wakes up.
    let bars = [
        ("current-thread", 0, [Some(1.0), None, None, Some(5.0)], [1.0, 1.0, 1.0 / 1.8, 1.0 / 4.0]),
        (
            "2 workers",
            2,
            [Some(1.0), None, None, Some(3.0)],
            [1.0, 1.0 / 1.3, 1.0 / 3.0, 1.0 / 3.3],
        ),
    ];
    for (name, workers, rates, cpus) in bars {
        for (callers, (rate, cpu)) in workload::CALLERS.into_iter().zip(rates.into_iter().zip(cpus))
        {
            let group = Callers { count: callers, runtime: super::runtime(workers)? };
            let name = format!("put by {callers}, {name}");
            comparisons.push(group.comparison(name, &peers, rate, Some(cpu)));
        }
    }
    Ok(comparisons)
}

/// Compares puts of `callers` callers of one connection, on a current-thread runtime.
pub(crate) fn by(callers: usize, peers: &Peers) -> io::Result<Comparison> {
    let group = Callers { count: callers, runtime: super::runtime(0)? };
    Ok(group.comparison(format!("put by {callers}"), peers, None, None))
}

/// Who answers.
pub(crate) struct Peers {
    pub(super) acknowledging: Rc<ServerProcess>,
    pub(super) redis: Rc<ServerProcess>,
}

impl Peers {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {
            acknowledging: Rc::new(ServerProcess::start(Behavior::Acknowledge)?),
            redis: Rc::new(ServerProcess::start(Behavior::Redis)?),
        })
    }
}

/// Callers that share a connection.
struct Callers {
    count: usize,
    runtime: Rc<Runtime>,
}

impl Callers {
    fn comparison(
        &self,
        name: String,
        peers: &Peers,
        min_ratio: Option<f64>,
        max_cpu_ratio: Option<f64>,
    ) -> Comparison {
        let Peers { acknowledging, redis } = peers;
        let baseline = self.candidate("redis-rs", redis, RedisClient::connect);
        let candidates = vec![
            self.candidate("metrics-client", acknowledging, super::connect),
            self.candidate("mpsc + oneshot", acknowledging, MpscClient::connect).min_ratio(1.0),
            Candidate { min_ratio, max_cpu_ratio, ..baseline },
            self.raw_socket("raw socket", acknowledging, BlockingClient::connect),
            self.raw_socket("raw socket, busy-poll", acknowledging, BlockingClient::connect_awake),
        ];
        Comparison { name, elements: PUTS_BY_CALLER * self.count as u64, candidates }
    }

    /// The most that the machine can do: all puts in one write, prepared in advance, and one wait for all
    /// answers, which are not handed to callers.
    fn raw_socket(
        &self,
        name: &'static str,
        peer: &Rc<ServerProcess>,
        connect: fn(SocketAddr) -> io::Result<BlockingClient>,
    ) -> Candidate {
        let callers = self.count;
        let (puts, answers) = (workload::put_text(callers), callers * b"ok\n\n".len());
        Candidate::connected(
            name,
            &self.runtime,
            peer,
            async move |addr| connect(addr),
            async move |client, iterations| {
                let start = Instant::now();
                for _ in 0..PUTS_BY_CALLER * iterations {
                    client.ping(&puts, answers).expect("the peer acknowledges");
                }
                start.elapsed()
            },
        )
    }

    fn candidate<C: Put + Clone, E: Debug>(
        &self,
        name: &'static str,
        peer: &Rc<ServerProcess>,
        connect: impl AsyncFn(SocketAddr) -> Result<C, E> + 'static,
    ) -> Candidate {
        let callers = self.count;
        let puts = PUTS_BY_CALLER * callers as u64;
        Candidate::connected(name, &self.runtime, peer, connect, async move |client, iterations| {
            workload::put_by(client, callers, puts).await; // warms the connection up
            workload::put_by(client, callers, puts * iterations).await
        })
    }
}

fn round_trip(peers: &Peers) -> io::Result<Comparison> {
    let runtime = super::runtime(0)?;
    let peer = &peers.acknowledging;
    let candidates = vec![
        lone("metrics-client", &runtime, peer, super::connect),
        // At most 1.05 times its time.
        lone("bare Framed", &runtime, peer, BareFramed::connect).min_ratio(1.0 / 1.05),
    ];
    Ok(Comparison { name: "round trip".into(), elements: PUTS_BY_CALLER, candidates })
}

/// One caller, in a task of its own, as callers in a service are. (In the task that the runtime began
/// with, a wake-up from another task costs two system calls more.)
fn lone<C: Put, E: Debug>(
    name: &'static str,
    runtime: &Rc<Runtime>,
    peer: &Rc<ServerProcess>,
    connect: impl AsyncFn(SocketAddr) -> Result<C, E> + 'static,
) -> Candidate {
    let connect = async move |addr| connect(addr).await.map(Some);
    Candidate::connected(name, runtime, peer, connect, async |client, iterations| {
        let mut caller = client.take().expect("each turn connects");
        let task = tokio::spawn(async move {
            workload::put_alone(&mut caller, PUTS_BY_CALLER).await; // warms the connection up
            workload::put_alone(&mut caller, PUTS_BY_CALLER * iterations).await
        });
        task.await.expect("each put is acknowledged")
    })
}

impl Put for MetricsClient {
    async fn put(&mut self, value: f64) {
        MetricsClient::put(self, workload::KEY, value).await.expect("the peer acknowledges");
    }
}
