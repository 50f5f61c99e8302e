//! `metrics export`: prints everything in a form that `import` reads.

use metrics_client::Selector;

use crate::{
    bulk::{self, RangeArgs},
    connect::{ServerArgs, block_on},
    failure::Failure,
    output::{Format, OutputArgs, Printer},
    progress,
};

/// Prints everything that is stored, as lines that `import` reads
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A key, or * for all keys
    #[arg(default_value = "*")]
    selector: Selector,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &ExportArgs) -> Result<(), Failure> {
    args.range.check()?;
    block_on(async {
        let client = args.server.connect().await?;
        let mut printer = Printer::new(args.output.format_or(Format::Line));
        let progress = progress::bar(None, "exporting");
        let what = (&args.selector, args.range);
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
