//! `metrics man`: the manual page, made from the same text as `--help`.

use std::io::{self, Write};

use clap::{Arg, Command};

use crate::failure::Failure;

/// Prints the manual page
///
/// To read it: `metrics man | man -l -`
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {}

/// Prints the manual page of `command`.
pub(crate) fn run(ManArgs {}: &ManArgs, mut command: Command) -> Result<(), Failure> {
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    writeln!(page, ".SH SYNOPSIS\n\\fBmetrics\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]")?;
    writeln!(page, ".SH COMMANDS")?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        render_command(&mut page, command)?;
    }
    page.write_all(FURTHER_SECTIONS.trim_start().as_bytes())?;
    Ok(io::stdout().write_all(&page)?)
}

/// Renders one subcommand: its usage, what it does, its arguments.
fn render_command(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    writeln!(page, ".SS \"{}\"", escaped(usage.trim_start_matches("Usage: ").trim()))?;
    let about = command.get_long_about().or(command.get_about());
    for paragraph in about.map(ToString::to_string).unwrap_or_default().split("\n\n") {
        writeln!(page, ".PP\n{}", escaped(paragraph))?;
    }
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        render_argument(page, argument)?;
    }
    Ok(())
}

/// Renders an option, or an argument without a name.
fn render_argument(page: &mut Vec<u8>, argument: &Arg) -> io::Result<()> {
    let names = [
        argument.get_short().map(|short| format!("-{short}")),
        argument.get_long().map(|long| format!("--{long}")),
    ];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let value = argument.get_action().takes_values().then(|| {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    });
    let value = value.map(|value| format!("\\fI{}\\fR", escaped(&value))).unwrap_or_default();
    let gap = if names.is_empty() || value.is_empty() { "" } else { " " };
    writeln!(page, ".TP\n\\fB{}\\fR{gap}{value}", escaped(&names))?;
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values = argument.get_possible_values();
    let values = values.iter().map(|value| value.get_name()).collect::<Vec<_>>().join(", ");
    if argument.get_action().takes_values() && !values.is_empty() {
        help.push_str(&format!(" [{values}]"));
    }
    if argument.get_action().takes_values()
        && let [default] = argument.get_default_values()
    {
        help.push_str(&format!(" [default: {}]", default.display()));
    }
    if let Some(variable) = argument.get_env() {
        help.push_str(&format!(" [{}]", variable.display()));
    }
    writeln!(page, "{}", escaped(&help))
}

/// Escapes text for roff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    let lines = text.lines().map(|line| {
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What no option says.
const FURTHER_SECTIONS: &str = r#"
.SH TIMES
Seconds since 1970, RFC 3339 (2026\-11\-27T09:00:00Z), a date or date and time in this host's time zone, a time ago
(\-90s, \-5m, \-6h, \-30d, \-2w), or now. Both ends of \-\-from and \-\-until are included.
.SH "EXIT STATUS"
.TP
0
Done. Also if the reader of the output has gone, as with head(1).
.TP
1
The server refused something, or a line of an import is invalid.
.TP
2
Usage or configuration.
.TP
3
The server cannot be reached, or does not answer in time.
.TP
4
get \-\-fail or plot found nothing.
.TP
130, 143
Ended by SIGINT or SIGTERM. serve ends with 0 at the first one, after its connections have ended.
.SH ENVIRONMENT
An option comes before its METRICS_ variable, named above in brackets; the variable before the configuration file;
the file before the default.
.TP
RUST_LOG
What serve logs to standard error, such as info,metrics_server=debug.
.TP
NO_COLOR
No colours, if it is not empty.
.TP
TMPDIR
Where demo and bench keep the folder of their server.
.SH FILES
.TP
FILE.import
How far an import of FILE has come, while it runs and after it was interrupted. import \-\-resume reads it.
.SH EXAMPLES
.nf
metrics serve \-\-data /var/lib/metrics \-\-keep 400d
metrics put palm.cpu 23.7
metrics get palm.cpu \-\-from \-6h
metrics watch 'palm.*'
metrics plot 'palm.*' \-\-from \-6h \-\-file palm.svg
metrics export > points
metrics import points \-\-resume
.fi
"#;
