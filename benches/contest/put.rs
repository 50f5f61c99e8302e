//! Single puts, each awaited.

use std::{error::Error, io, net::SocketAddr, rc::Rc};

use metrics_client::{MetricsClient, Pipelining};
use tokio::runtime::{self, Runtime};

use super::{Contender, Contest, Contests};
use crate::{
    baseline::{framed::BareFramed, mpsc::MpscClient, redis::RedisClient},
    peer::{Peer, Role},
    workload::{self, Put},
};

/// How often each caller puts in one iteration.
const PUTS_BY_CALLER: u64 = 64;

/// One caller alone; and many callers of one connection, each awaiting its own puts, on both kinds of
/// runtime.
pub(crate) fn contests() -> Contests {
    let peers = Peers {
        acknowledging: Rc::new(Peer::start(Role::Acknowledge)?),
        redis: Rc::new(Peer::start(Role::Redis)?),
    };
    let mut contests = vec![round_trip(&peers)?];
    for (name, workers, bars) in
        [("current-thread", 0, [1.0, 2.0, 4.0, 5.0]), ("2 workers", 2, [1.0, 1.3, 2.0, 3.0])]
    {
        for (callers, bar) in workload::CALLERS.into_iter().zip(bars) {
            let crowd = Crowd { callers, runtime: Rc::new(runtime(workers)?) };
            let name = format!("put by {callers}, {name}");
            contests.push(crowd.contest(name, &peers, bar)?);
        }
    }
    Ok(contests)
}

/// Who answers.
struct Peers {
    acknowledging: Rc<Peer>,
    redis: Rc<Peer>,
}

/// Callers that share a connection.
struct Crowd {
    callers: usize,
    runtime: Rc<Runtime>,
}

impl Crowd {
    fn contest(self, name: String, peers: &Peers, bar: f64) -> Result<Contest, Box<dyn Error>> {
        let Peers { acknowledging, redis } = peers;
        let ours = self.runtime.block_on(connect(acknowledging.addr()))?;
        let mpsc = self.runtime.block_on(MpscClient::connect(acknowledging.addr()))?;
        let redis_rs = self.runtime.block_on(RedisClient::connect(redis.addr()))?;
        let contenders = vec![
            self.contender("metrics-client", ours, acknowledging),
            self.contender("mpsc + oneshot", mpsc, acknowledging).bar(1.0),
            self.contender("redis-rs", redis_rs, redis).bar(bar),
        ];
        Ok(Contest { name, elements: self.puts(), contenders })
    }

    fn contender(
        &self,
        name: &'static str,
        client: impl Put + Clone,
        peer: &Rc<Peer>,
    ) -> Contender {
        let (callers, puts) = (self.callers, self.puts());
        let (runtime, peer) = (Rc::clone(&self.runtime), Rc::clone(peer));
        Contender::new(name, move |iterations| {
            let _serves = &peer;
            runtime.block_on(workload::put_by(&client, callers, puts * iterations))
        })
    }

    fn puts(&self) -> u64 {
        PUTS_BY_CALLER * self.callers as u64
    }
}

fn round_trip(peers: &Peers) -> Result<Contest, Box<dyn Error>> {
    let runtime = Rc::new(runtime(0)?);
    let ours = runtime.block_on(connect(peers.acknowledging.addr()))?;
    let framed = runtime.block_on(BareFramed::connect(peers.acknowledging.addr()))?;
    let ours = lone("metrics-client", ours, &runtime, &peers.acknowledging);
    let framed = lone("bare Framed", framed, &runtime, &peers.acknowledging);
    let contenders = vec![ours, framed];
    Ok(Contest { name: "round trip".into(), elements: PUTS_BY_CALLER, contenders })
}

/// One caller, in the task that the runtime began with.
fn lone(
    name: &'static str,
    mut client: impl Put,
    runtime: &Rc<Runtime>,
    peer: &Rc<Peer>,
) -> Contender {
    let (runtime, peer) = (Rc::clone(runtime), Rc::clone(peer));
    Contender::new(name, move |iterations| {
        let _serves = &peer;
        runtime.block_on(workload::put_alone(&mut client, PUTS_BY_CALLER * iterations))
    })
}

/// Connects, and says what the peer can do instead of finding it out while the clock runs.
pub(super) async fn connect(addr: SocketAddr) -> Result<MetricsClient, metrics_client::Error> {
    MetricsClient::builder(addr).pipelining(Pipelining::On).connect().await
}

impl Put for MetricsClient {
    async fn put(&mut self, value: f64) {
        MetricsClient::put(self, workload::KEY, value).await.expect("the peer acknowledges");
    }
}

/// A runtime with so many workers, or one that is its own thread.
pub(super) fn runtime(workers: usize) -> io::Result<Runtime> {
    match workers {
        0 => runtime::Builder::new_current_thread().enable_all().build(),
        _ => runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}
