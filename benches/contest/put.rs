//! Single puts, each awaited.

use std::{error::Error, io, rc::Rc, time::Instant};

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
        let mpsc = self.runtime.block_on(MpscClient::connect(acknowledging.addr()))?;
        let redis_rs = self.runtime.block_on(RedisClient::connect(redis.addr()))?;
        let contenders = vec![
            self.contender("mpsc + oneshot", mpsc, acknowledging),
            self.contender("redis-rs", redis_rs, redis).bar(bar),
        ];
        Ok(Contest { name, elements: self.puts(), contenders })
    }

    fn contender(&self, name: &'static str, client: impl Put, peer: &Rc<Peer>) -> Contender {
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
    let runtime = runtime(0)?;
    let peer = Rc::clone(&peers.acknowledging);
    let mut framed = runtime.block_on(BareFramed::connect(peer.addr()))?;
    let framed = Contender::new("bare Framed", move |iterations| {
        let _serves = &peer;
        runtime.block_on(async {
            let start = Instant::now();
            for number in 0..PUTS_BY_CALLER * iterations {
                framed.put(workload::reading(number)).await;
            }
            start.elapsed()
        })
    });
    let contenders = vec![framed];
    Ok(Contest { name: "round trip".into(), elements: PUTS_BY_CALLER, contenders })
}

/// A runtime with so many workers, or one that is its own thread.
fn runtime(workers: usize) -> io::Result<Runtime> {
    match workers {
        0 => runtime::Builder::new_current_thread().enable_all().build(),
        _ => runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    }
}
