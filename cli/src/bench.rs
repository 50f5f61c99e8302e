//! `metrics bench`: how many puts a server acknowledges, and how long each takes.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use metrics_client::MetricsClient;
use tokio::task::JoinSet;

use crate::{connect::ServerArgs, failure::Failure, times};

/// Measures how many puts a second the server acknowledges. Stores keys that begin with metrics-bench
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Sets how many connections the client has
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Sets how many callers put at the same time, each the next when the last is acknowledged
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: u32,
    /// Sets for how many seconds it measures
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let builder = args.server.builder()?.max_connections(args.connections.into());
        let client = builder.connect().await.map_err(|error| args.server.failure(error))?;
        let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs(args.seconds));
        let mut callers = JoinSet::new();
        for caller in 0..args.callers {
            callers.spawn(put_until(client.clone(), caller, end));
        }
        let mut micros = Vec::new();
        while let Some(caller) = callers.join_next().await {
            let caller = caller
                .map_err(|error| Failure::usage(format!("a caller has panicked: {error}")))?;
            micros.extend(caller.map_err(|error| args.server.failure(error))?);
        }
        let elapsed = start.elapsed();
        micros.sort_unstable();
        let at = |per_mille: usize| {
            micros.get(micros.len() * per_mille / 1000).copied().unwrap_or_default()
        };
        writeln!(
            io::stdout(),
            "{} puts in {:.2} s: {:.0} a second; p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
            micros.len(),
            elapsed.as_secs_f64(),
            micros.len() as f64 / elapsed.as_secs_f64(),
            at(500),
            at(990),
            at(999),
            micros.last().copied().unwrap_or_default(),
        )?;
        Ok(())
    })
}

/// Puts one value after the other, and returns how long each took, in microseconds.
async fn put_until(
    client: MetricsClient,
    caller: u32,
    end: Instant,
) -> Result<Vec<u32>, metrics_client::Error> {
    let key = format!("metrics-bench.{caller}");
    let (mut micros, mut timestamp) = (Vec::new(), times::now());
    let mut start = Instant::now();
    while start < end {
        client.put_at(&key, micros.len() as f64, timestamp).await?;
        timestamp += 1;
        let now = Instant::now();
        micros.push((now - start).as_micros().try_into().unwrap_or(u32::MAX));
        start = now;
    }
    Ok(micros)
}
