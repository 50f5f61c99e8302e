//! Open loop: puts begin at fixed times, also if earlier ones have not ended.
//!
//! Callers that wait for their answers slow down with the client, and hide how long a request waits.
//! Here a thread begins puts by a schedule, in steps of a millisecond, and latency counts from the
//! time in the schedule.

use std::{
    fmt::Debug,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    interleave::{Quartiles, Rounds},
    put::Peers,
};
use crate::{
    baseline::{mpsc::MpscClient, redis::RedisClient},
    support::server_process::ServerProcess,
    support::{cost::Stopwatch, values::reading, workload::Put},
};

/// What the command line selects these rows by.
pub(crate) const NAME: &str = "open loop";

/// Puts a second.
const RATES: [usize; 3] = [2_000, 20_000, 100_000];

/// How often puts begin.
const STEP: Duration = Duration::from_millis(1);

/// Lets the clients take turns at each rate, and prints a row for each.
pub(crate) fn measure(rounds: Rounds) -> io::Result<()> {
    println!(
        "| puts begun a second | runtime | client | p50, µs | p99, µs | p99.9, µs | CPU ns a put |"
    );
    println!("|---|---|---|---|---|---|---|");
    let peers = Peers::start()?;
    // A turn is as long as ten closed-loop ones: the last thousandth of few puts says little.
    let steps = ((rounds.time * 10).as_millis() as usize).max(10);
    let rounds = rounds.count.div_ceil(4);
    for (name, workers) in [("current-thread", 0), ("2 workers", 2)] {
        for rate in RATES {
            let schedule = Schedule { steps, puts_by_step: rate / 1000 };
            let mut clients = [
                Client::new("metrics-client"),
                Client::new("mpsc + oneshot"),
                Client::new("redis-rs"),
            ];
            for _ in 0..rounds {
                let [ours, mpsc, redis] = &mut clients;
                ours.turn(workers, &peers.acknowledging, super::connect, schedule)?;
                mpsc.turn(workers, &peers.acknowledging, MpscClient::connect, schedule)?;
                redis.turn(workers, &peers.redis, RedisClient::connect, schedule)?;
            }
            for mut client in clients {
                client.latencies.sort_unstable();
                let percentile = |permille: usize| {
                    let rank = (client.latencies.len() * permille).div_ceil(1000);
                    client.latencies[rank.max(1) - 1]
                };
                let cpu = Quartiles::of(client.cpu.iter().copied()).median;
                println!(
                    "| {rate} | {name} | {} | {} | {} | {} | {cpu:.0} |",
                    client.name,
                    percentile(500),
                    percentile(990),
                    percentile(999),
                );
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    steps: usize,
    puts_by_step: usize,
}

/// What was measured of a client so far.
struct Client {
    name: &'static str,
    /// In microseconds.
    latencies: Vec<u32>,
    /// Nanoseconds of processor time for each put, of each turn.
    cpu: Vec<f64>,
}

impl Client {
    fn new(name: &'static str) -> Self {
        Self { name, latencies: Vec::new(), cpu: Vec::new() }
    }

    fn turn<C: Put + Clone, E: Debug>(
        &mut self,
        workers: usize,
        peer: &ServerProcess,
        connect: impl AsyncFn(SocketAddr) -> Result<C, E>,
        schedule: Schedule,
    ) -> io::Result<()> {
        let puts = schedule.steps * schedule.puts_by_step;
        let latencies: Arc<[AtomicU32]> = (0..puts).map(|_| AtomicU32::new(0)).collect();
        let done = Arc::new(Semaphore::new(0));
        let cost = super::runtime(workers)?.block_on(async {
            let mut client = connect(peer.addr()).await.expect("the peer listens");
            client.put(reading(0)).await;
            let runtime = Handle::current();
            let clock = Stopwatch::start();
            let (ended, latencies) = (Arc::clone(&done), Arc::clone(&latencies));
            let pacer =
                thread::spawn(move || schedule.begin(&client, &runtime, &ended, &latencies));
            let all = u32::try_from(puts).expect("some hundred thousand puts");
            done.acquire_many(all).await.expect("the semaphore stays open").forget();
            pacer.join().expect("the pacer does not panic");
            clock.stop()
        });
        self.latencies.extend(latencies.iter().map(|latency| latency.load(Ordering::Relaxed)));
        self.cpu.extend(cost.cpu.map(|cpu| cpu.as_nanos() as f64 / puts as f64));
        Ok(())
    }
}

impl Schedule {
    /// Begins each put when its time has come.
    fn begin<C: Put + Clone>(
        self,
        client: &C,
        runtime: &Handle,
        done: &Arc<Semaphore>,
        latencies: &Arc<[AtomicU32]>,
    ) {
        let start = Instant::now() + STEP;
        for step in 0..self.steps {
            let due = start + STEP * step as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            for put in 0..self.puts_by_step {
                let number = step * self.puts_by_step + put;
                let (mut client, done) = (client.clone(), Arc::clone(done));
                let latencies = Arc::clone(latencies);
                runtime.spawn(async move {
                    client.put(reading(number as u64)).await;
                    let micros = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
                    latencies[number].store(micros, Ordering::Relaxed);
                    done.add_permits(1);
                });
            }
        }
    }
}
