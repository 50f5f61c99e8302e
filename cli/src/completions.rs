//! `metrics completions`: what makes a shell complete the command line.

use std::io::{self, Write};

use clap_complete::Shell;

use crate::failure::Failure;

/// Prints the completions for a shell
///
/// For bash: `metrics completions bash > /etc/bash_completion.d/metrics`
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions for `command`.
pub(crate) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "metrics", &mut script);
    Ok(io::stdout().write_all(&script)?)
}
