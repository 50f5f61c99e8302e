//! How cost grows with points, callers and connections: tables on standard output, pictures in a
//! folder, and what memory was agreed on.
//!
//!     cargo bench --bench growth                     minutes; draws into `benches/results`
//!     cargo bench --bench growth -- --out FOLDER     draws into FOLDER
//!     cargo bench --bench growth -- --quick          seconds; draws into the target folder
//!
//! Memory is read from `/proc`, so this runs on Linux alone.

use std::{env, error::Error, fs, path::PathBuf};

use curve::Scale;

#[allow(dead_code, reason = "here are no round trips of a lone caller")]
mod baseline;
#[allow(dead_code, reason = "here is one contest of many, and it has no bars")]
mod contest;
mod curve;
mod memory;
#[allow(dead_code, reason = "`siege` alone asks what a peer has to say at its end")]
mod peer;
#[allow(dead_code, reason = "here nothing is computed, and nobody is alone")]
mod workload;

fn main() -> Result<(), Box<dyn Error>> {
    if peer::serve_if_asked()? || curve::measure_client_if_asked()? {
        return Ok(());
    }
    // Thousands of connections need more descriptors than a shell gives; peers inherit the limit.
    rlimit::increase_nofile_limit(4096)?;
    let Options { scale, folder } = Options::from_args()?;
    fs::create_dir_all(&folder)?;
    curve::measure(&scale, &folder)
}

/// How far to go, and where to draw.
struct Options {
    scale: Scale,
    folder: PathBuf,
}

impl Options {
    fn from_args() -> Result<Self, &'static str> {
        let args: Vec<_> = env::args().skip(1).collect();
        let given = |flag| args.iter().any(|arg| arg == flag);
        let temporary = concat!(env!("CARGO_TARGET_TMPDIR"), "/growth");
        let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results");
        // `cargo test` runs benches without `--bench`, to see that they work.
        let (scale, folder) = if given("--test") || !given("--bench") {
            (Scale::TEST, temporary)
        } else if given("--quick") {
            (Scale::QUICK, temporary)
        } else {
            (Scale::FULL, committed)
        };
        let folder = match args.iter().position(|arg| arg == "--out") {
            Some(at) => args.get(at + 1).ok_or("--out needs a folder")?,
            None => folder,
        };
        Ok(Self { scale, folder: folder.into() })
    }
}
