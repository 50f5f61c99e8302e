//! The benches, as one program with a subcommand for each.
//!
//!     cargo bench --bench bench -- compare [FILTER]        every comparison, candidates interleaved: ratios
//!     cargo bench --bench bench -- throughput [FILTER]     the same with criterion: history
//!     cargo bench --bench bench -- scaling [--out FOLDER]  how cost grows, and memory: tables and pictures
//!     cargo bench --bench bench -- overload [ATTACK ..]    hostile peers against a server, and an honest client
//!     cargo bench --bench bench -- sustained-load [SECONDS [RATE]]
//!                                                          whether a reporter keeps up
//!     cargo bench --bench bench -- faults [ROW ..]         what the faults of `docs/faults.md` cost today
//!
//! Each takes `--quick` (seconds instead of minutes) and `--test` (each part once). Instructions are
//! counted by a program of its own, `instructions`, so that nothing else changes its code.

use std::{env, error::Error};

mod baseline;
mod compare;
#[cfg(target_os = "linux")]
mod faults;
mod overload;
mod scaling;
mod scenario;
mod support;
mod sustained_load;
mod throughput;

/// A subcommand, and what runs it with the arguments behind it.
type Command = (&'static str, fn(&[String]) -> Result<(), Box<dyn Error>>);

const COMMANDS: &[Command] = &[
    ("compare", compare::run),
    ("throughput", throughput::run),
    ("scaling", scaling::run),
    ("overload", overload::run),
    ("sustained-load", sustained_load::run),
    #[cfg(target_os = "linux")]
    ("faults", faults::run),
];

fn main() -> Result<(), Box<dyn Error>> {
    if support::server_process::serve_if_asked()? || scaling::measure_client_if_asked()? {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    if faults::run_row_if_asked()? {
        return Ok(());
    }
    let args: Vec<_> = env::args().skip(1).collect();
    let Some(name) = args.iter().find(|arg| !arg.starts_with('-')) else {
        // `cargo test --benches` runs this without arguments, to see that everything works.
        if support::mode::Mode::current() == support::mode::Mode::Test {
            return COMMANDS.iter().try_for_each(|(_, run)| run(&[]));
        }
        return Err(format!("a subcommand is missing: {}", names()).into());
    };
    let (_, run) = COMMANDS
        .iter()
        .find(|(command, _)| command == name)
        .ok_or_else(|| format!("unknown subcommand `{name}`: {}", names()))?;
    // The flags that select the mode are read by `Mode`.
    let is_mode = |arg: &String| ["--bench", "--quick", "--test"].contains(&&**arg);
    let rest: Vec<_> = args.iter().filter(|arg| *arg != name && !is_mode(arg)).cloned().collect();
    run(&rest)
}

fn names() -> String {
    COMMANDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
