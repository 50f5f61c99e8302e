//! `metrics completions`: what makes a shell complete the command line.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, failure::Failure};

/// Prints the completions for a shell
///
/// For bash: `metrics completions bash > /etc/bash_completion.d/metrics`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "metrics", &mut script);
    Ok(io::stdout().write_all(&script)?)
}
