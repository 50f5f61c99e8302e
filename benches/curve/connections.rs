//! By how many connections the server has.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use metrics_client::MetricsClient;
use tokio::task::JoinSet;

use super::{
    Scale,
    chart::{Chart, Line},
    connect, median,
    memory::Memory,
};
use crate::{
    peer::{Peer, Role},
    workload::KEY,
};

/// Clients with a connection each, all in this process; one server.
pub(super) fn measure(scale: &Scale) -> Result<[Chart; 2], Box<dyn Error>> {
    let mut together = Line::new("all at once");
    let mut in_turn = Line::new("one, the others idle");
    let mut idle = Line::new("an idle connection");
    let server = Peer::start(Role::Store)?;
    super::runtime()?.block_on(async {
        // What the server needs for the first connection it ever has is not what one more costs.
        connect(server.addr()).await?.put(KEY, 0.0).await?;
        let before = Memory::of(server.id())?;
        let mut clients = Vec::new();
        for &connections in scale.connections {
            while clients.len() < connections {
                let client = connect(server.addr()).await?;
                client.put(KEY, 0.0).await?;
                clients.push(client);
            }
            let growth = Memory::of(server.id())?.growth(before);
            idle.push(connections, growth / connections as f64);
            let puts = PUTS.max(connections);
            let per_put = |time: Duration| time.as_secs_f64() * 1e6 / puts as f64;
            let mut times = (Vec::new(), Vec::new());
            for _ in 0..scale.turns.rounds {
                times.0.push(per_put(put_together(&clients, puts).await));
                times.1.push(per_put(put_in_turn(&clients, puts).await?));
            }
            together.push(connections, median(times.0));
            in_turn.push(connections, median(times.1));
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    Ok([
        Chart {
            file: "put-by-connections",
            title: "A put, by connections to the server",
            x: "connections",
            y: "µs",
            lines: vec![together, in_turn],
        },
        Chart {
            file: "memory-by-connections",
            title: "Memory of the server, by connections",
            x: "connections",
            y: "bytes",
            lines: vec![idle],
        },
    ])
}

/// How many puts are timed at once.
const PUTS: usize = 2_000;

/// Each client awaits each of its puts, and all go on at the same time.
async fn put_together(clients: &[MetricsClient], puts: usize) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (at, client) in clients.iter().enumerate() {
        let client = client.clone();
        let puts = (at..puts).step_by(clients.len());
        tasks.spawn(async move {
            for _ in puts {
                client.put(KEY, VALUE).await.expect("the server acknowledges");
            }
        });
    }
    tasks.join_all().await;
    start.elapsed()
}

/// One put after the other, each on the next connection.
async fn put_in_turn(
    clients: &[MetricsClient],
    puts: usize,
) -> Result<Duration, metrics_client::Error> {
    let start = Instant::now();
    for client in clients.iter().cycle().take(puts) {
        client.put(KEY, VALUE).await?;
    }
    Ok(start.elapsed())
}

const VALUE: f64 = 23.7;
