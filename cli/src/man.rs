//! `metrics man`: the manual page, made from the same text as `--help`.

use std::io::{self, Write};

use crate::failure::Failure;

/// Prints the manual page
///
/// To read it: `metrics man | man -l -`
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {}

/// Prints the manual page of `command`.
pub(crate) fn run(ManArgs {}: &ManArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut page = Vec::new();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render(&mut page)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_uppercase();
        writeln!(page, ".SH \"METRICS {name}\"")?;
        let man = clap_mangen::Man::new(command.clone());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(io::stdout().write_all(&page)?)
}
