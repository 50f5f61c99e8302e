//! `metrics watch`: the newest values of some keys, as they change.

mod app;
mod draw;
mod follow;
mod interactive;
mod poll;
mod table;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use crate::{
    connect::{ServerArgs, block_on},
    failure::Failure,
    output::OutputArgs,
    screen,
    selection::Selection,
    times,
};
use table::SortBy;

/// Shows the newest values of some keys, as they change
///
/// On a terminal a table with a chart of the last points of each key; ? shows its keys. Elsewhere, or with -o, the newest
/// point of each key, and then each point that is newer. The protocol can only ask for all points of a key, or of all
/// keys: where answers are long it is asked less often, for at most a tenth of the time. Keys that are new are found
/// when all keys are read.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// A key or a pattern: * is any number of characters, ? is one
    #[arg(default_value = "*", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Sets how often the server is asked, such as 1s or 5m
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = interval)]
    interval: Duration,
    /// Sets by what the table is sorted
    #[arg(long, value_enum, default_value_t = SortBy::Name, value_name = "COLUMN")]
    sort: SortBy,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    match times::parse_length(text)? {
        0 => Err("use at least 1s".into()),
        seconds => Ok(Duration::from_secs(seconds.unsigned_abs())),
    }
}

pub(crate) fn run(args: &WatchArgs) -> Result<(), Failure> {
    let selection = Selection::new(&args.patterns)?;
    // A table that is drawn over needs a cursor.
    let is_interactive = io::stdout().is_terminal() && !screen::is_dumb() && !args.output.is_set();
    block_on(async {
        if is_interactive {
            interactive::run(args, &selection).await
        } else {
            follow::run(args, &selection).await
        }
    })
}
