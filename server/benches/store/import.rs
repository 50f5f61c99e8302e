//! Ten million points over a socket, as `metrics import` sends them.
//!
//! The program itself is measured where it has been built: it must read and parse the file too.

use std::{
    env,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use metrics_client::{MetricsClient, Sample};
use tokio::runtime;

use crate::{
    Outcome, folder,
    load::fill_lines,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::{self, FIRST_SECOND, Lines},
};

const KEYS: usize = 1_000;

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let seconds = options.choose(10, 1_000, 10_000);
    let rounds = options.choose(1, 1, 3);
    let dir = folder(options)?;
    let points = (seconds * KEYS) as f64;
    let program = program();
    let file = dir.path().join("points.put");
    if program.is_some() {
        let mut file = BufWriter::new(File::create(&file)?);
        let mut lines = Lines::new(0..KEYS);
        for _ in 0..seconds {
            file.write_all(lines.next())?;
        }
        file.flush()?;
    }
    let (mut rates, mut number) = ([const { Vec::new() }; 6], 0);
    for _ in 0..rounds {
        let mut measure = |sender: &dyn Fn(&Peer) -> Outcome<Duration>| {
            number += 1;
            let disk = sender(&Peer::disk(&dir.path().join(number.to_string()))?)?;
            let memory = sender(&Peer::memory()?)?;
            Ok::<_, Box<dyn std::error::Error>>(
                [disk, memory].map(|took| points / took.as_secs_f64()),
            )
        };
        let raw = measure(&|peer| fill_lines(peer.addr(), &mut Lines::new(0..KEYS), seconds))?;
        let client = measure(&|peer| put_all(peer, seconds))?;
        let imported = match &program {
            Some(program) => measure(&|peer| import(program, peer, &file))?,
            None => [f64::NAN; 2],
        };
        for (rates, rate) in rates.iter_mut().zip([raw, client, imported].into_iter().flatten()) {
            rates.push(rate);
        }
    }
    let millions = points / 1e6;
    let [raw_disk, raw_memory, client_disk, client_memory, program_disk, program_memory] = &rates;
    let mut push = |what: &str, disk: &[f64], memory: &[f64], bars: &[Bar]| {
        let what = format!("{what}, {millions} M points to disk");
        let row = Row::rounds(what, Unit::Rate, disk, "to `MemoryStore`", memory);
        report.push(bars.iter().fold(row, |row, &bar| row.bar(bar)));
    };
    if program.is_some() {
        push("`metrics import`", program_disk, program_memory, &[Bar::AtLeast(1.5e6)]);
    } else {
        eprintln!(
            "\nSKIPPED: `metrics import`, which is not built here.\n\
             SKIPPED: `cargo build --release -p metrics-cli`, and run this again.\n"
        );
    }
    push("`put_all`", client_disk, client_memory, &[Bar::AtLeast(1.5e6)]);
    push("a raw socket", raw_disk, raw_memory, &[]);
    report.note("All wait for the last acknowledgement. Sender and server share the two cores.");
    Ok(())
}

/// Finds the program `metrics` beside the bench program.
fn program() -> Option<PathBuf> {
    // `target/release/deps/store-0123456789abcdef`
    let path = env::current_exe().ok()?.parent()?.parent()?.join("metrics");
    path.exists().then_some(path)
}

fn import(program: &Path, peer: &Peer, file: &Path) -> Outcome<Duration> {
    let start = Instant::now();
    let status = Command::new(program)
        .args(["import", "--server", &peer.addr().to_string()])
        .arg(file)
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("`metrics import` has failed: {status}").into());
    }
    Ok(start.elapsed())
}

/// Puts batches by the client, while a thread prepares the next ones, as an import parses them.
fn put_all(peer: &Peer, seconds: usize) -> Outcome<Duration> {
    const SECONDS_AT_ONCE: usize = 32;
    let (sender, batches) = mpsc::sync_channel(2);
    thread::spawn(move || {
        let keys = workload::keys(KEYS);
        let seconds: Vec<i64> = (FIRST_SECOND..).take(seconds).collect();
        for seconds in seconds.chunks(SECONDS_AT_ONCE) {
            let samples = seconds.iter().flat_map(|&second| {
                keys.iter().enumerate().map(move |(index, key)| Sample {
                    key: key.clone(),
                    point: workload::point(index, second),
                })
            });
            // Fails if a put has failed.
            if sender.send(samples.collect::<Vec<_>>()).is_err() {
                return;
            }
        }
    });
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = MetricsClient::connect(peer.addr()).await?;
        let start = Instant::now();
        for samples in batches {
            client.put_all(&samples).await?;
        }
        let took = start.elapsed();
        client.close().await?;
        Ok(took)
    })
}
