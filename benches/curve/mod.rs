//! What is measured, and how far.

use std::{error::Error, io, net::SocketAddr, path::Path, time::Duration};

use metrics_client::{ClientBuilder, MetricsClient, client::Pipelining};
use tokio::runtime::{self, Runtime};

use crate::contest::turns::Turns;

mod callers;
mod chart;
mod client;
mod connections;
mod memory;
mod points;

use chart::Chart;
pub(crate) use client::measure_if_asked as measure_client_if_asked;
use memory::Row;

/// How far to go.
#[derive(Debug)]
pub(crate) struct Scale {
    /// How many points are stored.
    points: &'static [usize],
    /// How many callers share one connection.
    callers: &'static [usize],
    /// How many connections the server has.
    connections: &'static [usize],
    turns: Turns,
}

impl Scale {
    pub(crate) const FULL: Self = Self {
        points: &[1_000, 10_000, 100_000, 1_000_000, AGREED_POINTS],
        callers: &[1, 10, 100, 1_000, 10_000],
        connections: &[1, 10, 100, 1_000],
        turns: Turns { rounds: 9, time: Duration::from_millis(50) },
    };
    pub(crate) const QUICK: Self = Self {
        points: &[1_000, 10_000, 100_000],
        callers: &[1, 10, 100, 1_000],
        connections: &[1, 10, 100],
        turns: Turns { rounds: 3, time: Duration::from_millis(10) },
    };
    pub(crate) const TEST: Self = Self {
        points: &[1_000, 10_000],
        callers: &[1, 10],
        connections: &[1, 10],
        turns: Turns { rounds: 1, time: Duration::ZERO },
    };
}

/// How many points the bars are for.
const AGREED_POINTS: usize = 10_000_000;

/// Measures all there is, prints the tables, and draws the pictures into `folder`.
pub(crate) fn measure(scale: &Scale, folder: &Path) -> Result<(), Box<dyn Error>> {
    let (charts, mut rows) = points::measure(scale)?;
    show(charts, folder)?;
    show([callers::measure(scale)?], folder)?;
    rows.extend(callers::memory(scale)?);
    show(connections::measure(scale)?, folder)?;
    println!("### Memory\n\n{}", Row::HEAD);
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
