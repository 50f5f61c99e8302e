//! `metrics export`: prints everything in a form that `import` reads.

use crate::{
    bulk::{self, RangeArgs},
    connect::{ServerArgs, block_on},
    failure::Failure,
    output::{Format, OutputArgs, Printer},
    progress,
    selection::Selection,
};

/// Prints everything that is stored, as lines that `import` reads
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A key or a pattern: * is any number of characters, ? is one. A pattern reads all keys
    #[arg(default_value = "*", value_name = "KEY")]
    keys: String,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &ExportArgs) -> Result<(), Failure> {
    args.range.check()?;
    let selection = Selection::new(&[args.keys.as_str()])?;
    block_on(async {
        let client = args.server.connect().await?;
        let mut printer = Printer::new(args.output.format_or(Format::Line));
        let progress = progress::bar(None, "exporting");
        let what = (&selection, args.range);
        let count = bulk::read(&client, &args.server, what, |sample| {
            progress.inc(1);
            printer.print(&sample.key, sample.point)
        })
        .await?;
        printer.finish()?;
        progress.finish_and_clear();
        eprintln!("exported {count} points");
        Ok(())
    })
}
