//! What the store on disk, HTTP and taking points in cost, against their bars and others: a subcommand for each.
//!
//!     cargo bench -p metrics-server --bench store -- size       bytes a point, of the whole folder
//!     cargo bench -p metrics-server --bench store -- sync       synced puts, one at a time and from many connections
//!     cargo bench -p metrics-server --bench store -- import     ten million points over a socket
//!     cargo bench -p metrics-server --bench store -- read       all of ten million points, and one key of a million
//!     cargo bench -p metrics-server --bench store -- reopen     opening after `kill -9`
//!     cargo bench -p metrics-server --bench store -- memory     peak memory with a hundred million points
//!     cargo bench -p metrics-server --bench store -- others     the same against InfluxDB and SQLite
//!     cargo bench -p metrics-server --bench store -- parse      lines of InfluxDB, against another parser
//!     cargo bench -p metrics-server --bench store -- ingest     InfluxDB's and Graphite's lines over sockets, against puts
//!     cargo bench -p metrics-server --bench store -- http       HTTP: rendering, points, live browsers
//!     cargo bench -p metrics-server --bench store -- siege      what hostile HTTP clients cost (`--all-features`)
//!     cargo bench -p metrics-server --bench store -- all        all of these
//!
//! Each takes `--quick` (a tenth of the points or less), `--test` (each part once), `--dir FOLDER` (where
//! the stores are created: the disk that is measured) and `--svg FOLDER` (draws pictures). Candidates are interleaved,
//! so ratios within one run count. Linux only: memory is read from `/proc`.

#![allow(clippy::doc_markdown, reason = "InfluxDB and SQLite are names")]

use std::{
    env,
    error::Error,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

mod http;
mod import;
mod ingest;
mod lines;
mod load;
mod memory;
mod options;
mod others;
mod parse;
mod peer;
mod read;
mod recording;
mod reopen;
mod report;
mod size;
mod sync;
mod workload;

use options::Options;
use report::Report;

/// What a bench returns.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A subcommand, and what runs it.
type Command = (&'static str, fn(&Options, &mut Report) -> Outcome);

const COMMANDS: &[Command] = &[
    ("size", size::run),
    ("sync", sync::run),
    ("import", import::run),
    ("read", read::run),
    ("reopen", reopen::run),
    ("memory", memory::run),
    ("others", others::run),
    ("parse", parse::run),
    ("ingest", ingest::run),
    ("http", http::run),
    #[cfg(all(feature = "graphite", feature = "http"))]
    ("siege", http::siege::run),
];

fn main() -> Outcome {
    if peer::serve_if_asked()? {
        return Ok(());
    }
    let (options, names) = Options::of_args(env::args().skip(1))?;
    let is_all = names.iter().any(|name| name == "all") || (names.is_empty() && options.is_test());
    let mut commands: Vec<Command> = Vec::new();
    for name in names.iter().filter(|name| *name != "all") {
        let command = COMMANDS.iter().find(|(command, _)| command == name);
        let command = command.ok_or_else(|| format!("unknown subcommand `{name}`: {}", usage()));
        commands.push(*command?);
    }
    if is_all {
        commands = COMMANDS.to_vec();
    }
    if commands.is_empty() {
        return Err(format!("a subcommand is missing: {}", usage()).into());
    }
    for (name, run) in commands {
        let mut report = Report::new(name, options.is_full());
        run(&options, &mut report)?;
        report.print();
        if let Some(folder) = &options.svg {
            report.draw(folder)?;
        }
    }
    Ok(())
}

fn usage() -> String {
    let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
    format!("{}, all", names.join(", "))
}

/// Returns a temporary folder on the disk that is measured.
fn folder(options: &Options) -> Outcome<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(&options.dir)?)
}

/// Returns how many bytes the files of a folder and of its folders take: their lengths.
fn bytes_of(dir: &Path) -> io::Result<u64> {
    sum_of(dir, &Metadata::len)
}

/// Returns how many bytes they take on the disk: less, where a file is allocated in advance and not yet written.
fn allocated_bytes_of(dir: &Path) -> io::Result<u64> {
    sum_of(dir, &|metadata| metadata.blocks() * 512)
}

fn sum_of(dir: &Path, size: &dyn Fn(&Metadata) -> u64) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { sum_of(&entry.path(), size)? } else { size(&metadata) };
    }
    Ok(bytes)
}
