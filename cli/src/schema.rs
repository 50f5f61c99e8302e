//! `metrics schema`, and the options of a store in ClickHouse.

use std::{
    io::{self, Write},
    time::Duration,
};

use metrics_server::store::ClickHouseOptions;

use crate::{
    failure::{Failure, chain},
    times,
};

/// Prints the statements that create the tables of a store in ClickHouse
///
/// `metrics serve --store` executes them itself if tables are missing. Nothing is sent.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {
    /// The store, as `metrics serve` has it: clickhouse://USER:PASSWORD@HOST:PORT,../DATABASE?OPTION=VALUE&..
    #[arg(long, env = "METRICS_STORE", value_name = "STORE", hide_env_values = true)]
    store: String,
    /// How long points are kept, such as 400d [default: for ever]
    #[arg(long, env = "METRICS_KEEP", value_name = "TIME")]
    keep: Option<String>,
}

pub(crate) fn run(args: &SchemaArgs) -> Result<(), Failure> {
    let keep = args.keep.as_deref().map(|keep| times::length("--keep", keep)).transpose()?;
    for statement in clickhouse_options(&args.store, keep)?.schema() {
        writeln!(io::stdout(), "{statement};")?;
    }
    Ok(())
}

/// Parses the URL of a store in ClickHouse. The error does not show it, since it may hold a password.
pub(crate) fn clickhouse_options(
    url: &str,
    keep: Option<Duration>,
) -> Result<ClickHouseOptions, Failure> {
    let options: ClickHouseOptions =
        url.parse().map_err(|error| Failure::usage(chain(&error)).context("--store"))?;
    Ok(match keep {
        Some(keep) => options.keep(keep),
        None => options,
    })
}
