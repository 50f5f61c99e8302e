//! By how many connections the server has.

use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    Scale,
    chart::{Chart, Line},
    connect,
    memory::Memory,
};
use crate::{
    baseline::framed::BareFramed,
    peer::{Peer, Role},
    workload::{self, Put},
};

/// Clients with a connection each, all in this process; one server in its own. Bare `Framed`s show
/// what is the network's.
pub(super) fn measure(scale: &Scale) -> Result<[Chart; 2], Box<dyn Error>> {
    let runtime = super::runtime()?;
    let names = ["all at once", "one at a time"];
    let ours = runtime.block_on(puts(scale, names, connect))?;
    let names = ["all at once, bare Framed", "one at a time, bare Framed"];
    let bare = runtime.block_on(puts(scale, names, BareFramed::connect))?;
    let idle = runtime.block_on(idle(scale))?;
    Ok([
        Chart {
            file: "put-by-connections",
            title: "A put, by connections to the server",
            x: "connections",
            y: "µs",
            lines: ours.into_iter().chain(bare).collect(),
        },
        Chart {
            file: "memory-by-connections",
            title: "Memory of the server for a connection, by connections",
            x: "connections",
            y: "bytes",
            lines: vec![idle],
        },
    ])
}

/// Puts of all clients at once, and of one after the other.
async fn puts<C: Put, E: Error + 'static>(
    scale: &Scale,
    names: [&'static str; 2],
    connect: impl AsyncFn(SocketAddr) -> Result<C, E>,
) -> Result<[Line; 2], Box<dyn Error>> {
    let server = Peer::start(Role::Store)?;
    let mut clients = Vec::new();
    let [mut together, mut in_turn] = names.map(Line::new);
    for &connections in scale.connections {
        while clients.len() < connections {
            clients.push(connect(server.addr()).await?);
        }
        let puts = PUTS.max(connections);
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / puts as f64;
        for _ in 0..scale.turns.rounds {
            together.push(connections, micros(put_together(&mut clients, puts).await));
            in_turn.push(connections, micros(put_in_turn(&mut clients, puts).await));
        }
    }
    Ok([together, in_turn])
}

/// What the server holds for a connection that has been used and is quiet.
async fn idle(scale: &Scale) -> Result<Line, Box<dyn Error>> {
    let server = Peer::start(Role::Store)?;
    let mut clients = Vec::new();
    // What the server needs for the first connections it ever has is not what one more costs.
    for _ in 0..10 {
        clients.push(connect(server.addr()).await?);
    }
    put_together(&mut clients, PUTS).await;
    let (first, before) = (clients.len(), Memory::of(server.id())?);
    let mut idle = Line::new("an idle connection");
    for &connections in scale.connections {
        while clients.len() < first + connections {
            clients.push(connect(server.addr()).await?);
        }
        put_together(&mut clients, PUTS).await;
        let growth = Memory::of(server.id())?.growth(before);
        // Memory comes in pages of 4 KiB, so fewer connections tell nothing.
        if connections >= 10 && growth > 0.0 {
            idle.push(connections, growth / connections as f64);
        }
    }
    Ok(idle)
}

/// How many puts are timed at once.
const PUTS: usize = 2_000;

/// Each client awaits each of its puts, and all go on at the same time.
async fn put_together(clients: &mut Vec<impl Put>, puts: usize) -> Duration {
    let by_client = puts.div_ceil(clients.len()) as u64;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients.drain(..) {
        tasks.spawn(async move {
            workload::put_alone(&mut client, by_client).await;
            client
        });
    }
    clients.extend(tasks.join_all().await);
    start.elapsed()
}

/// One put after the other, each on the next connection.
async fn put_in_turn(clients: &mut [impl Put], puts: usize) -> Duration {
    let start = Instant::now();
    let mut turn = 0;
    for number in 0..puts as u64 {
        clients[turn].put(workload::reading(number)).await;
        turn = (turn + 1) % clients.len();
    }
    start.elapsed()
}
