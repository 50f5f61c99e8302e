//! What the faults of `docs/faults.md` cost today: one line for each row.
//!
//! Each row runs in a process of its own, which is killed after a while, because a fault may be that
//! it hangs.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Read},
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::support::mode::Mode;

mod exporter;
mod recorder;
mod reporter;
mod server;
mod spool;
mod support;

/// What a row has shown, in words.
type Outcome = Result<String, Box<dyn Error>>;

struct Row {
    name: &'static str,
    /// Whether it takes seconds. Such rows are left out of a quick run.
    is_slow: bool,
    run: fn() -> Outcome,
}

const fn quick(name: &'static str, run: fn() -> Outcome) -> Row {
    Row { name, is_slow: false, run }
}

const fn slow(name: &'static str, run: fn() -> Outcome) -> Row {
    Row { name, is_slow: true, run }
}

const ROWS: [Row; 38] = [
    quick("A1", recorder::log_layer_that_counts),
    slow("A2", exporter::exports_within_a_second),
    slow("A3", reporter::close_on_a_slow_server),
    slow("A4", reporter::close_with_a_busy_pool),
    slow("A5", reporter::live_samples_with_a_busy_pool),
    quick("A7", exporter::shutdown_after_the_reporter),
    slow("A8", spool::relative_path),
    quick("A9", exporter::names_in_two_scopes),
    quick("A10", recorder::many_equal_values),
    slow("A11", recorder::gauge_that_is_idle),
    slow("A12", spool::segment_from_a_backup),
    slow("A13", recorder::rates),
    slow("A14", recorder::handle_beyond_max_series),
    quick("A15", recorder::slowest_of_fifty),
    slow("A16", spool::moved_directory),
    slow("A17", spool::removed_directory),
    slow("A18", spool::smaller_bound),
    slow("A19", spool::many_restarts),
    slow("A20", reporter::acknowledged_during_close),
    quick("A21", reporter::guard_without_a_thread),
    slow("A22", recorder::seconds_under_load),
    quick("A23", exporter::attributes_of_one_name),
    quick("A24", recorder::greatest_values),
    slow("A25", spool::full_disk),
    quick("A26", recorder::settings),
    slow("S1", server::frozen_process),
    slow("S2", server::gets_of_a_full_store),
    slow("S5", server::store_that_fails_for_a_while),
    slow("S6", server::few_descriptors),
    slow("S7", server::store_that_hangs),
    slow("S8", server::http_with_a_put),
    quick("S10", server::one_rejected_put),
    slow("S11", server::store_that_blocks),
    slow("S12", server::line_without_an_end),
    slow("S13", server::line_of_60_mib),
    slow("S14", server::what_is_told),
    // The servers of S1 and S6.
    slow(SERVER, server::serve),
    slow(IMPATIENT_SERVER, server::serve_impatiently),
];

const SERVER: &str = "server";
const IMPATIENT_SERVER: &str = "impatient-server";

/// The environment variable that makes this program run one row.
const ROW: &str = "METRICS_BENCH_FAULT";

/// When a row counts as hanging.
const LIMIT: Duration = Duration::from_secs(100);

/// Runs the rows that are named, or all.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let is_quick = Mode::current() != Mode::Full;
    let is_chosen = |row: &&Row| {
        let is_server = [SERVER, IMPATIENT_SERVER].contains(&row.name);
        let by_default = !(is_server || is_quick && row.is_slow);
        if args.is_empty() { by_default } else { args.iter().any(|arg| arg == row.name) }
    };
    for row in ROWS.iter().filter(is_chosen) {
        println!("{:<4} {}", row.name, in_process(row.name)?);
    }
    Ok(())
}

/// Runs one row, if this process was started for it, and says whether it was.
pub(crate) fn run_row_if_asked() -> Result<bool, Box<dyn Error>> {
    let Ok(name) = env::var(ROW) else {
        return Ok(false);
    };
    let row = ROWS.iter().find(|row| row.name == name).ok_or("no such row")?;
    println!("{}", (row.run)()?);
    Ok(true)
}

/// Runs a row in a process of its own, and returns what it has printed.
fn in_process(name: &str) -> io::Result<String> {
    let mut command = match name {
        // A small disk that only this process sees, which takes root.
        "A25" => in_shell("unshare", &["--mount"], "mount -t tmpfs -o size=300k tmpfs /mnt")?,
        _ => Command::new(env::current_exe()?),
    };
    if name == "A21" && is_root()? {
        // The limit of threads is not for root.
        command.uid(UNPRIVILEGED);
    }
    command.env(ROW, name).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = match command.spawn() {
        Ok(process) => process,
        // Another user may not be able to read this program.
        Err(error) => return Ok(format!("skipped: {error}")),
    };
    let start = Instant::now();
    while process.try_wait()?.is_none() {
        if start.elapsed() > LIMIT {
            process.kill()?;
            process.wait()?;
            return Ok(format!("hangs (stopped after {LIMIT:?})"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut said = String::new();
    if let Some(mut output) = process.stdout.take() {
        output.read_to_string(&mut said)?;
    }
    Ok(if said.is_empty() { "failed".into() } else { said.trim_end().into() })
}

/// This program, started by `program` and a shell behind a shell command.
fn in_shell(program: &str, args: &[&str], before: &str) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.args(args).args(["sh", "-c", &format!("{before} && exec \"$0\"")]);
    command.arg(env::current_exe()?);
    Ok(command)
}

fn is_root() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

/// A user without rights on most systems.
const UNPRIVILEGED: u32 = 65_534;
