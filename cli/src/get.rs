//! `metrics get`: prints what is stored.

use crate::{
    bulk::{self, RangeArgs},
    connect::{ServerArgs, block_on},
    failure::{Failure, Status},
    output::{OutputArgs, Printer},
    selection::Selection,
};

/// Prints what is stored for a key, or for all keys that match a pattern
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// A key or a pattern: * is any number of characters, ? is one. A pattern reads all keys
    #[arg(value_name = "KEY")]
    keys: String,
    #[command(flatten)]
    range: RangeArgs,
    /// Exits with status 4 if nothing was found
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &GetArgs) -> Result<(), Failure> {
    args.range.check()?;
    let selection = Selection::new(&[args.keys.as_str()])?;
    let count = block_on(async {
        let client = args.server.connect().await?;
        let mut printer = Printer::new(args.output.format());
        let what = (&selection, args.range);
        let count = bulk::read(&client, &args.server, what, |sample| {
            printer.print(&sample.key, sample.point)
        })
        .await?;
        printer.finish()?;
        Ok(count)
    })?;
    if count == 0 && args.fail {
        let message = format!("nothing is stored for {} in this range", args.keys);
        return Err(Failure::new(Status::NotFound, message));
    }
    Ok(())
}
