//! Reads: everything by a raw reader, and one key at the store.

use std::{path::Path, time::Instant};

use metrics_client::Selector;
use metrics_server::{
    MemoryStore, Store,
    store::{DiskStore, PutBatch, Snapshot, StoreError},
};
use tokio::runtime::Runtime;

use crate::{
    Outcome, folder,
    load::{fill_lines, get_all},
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit, percentile},
    workload::{self, Lines},
};

const KEYS: usize = 1_000;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    everything(options, report)?;
    one_key(options, report)
}

/// `get *`, over a socket.
fn everything(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let seconds = options.choose(10, 1_000, 10_000);
    let rounds = options.choose(1, 3, 9);
    let points = (seconds * KEYS) as f64;
    let disk = sealed(dir.path(), seconds)?;
    let memory = Peer::memory()?;
    fill_lines(memory.addr(), &mut Lines::new(0..KEYS), seconds)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (disk_bytes, disk_took) = get_all(disk.addr())?;
        let (memory_bytes, memory_took) = get_all(memory.addr())?;
        if disk_bytes != memory_bytes {
            return Err(format!("answers of {disk_bytes} and {memory_bytes} bytes").into());
        }
        ours.push(points / disk_took.as_secs_f64());
        theirs.push(points / memory_took.as_secs_f64());
    }
    let what = format!("`get *` of {} M points from blocks, over a socket", points / 1e6);
    let row = Row::rounds(what, Unit::Rate, &ours, "`MemoryStore`", &theirs);
    report.push(row.bar(Bar::RatioAtLeast(0.5)));
    Ok(())
}

/// Returns a server whose points are in blocks: it was stopped and started.
pub(crate) fn sealed(dir: &Path, seconds: usize) -> Outcome<Peer> {
    let disk = Peer::disk(dir)?;
    fill_lines(disk.addr(), &mut Lines::new(0..KEYS), seconds)?;
    disk.stop()?;
    Ok(Peer::disk(dir)?)
}

/// `get` of one key, at the store.
fn one_key(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let (keys, seconds, gets) =
        options.choose((10, 100, 10), (1_000, 1_000, 2_000), (1_000, 1_000, 20_000));
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let memory = MemoryStore::new();
        let disk = DiskStore::open(dir.path()).await?;
        fill(&disk, keys, seconds).await?;
        disk.close().await;
        // The points are in blocks alone.
        let disk = DiskStore::open(dir.path()).await?;
        fill(&memory, keys, seconds).await?;
        let selectors: Vec<_> = workload::keys(keys).into_iter().map(Selector::Key).collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for get in 0..gets {
            // Neighbours are not read one after the other.
            let selector = &selectors[get * 7_919 % keys];
            ours.push(read(&disk, selector, seconds).await?);
            theirs.push(read(&memory, selector, seconds).await?);
        }
        let what = format!("`get` of one key of {seconds} points from blocks, at the store");
        let row = Row::rounds(what, Unit::Seconds, &ours, "`MemoryStore`", &theirs);
        report.push(row.bar(Bar::AtMost(100e-6)));
        let at = |part| percentile(&ours, part) * 1e6;
        report.note(format!(
            "`get` of one key: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs of {gets}, {keys} keys in turn.",
            at(0.5), at(0.99), at(0.999)
        ));
        disk.close().await;
        Ok(())
    })
}

async fn fill(store: &impl Store, keys: usize, seconds: usize) -> Result<(), StoreError> {
    let keys = workload::keys(keys);
    let mut batch = PutBatch::new();
    for second in (workload::FIRST_SECOND..).take(seconds) {
        batch.clear();
        for (index, key) in keys.iter().enumerate() {
            batch.push(key, workload::point(index, second));
        }
        store.apply(&batch).await?;
    }
    Ok(())
}

/// Reads what is selected, and returns how long it took, in seconds.
async fn read(store: &impl Store, selector: &Selector, expected: usize) -> Outcome<f64> {
    let start = Instant::now();
    let mut snapshot = store.get(selector).await?;
    let mut points = 0;
    while let Some(block) = snapshot.next_block().await? {
        points += block.points.len();
    }
    let took = start.elapsed().as_secs_f64();
    if points == expected { Ok(took) } else { Err(format!("{points} points were read").into()) }
}
