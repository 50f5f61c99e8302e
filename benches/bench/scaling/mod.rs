//! Measures how cost grows with points, callers and connections: tables on standard output, pictures in
//! a folder, and what memory was agreed on.
//!
//! Memory is read from `/proc`, so this runs on Linux only.

use std::{error::Error, fs, io, net::SocketAddr, path::Path, time::Duration};

use metrics_client::{ClientBuilder, MetricsClient, client::Pipelining};
use tokio::runtime::{self, Runtime};

use crate::{scenario::interleave::Rounds, support::mode::Mode};

mod callers;
mod chart;
mod client;
mod connections;
mod memory;
mod points;

use chart::Chart;
pub(crate) use client::measure_if_asked as measure_client_if_asked;
use memory::MemoryRow;

/// How far to go.
#[derive(Debug)]
struct Scale {
    /// How many points are stored.
    points: &'static [usize],
    /// How many callers share one connection.
    callers: &'static [usize],
    /// How many connections the server has.
    connections: &'static [usize],
    rounds: Rounds,
}

impl Scale {
    const FULL: Self = Self {
        points: &[1_000, 10_000, 100_000, 1_000_000, AGREED_POINTS],
        callers: &[1, 10, 100, 1_000, 10_000],
        connections: &[1, 10, 100, 1_000],
        rounds: Rounds { count: 9, time: Duration::from_millis(50) },
    };
    const QUICK: Self = Self {
        points: &[1_000, 10_000, 100_000],
        callers: &[1, 10, 100, 1_000],
        connections: &[1, 10, 100],
        rounds: Rounds { count: 3, time: Duration::from_millis(10) },
    };
    const TEST: Self = Self {
        points: &[1_000, 10_000],
        callers: &[1, 10],
        connections: &[1, 10],
        rounds: Rounds { count: 1, time: Duration::ZERO },
    };
}

/// The number of points that the limits hold for.
const AGREED_POINTS: usize = 10_000_000;

/// Measures everything, prints the tables, and draws the pictures into the folder behind `--out`.
///
/// Without `--out` a full run draws into `benches/results`, and others into the target folder.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    // Thousands of connections need more descriptors than a shell gives; child processes inherit the limit.
    rlimit::increase_nofile_limit(4096)?;
    let mode = Mode::current();
    let folder = match args {
        [] if mode == Mode::Full => concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"),
        [] => concat!(env!("CARGO_TARGET_TMPDIR"), "/scaling"),
        [flag, folder] if flag == "--out" => folder,
        _ => return Err("usage: scaling [--out FOLDER]".into()),
    };
    fs::create_dir_all(folder)?;
    let scale = match mode {
        Mode::Test => Scale::TEST,
        Mode::Quick => Scale::QUICK,
        Mode::Full => Scale::FULL,
    };
    measure(&scale, Path::new(folder))
}

fn measure(scale: &Scale, folder: &Path) -> Result<(), Box<dyn Error>> {
    let (charts, mut rows) = points::measure(scale)?;
    show(charts, folder)?;
    show([callers::measure(scale)?], folder)?;
    rows.extend(callers::memory(scale)?);
    show(connections::measure(scale)?, folder)?;
    println!("### Memory\n\n{}", MemoryRow::HEAD);
    for row in rows {
        println!("{row}");
    }
    Ok(())
}

fn show(charts: impl IntoIterator<Item = Chart>, folder: &Path) -> Result<(), Box<dyn Error>> {
    for chart in charts {
        println!("{chart}");
        chart.draw(folder)?;
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Clients here know that the server pipelines, and need no time to find out.
fn builder(addr: SocketAddr) -> ClientBuilder {
    MetricsClient::builder(addr).pipelining(Pipelining::On)
}

async fn connect(addr: SocketAddr) -> Result<MetricsClient, metrics_client::Error> {
    builder(addr).connect().await
}
