//! Cost by the number of connections of the server.

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
};
use crate::{
    baseline::framed::BareFramed,
    support::{
        memory::Memory,
        server_process::{Behavior, ServerProcess},
        values,
        workload::{self, Put},
    },
};

/// Clients with a connection each, all in this process; their servers in their own. Bare `Framed`s show
/// what is the network's.
pub(super) fn measure(scale: &Scale) -> Result<[Chart; 2], Box<dyn Error>> {
    let runtime = super::runtime()?;
    let mut together = Line::new("all at once");
    let mut in_turn = Line::new("one at a time");
    let mut bare_together = Line::new("all at once, bare Framed");
    let mut bare_in_turn = Line::new("one at a time, bare Framed");
    runtime.block_on(async {
        let mut groups = Vec::new();
        for &connections in scale.connections {
            let ours = Clients::of(connections, connect).await?;
            groups.push((ours, Clients::of(connections, BareFramed::connect).await?));
        }
        for _ in 0..scale.rounds.count {
            for (ours, bare) in &mut groups {
                ours.measure(&mut together, &mut in_turn).await;
                bare.measure(&mut bare_together, &mut bare_in_turn).await;
            }
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    let idle = runtime.block_on(idle(scale))?;
    Ok([
        Chart {
            file: "put-by-connections",
            title: "A put, by connections to the server",
            x: "connections",
            y: "µs",
            lines: vec![together, in_turn, bare_together, bare_in_turn],
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

/// Clients that have a server to themselves.
struct Clients<C> {
    clients: Vec<C>,
    _server: ServerProcess,
}

impl<C: Put> Clients<C> {
    async fn of<E: Error + 'static>(
        connections: usize,
        connect: impl AsyncFn(SocketAddr) -> Result<C, E>,
    ) -> Result<Self, Box<dyn Error>> {
        let server = ServerProcess::start(Behavior::Store)?;
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect(server.addr()).await?);
        }
        Ok(Self { clients, _server: server })
    }

    /// Puts of all clients at once, and of one after the other.
    async fn measure(&mut self, together: &mut Line, in_turn: &mut Line) {
        let connections = self.clients.len();
        let puts = PUTS.max(connections);
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / puts as f64;
        together.push(connections, micros(put_together(&mut self.clients, puts).await));
        in_turn.push(connections, micros(put_in_turn(&mut self.clients, puts).await));
    }
}

/// What the server holds for a connection that has been used and is quiet.
async fn idle(scale: &Scale) -> Result<Line, Box<dyn Error>> {
    let server = ServerProcess::start(Behavior::Store)?;
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
        clients[turn].put(values::reading(number)).await;
        turn = (turn + 1) % clients.len();
    }
    start.elapsed()
}
