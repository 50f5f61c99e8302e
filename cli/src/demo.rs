//! `metrics demo`: this host's metrics, sent to a server in this process and read back.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use indicatif::BinaryBytes;
use metrics_agent::{Filter, Host, KeyStyle, Names};
use metrics_client::{Key, Metrics, MetricsClient, Sample, client::ClientStats};
use tokio::time;

use crate::{
    chart::bars, connect::block_on, embedded::EmbeddedServer, failure::Failure, text, times,
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
        let measured = EmbeddedServer::run(async |server| measure(args, server).await);
        let ((stats, spent), disk_bytes) = measured.await?;
        let mut out = io::stdout();
        let each = spent / u32::try_from(args.seconds).unwrap_or(u32::MAX);
        writeln!(out, "\nWhat it cost:")?;
        writeln!(out, "  time     {each:.1?} a second until its samples were acknowledged")?;
        writeln!(
            out,
            "  network  {} requests on one connection: {} out, {} in",
            stats.accepted,
            BinaryBytes(stats.bytes_sent),
            BinaryBytes(stats.bytes_received)
        )?;
        writeln!(out, "  disk     {} for the folder, which is removed", BinaryBytes(disk_bytes))?;
        Ok(())
    })
}

/// Measures, stores, reads back and shows. Returns the client's statistics, and for how long it waited.
async fn measure(
    args: &DemoArgs,
    server: &EmbeddedServer,
) -> Result<(ClientStats, Duration), Failure> {
    let mut out = io::stdout();
    let client = MetricsClient::connect(server.address()).await?;
    writeln!(out, "A server in this process listens at {}.", server.address())?;
    writeln!(out, "It keeps what it acknowledges in {}.", server.dir().display())?;
    writeln!(out, "Measuring cpu, memory, disks and network, once a second:")?;

    let mut host = Host::new();
    let filter = Filter::new(MEASURED, &["network.*.lo"]).map_err(Failure::usage)?;
    let names = Names::new(&Host::name(), KeyStyle::Dotted, [], filter);
    let mut names = names.map_err(Failure::usage)?;
    let begin = Instant::now();
    host.measure(begin.elapsed()); // A rate needs two looks.
    let mut ticks = time::interval(Duration::from_secs(1));
    ticks.tick().await; // The first comes at once.
    let mut spent = Duration::ZERO;
    for second in 1..=args.seconds {
        ticks.tick().await;
        let measured = host.measure(begin.elapsed());
        let samples = names.samples(&measured, times::now()).collect::<Vec<Sample>>();
        let start = Instant::now();
        client.put_all(&samples).await?;
        spent += start.elapsed();
        writeln!(
            out,
            "  {second}: {} samples sent, synced to disk and acknowledged",
            samples.len()
        )?;
    }

    let metrics = client.get_all().await?;
    let (keys, points) = (metrics.len(), metrics.point_count());
    writeln!(out, "\nRead back with `get *`: {keys} keys, {points} points\n")?;
    show(&mut out, &metrics)?;
    let stats = client.stats();
    client.close().await?;
    Ok((stats, spent))
}

/// What is measured, by globs.
const MEASURED: &[&str] =
    &["cpu", "memory", "disk.space.root", "network.received_bytes.*", "network.sent_bytes.*"];

/// How wide the table is: as wide as the smallest usual terminal.
const TABLE_WIDTH: usize = 80;

/// The width of a number with the gap before it.
const NUMBER_WIDTH: usize = 11;

/// How wide keys may be, beside four numbers and the narrowest chart.
const MAX_KEY_WIDTH: usize = TABLE_WIDTH - 4 * NUMBER_WIDTH - 2 - 6;

/// Prints a line for each key, with a chart of its points.
fn show(out: &mut impl Write, metrics: &Metrics) -> io::Result<()> {
    let keys = metrics.keys().collect::<Vec<&Key>>();
    let width = keys.iter().map(|key| text::width(key.as_str())).max().unwrap_or_default();
    let width = width.min(MAX_KEY_WIDTH);
    let titles = ["min", "mean", "max", "latest"].map(|title| format!("  {title:>9}"));
    let chart_width = (TABLE_WIDTH - width - 4 * NUMBER_WIDTH - 2).min(40);
    writeln!(out, "{:width$}{}  chart", "key", titles.concat())?;
    for key in keys {
        let points = metrics.points(key.as_str());
        let values = points.iter().map(|point| point.value);
        let (min, max) =
            values.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
                (min.min(value), max.max(value))
            });
        let mean = values.sum::<f64>() / points.len().max(1) as f64;
        let latest = points.last().map_or(f64::NAN, |point| point.value);
        let numbers = [min, mean, max, latest].map(|number| {
            let decimals = if number.abs() < 100_000.0 { 2 } else { 0 };
            format!("  {number:>9.decimals$}")
        });
        let recent = &points[points.len().saturating_sub(chart_width)..];
        writeln!(
            out,
            "{:width$}{}  {}",
            text::shortened(key.as_str(), width),
            numbers.concat(),
            bars(recent.iter().map(|point| point.value))
        )?;
    }
    Ok(())
}
