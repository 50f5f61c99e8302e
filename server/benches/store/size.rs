//! How many bytes a point takes on disk: all files of the folder, once the store is closed.

use std::time::Instant;

use metrics_client::{Key, Point};
use metrics_server::{
    Store,
    store::{DiskStore, PutBatch},
};
use tokio::runtime::Runtime;

use crate::{
    Outcome, bytes_of, folder,
    options::Options,
    recording::Recording,
    report::{Bar, Report, Row, Unit},
    workload,
};

/// A timestamp and a value.
const RAW_BYTES: f64 = 16.0;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let recording = Recording::read()?;
    let hosts = options.choose(1, 4, 40);
    let keys = recording.keys(hosts);
    // Each host sends all its series each second.
    let recorded = recording.seconds().take(options.choose(20, 1200, 1200)).flat_map(|second| {
        let series = recording.series.len();
        (0..hosts).map(move |host| {
            second.iter().map(|&(index, point)| (host * series + index, point)).collect()
        })
    });
    let what = format!("the recording, {hosts} hosts");
    report.push(store(options, &what, &keys, recorded)?.bar(Bar::AtMost(2.0)));

    let count = options.choose(200, 2_000, 20_000);
    let keys = workload::keys(count);
    let seconds = options.choose(10, 500, 500);
    let synthetic = (workload::FIRST_SECOND..).take(seconds).flat_map(|second| {
        let batches = (0..count).step_by(BATCH);
        batches.map(move |first| {
            let keys = first..count.min(first + BATCH);
            keys.map(|key| (key, workload::point(key, second))).collect()
        })
    });
    let what = format!("synthetic, {count} keys × {seconds} points");
    report.push(store(options, &what, &keys, synthetic)?.bar(Bar::AtMost(4.0)));
    report.note(
        "Against a timestamp and a value of 8 bytes each. In the order of time, as agents send.",
    );
    Ok(())
}

const BATCH: usize = 1_000;

/// Stores batches, closes the store, and returns what its folder takes.
fn store(
    options: &Options,
    what: &str,
    keys: &[Key],
    batches: impl Iterator<Item = Vec<(usize, Point)>>,
) -> Outcome<Row> {
    let dir = folder(options)?;
    let start = Instant::now();
    let points = Runtime::new()?.block_on(async {
        let store = DiskStore::open(dir.path()).await?;
        let (mut batch, mut points) = (PutBatch::new(), 0);
        for puts in batches {
            batch.clear();
            points += puts.len();
            puts.iter().for_each(|&(key, point)| batch.push(&keys[key], point));
            store.apply(&batch).await?;
        }
        store.close().await;
        Ok::<_, Box<dyn std::error::Error>>(points)
    })?;
    let millions = points as f64 / 1e6;
    let rate = millions / start.elapsed().as_secs_f64();
    let bytes = bytes_of(dir.path())?;
    let what = format!("{what}: {millions:.1} M points, stored at {rate:.2} M/s with the close");
    Ok(Row::new(what, Unit::BytesAPoint, bytes as f64 / points as f64)
        .against("16 bytes", RAW_BYTES))
}
