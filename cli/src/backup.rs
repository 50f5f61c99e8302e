//! `metrics backup`: writes a new folder of points, from a folder or from a server.

use std::path::{Path, PathBuf};

use metrics_client::MetricsClient;
use metrics_server::store::{Backup, BackupError, BackupWriter, DiskStore};
use tokio::runtime;

use crate::{
    failure::{Failure, Status, chain},
    folder, progress, times,
};

/// Writes a backup: a new folder that `metrics serve --data` can serve
///
/// `metrics backup DIR DEST` copies a folder that is not in use. `metrics backup --server ADDRESS DEST` copies what
/// a running server has, which may be on another machine: everything that it had stored at one moment. Puts go on
/// at the same time. The backup is written to DEST.partial, synced, and renamed when it is complete.
///
/// The exit status is 1 if blocks of DIR are damaged: the backup is complete but for these.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// The folder of points; with --server, the destination
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The destination, which must not exist or be empty
    #[arg(value_name = "DEST", required_unless_present = "server", conflicts_with = "server")]
    dest: Option<PathBuf>,
    /// Copies what this server has
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
}

pub(crate) fn run(args: &BackupArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let (dest, backup) = match (&args.server, &args.dest) {
        (Some(server), _) => (&args.dir, runtime.block_on(of_server(server, &args.dir))?),
        (None, Some(dest)) => (dest, runtime.block_on(of_folder(&args.dir, dest))?),
        (None, None) => return Err(Failure::usage("a destination is missing")),
    };
    for (key, second) in &backup.damaged {
        eprintln!("damaged block of {key} at second {second} ({}) left out", times::show(*second));
    }
    let Backup { keys, points, .. } = backup;
    eprintln!("backed up {points} points of {keys} keys to {}", dest.display());
    match backup.damaged.len() {
        0 => Ok(()),
        damaged => {
            let message = format!("{damaged} damaged blocks are not in the backup");
            Err(Failure::new(Status::Refused, message))
        }
    }
}

async fn of_folder(dir: &Path, dest: &Path) -> Result<Backup, Failure> {
    let remedy =
        format!("copy what its server has: metrics backup --server ADDRESS {}", dest.display());
    let store = DiskStore::builder().create_missing(false).open(dir).await;
    let store = store.map_err(|error| folder::failure(dir, &error, &remedy))?;
    let progress = progress::keys("backing up");
    let bar = progress.clone();
    let backup = store.backup_with_progress(dest, move |now| {
        bar.set_length(now.total);
        bar.set_position(now.done);
    });
    let backup = backup.await;
    progress.finish_and_clear();
    backup.map_err(|error| failure(&error))
}

async fn of_server(server: &str, dest: &Path) -> Result<Backup, Failure> {
    let unreachable = |error| Failure::from(error).context(server);
    let client = MetricsClient::connect(server).await.map_err(unreachable)?;
    let mut samples = client.stream("*").await.map_err(unreachable)?;
    // Blocks this thread only: the client runs on another.
    let mut backup = BackupWriter::create(dest).map_err(|error| failure(&error))?;
    let progress = progress::bar(None, "backing up");
    while let Some(sample) = samples.next().await {
        let sample = sample.map_err(unreachable)?;
        backup.push(&sample.key, &[sample.point]).map_err(|error| failure(&error))?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    backup.finish().map_err(|error| failure(&error))
}

fn failure(error: &BackupError) -> Failure {
    Failure::usage(format!("no backup: {}", chain(error)))
}
