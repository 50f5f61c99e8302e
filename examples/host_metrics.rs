//! Samples this machine's cpu, memory, disk and network for a few seconds, sends the samples to a
//! metrics server, reads everything back, and prints a table with charts.
//!
//! ```text
//! cargo run --example host_metrics                     # starts a server  
//! cargo run --example host_metrics -- 127.0.0.1:8888   # uses a running server
//! ```

use std::{error::Error, process::ExitCode, time::Duration};

use metrics_client::{Key, Metrics, MetricsClient, Point, Sample};
use metrics_server::Server;
use sysinfo::{Disks, Networks, System};
use tokio::time;

/// How often the machine is sampled, once a second: the protocol keeps one value a second.
const ROUNDS: usize = 6;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (address, none) = (arguments.next(), arguments.next());
    if none.is_some() || address.as_deref().is_some_and(|address| address.starts_with('-')) {
        eprintln!("usage: host_metrics [HOST:PORT]\nWithout an address it starts a server itself.");
        return ExitCode::from(2);
    }
    match run(address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("host_metrics: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!("\nIs HOST:PORT right, and does a metrics server listen there?");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: Option<String>) -> Result<(), Box<dyn Error>> {
    let address = match address {
        Some(address) => {
            println!("Using the server at {address}.");
            address
        }
        None => {
            let server = Server::bind("127.0.0.1:0").await?;
            let address = server.local_addr().to_string();
            tokio::spawn(server.serve_until(std::future::pending()));
            println!(
                "Started a server in this process, at {address}; it keeps its data in memory."
            );
            address
        }
    };

    let client = MetricsClient::connect(&address).await?;
    println!("Connected. Sampling cpu, memory, disk and network {ROUNDS} times, once a second:");
    let mut host = Host::new()?;
    let mut ticks = time::interval(Duration::from_secs(1));
    ticks.tick().await; // The first completes at once, and a rate needs two measurements.
    let mut own = Vec::new();
    for round in 1..=ROUNDS {
        ticks.tick().await;
        let samples = host.sample()?;
        client.put_all(&samples).await?;
        println!("  {round}: sent {} samples, all acknowledged", samples.len());
        own = samples.into_iter().map(|sample| sample.key).collect();
    }

    let metrics = client.get_all().await?;
    println!(
        "Read back with `get *`: {} keys, {} points. Those of this host:\n",
        metrics.len(),
        metrics.point_count()
    );
    show(&metrics, &own);
    let stats = client.stats();
    println!(
        "\nOne connection carried {} requests: {} bytes out, {} bytes in.",
        stats.accepted, stats.bytes_sent, stats.bytes_received
    );
    client.close().await?;
    Ok(())
}

/// The machine, with the counters of the last measurement.
struct Host {
    name: String,
    system: System,
    disks: Disks,
    networks: Networks,
}

impl Host {
    fn new() -> Result<Self, Box<dyn Error>> {
        let name = System::host_name().unwrap_or_else(|| "localhost".into());
        // A host may be called anything; a key may not.
        let name = name.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
        let mut system = System::new();
        system.refresh_cpu_usage();
        let (disks, networks) =
            (Disks::new_with_refreshed_list(), Networks::new_with_refreshed_list());
        Ok(Self { name, system, disks, networks })
    }

    /// Samples everything at the current second.
    fn sample(&mut self) -> Result<Vec<Sample>, Box<dyn Error>> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.disks.refresh(true);
        self.networks.refresh(true);

        let total = |sum: fn(&sysinfo::Disk) -> u64| {
            // The same disk may be mounted in several places.
            let mut disks = self.disks.list().iter().collect::<Vec<_>>();
            disks.sort_by_key(|disk| disk.name());
            disks.dedup_by_key(|disk| disk.name());
            disks.into_iter().map(sum).sum::<u64>()
        };
        let (space, free) =
            (total(sysinfo::Disk::total_space), total(sysinfo::Disk::available_space));
        let (received, sent) = self.networks.iter().fold((0, 0), |(received, sent), (_, data)| {
            (received + data.received(), sent + data.transmitted())
        });
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        [
            ("cpu", f64::from(self.system.global_cpu_usage())),
            ("memory", percent(self.system.used_memory(), self.system.total_memory())),
            ("disk_usage", percent(space - free.min(space), space)),
            ("network_received", received as f64),
            ("network_sent", sent as f64),
        ]
        .into_iter()
        .map(|(what, value)| {
            let value = (value * 100.0).round() / 100.0;
            Ok(Sample::now(format!("{}.{what}", self.name), value)?)
        })
        .collect()
    }
}

/// Prints a table with a line and a chart for each key.
fn show(metrics: &Metrics, keys: &[Key]) {
    let width = keys.iter().map(|key| key.as_str().chars().count()).max().unwrap_or_default();
    println!(
        "{:width$}  {:>6}  {:>10}  {:>10}  {:>10}  {:>10}  chart",
        "key", "points", "min", "mean", "max", "latest"
    );
    for key in keys {
        let points = metrics.points(key);
        let values = points.iter().map(|point| point.value);
        let (min, max) =
            values.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
                (min.min(value), max.max(value))
            });
        let mean = values.sum::<f64>() / points.len().max(1) as f64;
        let latest = metrics.latest(key).map_or(f64::NAN, |point| point.value);
        println!(
            "{key:width$}  {:>6}  {min:>10.2}  {mean:>10.2}  {max:>10.2}  {latest:>10.2}  {}",
            points.len(),
            chart(points, min, max)
        );
    }
    println!("\ncpu, memory and disk_usage in per cent; network in bytes since the sample before.");
}

/// Returns the last points as bars between `min` and `max`.
fn chart(points: &[Point], min: f64, max: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let recent = &points[points.len().saturating_sub(40)..];
    recent
        .iter()
        .map(|point| {
            let height = if max > min { (point.value - min) / (max - min) } else { 0.0 };
            BARS[((height * 7.0).round() as usize).min(7)]
        })
        .collect()
}
