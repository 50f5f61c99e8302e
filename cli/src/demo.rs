//! `metrics demo`: this host's metrics, sent to a server in this process and read back.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_client::{Key, Metrics, MetricsClient, Point};
use metrics_server::{Server, store::DiskStore};
use tokio::{sync::oneshot, time};

use crate::{
    connect::block_on,
    failure::{Failure, chain},
    host::Host,
};

/// Measures this host for some seconds, stores that in a server of its own, and shows what is stored
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Sets for how many seconds the host is measured
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    block_on(async {
        let mut out = io::stdout();
        let dir = tempfile::tempdir()?;
        let store = Arc::new(DiskStore::open(dir.path()).await.map_err(|error| {
            Failure::usage(format!("cannot open {}: {}", dir.path().display(), chain(&error)))
        })?);
        let server = Server::bind("127.0.0.1:0").await?.store(Arc::clone(&store));
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.serve_until(async {
            let _ = stopped.await;
        }));
        let client = MetricsClient::connect(address).await?;
        writeln!(out, "A server in this process listens at {address}.")?;
        writeln!(out, "It keeps what it acknowledges in {}.", dir.path().display())?;
        writeln!(out, "Measuring cpu, memory, disks and network, once a second:")?;

        let mut host = Host::new();
        let mut ticks = time::interval(Duration::from_secs(1));
        ticks.tick().await; // The first comes at once, and a rate needs two looks.
        let mut spent = Duration::ZERO;
        for second in 1..=args.seconds {
            ticks.tick().await;
            let samples = host.sample().map_err(Failure::usage)?;
            let start = Instant::now();
            client.put_all(&samples).await?;
            spent += start.elapsed();
            writeln!(out, "  {second}: {} samples sent and acknowledged", samples.len())?;
        }

        let metrics = client.get_all().await?;
        writeln!(
            out,
            "\nRead back with `get *`: {} keys, {} points\n",
            metrics.len(),
            metrics.point_count()
        )?;
        show(&mut out, &metrics)?;
        let stats = client.stats();
        writeln!(
            out,
            "\nOne connection carried {} requests: {} bytes out, {} bytes in; the puts of a second took {:.2?}.",
            stats.accepted,
            stats.bytes_sent,
            stats.bytes_received,
            spent / u32::try_from(args.seconds).unwrap_or(u32::MAX)
        )?;
        client.close().await?;
        drop(stop);
        server
            .await
            .map_err(|error| Failure::usage(format!("the server has panicked: {error}")))?;
        store.close().await;
        Ok(())
    })
}

/// Prints a line for each key, with a chart of its points.
fn show(out: &mut impl Write, metrics: &Metrics) -> io::Result<()> {
    let keys = metrics.keys().collect::<Vec<&Key>>();
    let width = keys.iter().map(|key| key.as_str().chars().count()).max().unwrap_or_default();
    writeln!(
        out,
        "{:width$}  {:>10}  {:>10}  {:>10}  {:>10}  chart",
        "key", "min", "mean", "max", "latest"
    )?;
    for key in keys {
        let points = metrics.points(key.as_str());
        let values = points.iter().map(|point| point.value);
        let (min, max) =
            values.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
                (min.min(value), max.max(value))
            });
        let mean = values.sum::<f64>() / points.len().max(1) as f64;
        let latest = points.last().map_or(f64::NAN, |point| point.value);
        writeln!(
            out,
            "{:width$}  {min:>10.2}  {mean:>10.2}  {max:>10.2}  {latest:>10.2}  {}",
            key.as_str(),
            chart(points, min, max)
        )?;
    }
    Ok(())
}

/// Draws the last points as bars, the lowest value lowest.
fn chart(points: &[Point], min: f64, max: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let recent = &points[points.len().saturating_sub(40)..];
    let bar = |point: &Point| {
        let height = if max > min { (point.value - min) / (max - min) } else { 0.0 };
        BARS[((height * 7.0).round() as usize).min(7)]
    };
    recent.iter().map(bar).collect()
}
