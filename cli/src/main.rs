//! The program `metrics`: serves, sends, reads, imports and exports metrics.

mod agent;
mod backup;
mod bench;
mod bulk;
mod chart;
mod check;
mod checkpoint;
mod completions;
mod config;
mod connect;
mod delete;
mod demo;
mod embedded;
mod export;
mod failure;
mod folder;
mod get;
mod http;
mod http_limit;
mod import;
mod lines;
mod man;
mod memory;
mod output;
mod plot;
mod progress;
mod put;
mod relay;
mod schema;
mod screen;
mod selection;
mod serve;
mod service;
mod signals;
mod size;
mod text;
mod times;
mod watch;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;

/// Serves, sends, reads, imports and exports metrics.
///
/// Exit status: 0 done; 1 the server refused something, or something is damaged; 2 usage or configuration; 3 the server cannot be
/// reached or does not answer in time; 4 nothing was found (`get --fail`, `plot`).
#[derive(Debug, Parser)]
#[command(name = "metrics", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Agent(Box<agent::AgentArgs>),
    Put(put::PutArgs),
    Get(get::GetArgs),
    Watch(watch::WatchArgs),
    Plot(plot::PlotArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Check(check::CheckArgs),
    Backup(backup::BackupArgs),
    Delete(delete::DeleteArgs),
    Schema(schema::SchemaArgs),
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<(), Failure> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    match cli.command {
        Command::Serve(args) => serve::run(*args, matches),
        Command::Agent(args) => agent::run(&args),
        Command::Put(args) => put::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
