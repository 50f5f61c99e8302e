//! The memory of a server with many points on disk.

use std::time::Instant;

use crate::{
    Outcome, bytes_of, folder,
    load::{fill_lines, get_all},
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::Lines,
};

const KEYS: usize = 1_000;
const MIB: f64 = 1024.0 * 1024.0;

/// What the points of the heads may take: one that is being merged, and the next, which may have twice
/// as many.
const HEAD_BYTES: f64 = 3.0 * 1_000_000.0 * 16.0;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let dir = folder(options)?;
    let seconds = options.choose(10, 1_000, 100_000);
    let points = (seconds * KEYS) as f64;
    let peer = Peer::disk(dir.path())?;
    let took = fill_lines(peer.addr(), &mut Lines::new(0..KEYS), seconds)?;
    let peak = |peer: &Peer| Ok::<_, std::io::Error>(peer.memory_bytes()?.1 as f64 / MIB);
    let while_writing = peak(&peer)?;
    get_all(peer.addr())?;
    let while_reading = peak(&peer)?;

    let bar = Bar::AtMost(HEAD_BYTES / MIB + 256.0);
    let raw = points * 16.0 / MIB;
    let millions = points / 1e6;
    for (what, peak) in [("stored", while_writing), ("stored and read once", while_reading)] {
        let what = format!("peak memory, {millions} M points {what}, {KEYS} keys");
        report.push(Row::new(what, Unit::MiB, peak).against("16 bytes a point", raw).bar(bar));
    }
    let start = Instant::now();
    peer.stop()?;
    let stopped = start.elapsed();
    report.note(format!(
        "Put over a socket at {:.2} M/s; {:.2} bytes a point on disk after the stop, which took \
         {stopped:.1?}. The bar: the points of \
         the heads, 3 M at 16 bytes, and 256 MiB.",
        millions / took.as_secs_f64(),
        bytes_of(dir.path())? as f64 / points,
    ));
    Ok(())
}
