//! Opening after `kill -9`: ten million points in blocks, and a full head in the log.

use std::{fs, path::Path, time::Instant};

use metrics_server::store::DiskStore;
use tokio::runtime::Runtime;

use crate::{
    Outcome, folder,
    load::fill_lines,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::Lines,
};

const KEYS: usize = 1_000;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let seconds = options.choose(10, 1_000, 10_000);
    // One second less than what is merged into blocks.
    let head_seconds = options.choose(10, 999, 999);
    let rounds = options.choose(1, 1, 5);
    let dir = folder(options)?;
    let mut lines = Lines::new(0..KEYS);
    let peer = Peer::disk(dir.path())?;
    fill_lines(peer.addr(), &mut lines, seconds)?;
    peer.stop()?;
    let peer = Peer::disk(dir.path())?;
    fill_lines(peer.addr(), &mut lines, head_seconds)?;
    peer.kill()?;

    let runtime = Runtime::new()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // Opened where nothing else is, because opening changes the folder.
        let copy = folder(options)?;
        copy_files(dir.path(), copy.path())?;
        let start = Instant::now();
        read_files(copy.path())?;
        theirs.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let store = runtime.block_on(DiskStore::open(copy.path()))?;
        ours.push(start.elapsed().as_secs_f64());
        let stats = store.stats();
        let (blocks, head) = ((seconds * KEYS) as u64, (head_seconds * KEYS) as u64);
        if (stats.block_points, stats.head_points) != (blocks, head) {
            return Err(format!("points were lost: {stats:?}").into());
        }
    }
    let [millions, head] = [seconds, head_seconds].map(|seconds| (seconds * KEYS) as f64 / 1e6);
    let what = format!("{millions} M points in blocks, {head} M in the log, after `kill -9`");
    let row = Row::rounds(what, Unit::Seconds, &ours, "reading the files", &theirs);
    report.push(row.bar(Bar::AtMost(1.0)));
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Outcome {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            copy_files(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn read_files(dir: &Path) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_files(&entry.path())?;
        } else {
            std::hint::black_box(fs::read(entry.path())?);
        }
    }
    Ok(())
}
