//! The reporter, against a peer that the test plays, with paused time, and against the server.

mod accounting;
mod allocations;
mod basics;
mod guard;
mod outage;
mod queue_full;
mod recording;
mod shutdown;
mod spool;

use std::time::Duration;

use metrics_client::{
    MetricsClient, Reporter,
    client::Pipelining,
    reporter::{ReporterBuilder, ReporterStats},
};

use crate::peer::{MockNetwork, Peer};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than anything takes; with paused time it costs nothing.
const LONG: Duration = Duration::from_secs(300);

/// A connected client that sends without finding out first whether it may.
async fn connected() -> (MockNetwork, MetricsClient, Peer) {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let peer = network.accept().await;
    (network, client, peer)
}

/// As [`connected`], with a reporter.
async fn reporting(
    tell: impl FnOnce(ReporterBuilder) -> ReporterBuilder,
) -> (MockNetwork, Reporter, Peer) {
    let (network, client, peer) = connected().await;
    (network, tell(Reporter::builder(client)).start(), peer)
}

/// The stats, if they add up.
#[track_caller]
fn accounted(reporter: &Reporter) -> ReporterStats {
    let stats = reporter.stats();
    let ReporterStats { acknowledged, coalesced, rejected, dropped, waiting, spooled, .. } = stats;
    let accounted = acknowledged + coalesced + rejected + dropped.total() + waiting + spooled;
    assert_eq!(stats.recorded + stats.recovered, accounted + stats.abandoned, "{stats:?}");
    stats
}
