//! Synced puts: one at a time against a bare append and sync, and from many connections against memory.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics_server::{
    MemoryStore, Store,
    store::{DiskStore, PutBatch},
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Outcome, folder,
    load::Load,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::{self, Lines},
};

/// How many connections and tasks put at the same time, and how many puts each has in flight.
const CONNECTIONS: usize = 64;
const IN_FLIGHT: usize = 10;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    one_at_a_time(options, report)?;
    connections(options, report)?;
    tasks(options, report)
}

/// Puts one at a time; the bare append writes the same bytes, and waits as the store does.
fn one_at_a_time(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let (rounds, time) = options.choose((1, 0), (5, 100), (21, 200));
    let time = Duration::from_millis(time);
    let disk = Peer::disk(&dir.path().join("server"))?;
    let memory = Peer::memory()?;
    let mut on_disk = Load::connect(disk.addr(), 1, 1)?;
    let mut in_memory = Load::connect(memory.addr(), 1, 1)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(DiskStore::open(dir.path().join("store")))?;
    let mut second = workload::FIRST_SECOND;
    let keys = workload::keys(1);

    let mut seconds = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        seconds[0].push(1.0 / on_disk.run(time)?);
        seconds[1].push(append(dir.path(), time)?);
        seconds[2].push(1.0 / in_memory.run(time)?);
        seconds[3].push(runtime.block_on(async {
            let (start, mut puts) = (Instant::now(), 0);
            while puts == 0 || start.elapsed() < time {
                let mut batch = PutBatch::new();
                batch.push(&keys[0], workload::point(0, second));
                store.apply(&batch).await?;
                (puts, second) = (puts + 1, second + 1);
            }
            Ok::<_, metrics_server::store::StoreError>(
                start.elapsed().as_secs_f64() / f64::from(puts),
            )
        })?);
    }
    let [on_disk, bare, in_memory, at_store] = seconds;
    let reference = "a bare append and `fdatasync`";
    let row =
        Row::rounds("one put at a time, over a socket", Unit::Seconds, &on_disk, reference, &bare);
    report.push(row.bar(Bar::RatioAtMost(1.5)));
    report.push(Row::rounds(
        "one put at a time, at the store",
        Unit::Seconds,
        &at_store,
        reference,
        &bare,
    ));
    report.push(Row::rounds(
        "one put at a time, `MemoryStore`, over a socket",
        Unit::Seconds,
        &in_memory,
        reference,
        &bare,
    ));
    report.note(
        "The bare append is of the same put, from a thread that does nothing else, to a file that grows as a \
         log does.",
    );
    Ok(())
}

/// Appends a put and syncs, again and again. Returns how long one takes.
fn append(dir: &Path, time: Duration) -> Outcome<f64> {
    let mut file = OpenOptions::new().append(true).create(true).open(dir.join("append"))?;
    let mut lines = Lines::new(0..1);
    let (start, mut puts) = (Instant::now(), 0);
    while puts == 0 || start.elapsed() < time {
        file.write_all(lines.next())?;
        file.sync_data()?;
        puts += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(puts))
}

/// Many connections, each with some puts in flight, over sockets.
fn connections(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let (rounds, time) = options.choose((1, 0), (3, 500), (9, 1_000));
    let time = Duration::from_millis(time);
    let disk = Peer::disk(dir.path())?;
    let (memory, nothing) = (Peer::memory()?, Peer::nothing()?);
    let connect = |peer: &Peer| Load::connect(peer.addr(), CONNECTIONS, IN_FLIGHT);
    let mut loads = [connect(&disk)?, connect(&memory)?, connect(&nothing)?];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (load, rates) in loads.iter_mut().zip(&mut rates) {
            rates.push(load.run(time)?);
        }
    }
    let [on_disk, in_memory, limit] = rates;
    let what =
        format!("{CONNECTIONS} connections × {IN_FLIGHT} puts in flight, every batch synced");
    let row = Row::rounds(what, Unit::Rate, &on_disk, "`MemoryStore`", &in_memory);
    report.push(row.bar(Bar::AtLeast(1e6)).bar(Bar::RatioAtLeast(0.6)));
    let what = "the same, a store that does nothing";
    report.push(Row::rounds(what, Unit::Rate, &limit, "`MemoryStore`", &in_memory));
    drop(loads);
    let stats = disk.stop()?;
    report.note(format!("The store on disk: {} in all rounds.", stats.trim()));
    Ok(())
}

/// The same at the store: tasks instead of connections.
fn tasks(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let (rounds, time) = options.choose((1, 0), (3, 500), (9, 1_000));
    let time = Duration::from_millis(time);
    let runtime = Runtime::new()?;
    let disk = Arc::new(runtime.block_on(DiskStore::open(dir.path()))?);
    let memory = Arc::new(MemoryStore::new().max_bytes(usize::MAX));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut on_disk, mut in_memory) = (Tasks::new(disk.clone()), Tasks::new(memory));
    for _ in 0..rounds {
        theirs.push(runtime.block_on(in_memory.run(time))?);
        ours.push(runtime.block_on(on_disk.run(time))?);
    }
    let what = format!("{CONNECTIONS} tasks × {IN_FLIGHT} puts in flight, at the store");
    report.push(Row::rounds(what, Unit::Rate, &ours, "`MemoryStore`", &theirs));
    runtime.block_on(disk.close());
    Ok(())
}

/// Tasks that each apply one batch after the other.
struct Tasks<S> {
    store: Arc<S>,
    /// The next second of each task.
    seconds: Vec<i64>,
}

impl<S: Store> Tasks<S> {
    fn new(store: Arc<S>) -> Self {
        Self { store, seconds: vec![workload::FIRST_SECOND; CONNECTIONS] }
    }

    /// Puts for some time, and returns how many puts were applied in a second.
    async fn run(&mut self, time: Duration) -> Outcome<f64> {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (task, first) in self.seconds.iter().copied().enumerate() {
            let store = Arc::clone(&self.store);
            tasks.spawn(async move {
                let first_key = task * IN_FLIGHT;
                let keys = workload::keys(first_key + IN_FLIGHT).split_off(first_key);
                let (mut batch, mut second) = (PutBatch::new(), first);
                while second == first || start.elapsed() < time {
                    batch.clear();
                    for (index, key) in keys.iter().enumerate() {
                        batch.push(key, workload::point(first_key + index, second));
                    }
                    store.apply(&batch).await?;
                    second += 1;
                }
                Ok::<_, metrics_server::store::StoreError>((task, second))
            });
        }
        let mut puts = 0;
        while let Some(ended) = tasks.join_next().await {
            let (task, second) = ended??;
            puts += (second - self.seconds[task]) as usize * IN_FLIGHT;
            self.seconds[task] = second;
        }
        Ok(puts as f64 / start.elapsed().as_secs_f64())
    }
}
