//! `metrics delete`: deletes points from a folder.

use std::path::PathBuf;

use metrics_server::store::{Deleted, Deletion, KeyPattern};

use crate::{bulk::RangeArgs, failure::Failure, folder, progress, times};

/// Deletes points from a folder that is not in use
///
/// The points are removed from the files: what is left is written to a new database, which then takes the place of
/// the old one, so all or nothing is deleted. Keys without points are gone. Backups, and copies in the folder
/// `damaged`, are not touched.
#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The folder, as `metrics serve --data DIR` has it
    dir: PathBuf,
    /// A key or a pattern: * is any number of characters, ? is one
    #[arg(value_name = "KEY")]
    keys: String,
    #[command(flatten)]
    range: RangeArgs,
    /// Says what would be deleted, and deletes nothing
    #[arg(long)]
    dry_run: bool,
    /// Deletes without being asked
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

pub(crate) fn run(args: &DeleteArgs) -> Result<(), Failure> {
    args.range.check()?;
    let deletion = Deletion::new(KeyPattern::new(args.keys.as_str())).seconds(args.range.seconds());
    let progress = progress::keys(if args.yes { "deleting" } else { "counting" });
    let show = |now: metrics_server::store::Progress| {
        progress.set_length(now.total);
        progress.set_position(now.done);
    };
    let deleted =
        if args.yes { deletion.run(&args.dir, show) } else { deletion.preview(&args.dir, show) };
    progress.finish_and_clear();
    let deleted =
        deleted.map_err(|error| folder::failure(&args.dir, &error, "stop the server first"))?;
    for (key, second) in &deleted.damaged {
        eprintln!("damaged block of {key} at second {second} ({})", times::show(*second));
    }
    let Deleted { points, keys, empty_keys, .. } = deleted;
    let verb = if args.yes { "deleted" } else { "would delete" };
    println!("{verb} {points} points; keys: {keys}, of these entirely: {empty_keys}");
    if args.yes || args.dry_run || points == 0 {
        return Ok(());
    }
    Err(Failure::usage("nothing is deleted without --yes"))
}
