//! What `ClickHouseStore` gives on a single node of Debian's ClickHouse, against its bars.
//!
//!     cargo bench -p metrics-server --features clickhouse --bench clickhouse
//!
//! `--test`, or no `--bench`, runs each part for a moment. Three servers are processes of their own, as is the node; all
//! share the machine with the load. Linux only: memory is read from `/proc`.

mod load;
mod node;
mod server;

use std::{
    error::Error,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use load::{Connections, get_all, press};
use node::Node;
use server::ServerProcess;

/// What a part returns.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    if server::serve_if_asked()? {
        return Ok(());
    }
    let has = |name: &str| std::env::args().any(|arg| arg == name);
    let is_test = has("--test") || !has("--bench");
    if !Path::new(node::SERVER).exists() {
        println!(
            "SKIPPED: ClickHouse is not installed: `apt-get install clickhouse-server clickhouse-client`"
        );
        return Ok(());
    }
    let (seconds, points) = if is_test { (1, 100_000) } else { (20, 2_000_000) };
    println!("| what | measured | bar | met |\n|---|--:|--:|---|");
    let row = |what: &str, measured: String, bar: &str, is_met: bool| {
        let met = if is_test {
            "not measured"
        } else if is_met {
            "yes"
        } else {
            "no"
        };
        println!("| {what} | {measured} | {bar} | {met} |");
    };
    let rate = rate_of_three_servers(Duration::from_secs(seconds))?;
    row(
        "3 servers, one node: acknowledged puts a second",
        format!("{:.0} k", rate / 1e3),
        "at least 300 k",
        rate >= 300_000.0,
    );
    let (ours, theirs) = read_all(points, if is_test { 1 } else { 3 })?;
    row(
        &format!(
            "`get *`, {:.1} M points, against `clickhouse-client` with the same query",
            points as f64 / 1e6
        ),
        format!("{:.2} M/s, {:.2} M/s: {:.2} ×", ours / 1e6, theirs / 1e6, ours / theirs),
        "at least 0.5 ×",
        ours / theirs >= 0.5,
    );
    let bytes = memory_without_cluster(Duration::from_secs(seconds))?;
    let mib = bytes as f64 / f64::from(1 << 20);
    row(
        "peak memory of a server, cluster away, 64 busy connections",
        format!("{mib:.0} MiB"),
        "at most 256 MiB",
        mib <= 256.0,
    );
    Ok(())
}

/// Connections of each server, and the puts that each sends before it waits for the answers.
const CONNECTIONS: usize = 16;
const PUTS: usize = 1_000;

/// Returns the acknowledged puts a second of three servers together.
fn rate_of_three_servers(time: Duration) -> Outcome<f64> {
    let node = Node::start()?;
    let servers = (0..3).map(|_| ServerProcess::start(&node.url()));
    let servers: Vec<_> = servers.collect::<Result<_, _>>()?;
    let mut loads = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let first = index * CONNECTIONS * PUTS;
        loads.push(Connections::open(server.addr, first, CONNECTIONS, PUTS)?);
    }
    let start = Instant::now();
    let threads: Vec<_> =
        loads.into_iter().map(|load| thread::spawn(move || load.put_until(start + time))).collect();
    let mut acknowledged = 0;
    for thread in threads {
        acknowledged += thread.join().map_err(|_| "a thread of the load has panicked")??;
    }
    Ok(acknowledged as f64 / start.elapsed().as_secs_f64())
}

/// Returns the points a second of `get *`, and of `clickhouse-client` with the query that the store sends: medians of
/// interleaved rounds.
fn read_all(points: usize, rounds: usize) -> Outcome<(f64, f64)> {
    const KEYS: usize = 1_000;
    let node = Node::start()?;
    let server = ServerProcess::start(&node.url())?;
    let load = Connections::open(server.addr, 0, 1, KEYS)?;
    load.put_times(points / KEYS)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let found = get_all(server.addr)?;
        if found != points {
            return Err(format!("{found} points of {points} were read").into());
        }
        ours.push(points as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let status = Command::new("clickhouse-client")
            .args(["--host", "127.0.0.1", "--port", &node.tcp_port.to_string()])
            .args(["--query", SELECT_ALL])
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err("clickhouse-client has failed".into());
        }
        theirs.push(points as f64 / start.elapsed().as_secs_f64());
    }
    Ok((median(ours), median(theirs)))
}

/// The statement of `get *`: `select_all` in `server/src/store/clickhouse/snapshot.rs`.
const SELECT_ALL: &str = "SELECT k, ts, v FROM (\
    SELECT inv, k, ts, v FROM (SELECT k, ts, v FROM default.metrics FINAL) AS p \
    ANY LEFT JOIN (SELECT k, max(inv) AS inv FROM default.metrics_keys GROUP BY k) AS f USING k \
    UNION ALL SELECT toUInt64(0) AS inv, '' AS k, toInt64(0) AS ts, toFloat64(0) AS v\
    ) ORDER BY k = '', inv DESC, k, ts FORMAT RowBinary";

/// Returns the peak memory of a server under load before and after the node is killed, in bytes.
fn memory_without_cluster(time: Duration) -> Outcome<u64> {
    let node = Node::start()?;
    let server = ServerProcess::start(&node.url())?;
    let end = Instant::now() + time;
    let addr = server.addr;
    let threads: Vec<_> =
        (0..64).map(|index| thread::spawn(move || press(addr, index, end))).collect();
    thread::sleep(time / 4);
    drop(node);
    for thread in threads {
        thread.join().map_err(|_| "a thread of the load has panicked")?;
    }
    Ok(server.peak_bytes()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
