//! The spool: A8, A12, A16 to A19, A25.

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Outcome,
    support::{
        Failure, Lines, Reporter, SECOND, Spool, in_other_hands, lazy, memory, nowhere, peer,
        runtime, spool_dir, with_spool,
    },
};

/// A reporter whose samples go to disk, since its server is away.
fn away(spool: Spool) -> Result<Reporter, Failure> {
    with_spool(Reporter::builder(lazy(nowhere())?), spool)
}

/// As [`away`], once the directory is not in use any more.
async fn away_again(spool: Spool) -> Result<Reporter, Failure> {
    for _ in 0..1000 {
        if let Ok(reporter) = away(spool.clone()) {
            return Ok(reporter);
        }
        sleep(Duration::from_millis(10)).await;
    }
    away(spool)
}

/// Records `samples`, and waits until no more of them wait in memory, for some seconds at most.
async fn record(reporter: &Reporter, key: &str, samples: i64) {
    (0..samples).for_each(|second| reporter.record_at(key, 1.0, second));
    for _ in 0..50 {
        sleep(SECOND / 10).await;
        if reporter.stats().waiting == 0 {
            return;
        }
    }
}

/// The segments in the directory.
fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Segments are named by a number, and only they are.
        if entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn names(files: &[PathBuf]) -> String {
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    names.collect::<Vec<_>>().join(" ")
}

pub(super) fn relative_path() -> Outcome {
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    runtime()?.block_on(async {
        env::set_current_dir(one.path())?;
        let reporter = away(spool_dir("spool").max_bytes(1 << 20))?;
        record(&reporter, "a", 10_000).await;
        env::set_current_dir(other.path())?;
        record(&reporter, "b", 10_000).await;
        let _ = reporter.close(SECOND).await;
        let stats = reporter.stats();
        Ok(format!(
            "{} of 20,000 samples kept, {} counted as lost; files in the new directory: {}",
            stats.spooled,
            stats.dropped.total(),
            fs::read_dir(other.path())?.count()
        ))
    })
}

pub(super) fn segment_from_a_backup() -> Outcome {
    let lines = Lines::start();
    let (dir, backup) = (tempfile::tempdir()?, tempfile::tempdir()?);
    runtime()?.block_on(async {
        let reporter = away(spool_dir(dir.path()))?;
        record(&reporter, "a", 100).await;
        let _ = reporter.close(SECOND).await;
        for file in segments(dir.path())? {
            fs::copy(&file, backup.path().join(file.file_name().ok_or("no name")?))?;
        }
        let spool = spool_dir(dir.path());
        let reporter = with_spool(Reporter::builder(lazy(memory()?)?), spool)?;
        reporter.flush(10 * SECOND).await?;
        reporter.close(SECOND).await?;
        for file in segments(backup.path())? {
            fs::copy(&file, dir.path().join(file.file_name().ok_or("no name")?))?;
        }
        let warnings = lines.with("WARN") + lines.with("ERROR");
        let client = lazy(memory()?)?;
        let reporter = with_spool(Reporter::builder(client.clone()), spool_dir(dir.path()))?;
        let _ = reporter.flush(5 * SECOND).await;
        let _ = reporter.close(SECOND).await;
        let sent = client.get("a").await?.points("a").len();
        let warnings = lines.with("WARN") + lines.with("ERROR") - warnings;
        let left = segments(dir.path())?;
        Ok(format!("{sent} of 100 sent, {warnings} warnings, files left: [{}]", names(&left)))
    })
}

pub(super) fn moved_directory() -> Outcome {
    let parent = tempfile::tempdir()?;
    let (dir, moved) = (parent.path().join("spool"), parent.path().join("moved"));
    runtime()?.block_on(async {
        let first = away(spool_dir(&dir))?;
        record(&first, "a", 1000).await;
        fs::rename(&dir, &moved)?;
        let second = away(spool_dir(&dir))?;
        record(&second, "b", 1000).await;
        let before = second.stats().spooled;
        record(&first, "a", 1000).await;
        let _ = first.close(SECOND).await;
        let _ = second.close(SECOND).await;
        let (stats, lost) = (first.stats(), first.stats().dropped.spool_lost);
        // What the directory of the second holds.
        let client = lazy(memory()?)?;
        let third = with_spool(Reporter::builder(client.clone()), spool_dir(&dir))?;
        let _ = third.flush(5 * SECOND).await;
        let mixed = client.get("a").await?.points("a").len();
        Ok(format!(
            "the first: {lost} counted as lost, {}, {} dropped when it was closed; the second had {before} samples, and {mixed} of the first in its directory",
            in_other_hands(&stats),
            stats.dropped.total() - lost
        ))
    })
}

pub(super) fn removed_directory() -> Outcome {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("spool");
    // It never answers, so that what was read of the spool stays in hand.
    let addr = peer(|_| None)?;
    runtime()?.block_on(async {
        let reporter = with_spool(Reporter::builder(lazy(addr)?), spool_dir(&dir))?;
        record(&reporter, "a", 1000).await;
        sleep(2 * SECOND).await;
        fs::remove_dir_all(&dir)?;
        // It has to be written, which is when the removal is noticed.
        reporter.record_at("b", 1.0, 1);
        sleep(8 * SECOND).await;
        let _ = reporter.close(SECOND).await;
        let dropped = reporter.stats().dropped;
        Ok(format!(
            "1,000 samples removed: {} counted as lost, {} as dropped from a full spool",
            dropped.spool_lost, dropped.spool_full
        ))
    })
}

pub(super) fn smaller_bound() -> Outcome {
    const SAMPLES: i64 = 100_000;
    let dir = tempfile::tempdir()?;
    runtime()?.block_on(async {
        let reporter = away(spool_dir(dir.path()).max_bytes(64 << 20))?;
        record(&reporter, "a", SAMPLES).await;
        let _ = reporter.close(5 * SECOND).await;
        let before = reporter.stats().spooled;
        drop(reporter);
        let reporter = away(spool_dir(dir.path()).max_bytes(1 << 20))?;
        record(&reporter, "b", 1).await;
        let _ = reporter.close(SECOND).await;
        Ok(format!(
            "{before} samples of a larger bound, {} after one more",
            reporter.stats().spooled
        ))
    })
}

pub(super) fn many_restarts() -> Outcome {
    const RESTARTS: i64 = 500;
    let dir = tempfile::tempdir()?;
    let begin = Instant::now();
    runtime()?.block_on(async {
        for second in 0..RESTARTS {
            let spool = spool_dir(dir.path()).max_bytes(1 << 20);
            let reporter = away_again(spool).await?;
            reporter.record_at("a", 1.0, second);
            let _ = reporter.close(Duration::ZERO).await;
        }
        Ok::<_, Failure>(())
    })?;
    let mut blocks = 0;
    for entry in fs::read_dir(dir.path())? {
        blocks += entry?.metadata()?.blocks();
    }
    Ok(format!(
        "{RESTARTS} restarts under a bound of 1 MiB: {} KiB on disk, {:.1} s",
        blocks / 2,
        begin.elapsed().as_secs_f64()
    ))
}

/// `/mnt` is a small disk of this process.
pub(super) fn full_disk() -> Outcome {
    let lines = Lines::start();
    runtime()?.block_on(async {
        let reporter = away(spool_dir("/mnt/spool"))?;
        for second in 0..20_000 {
            reporter.record_at("some.key.of.ordinary.length", 1.0, second);
        }
        for second in 20_000..20_030 {
            reporter.record_at("some.key.of.ordinary.length", 1.0, second);
            sleep(SECOND).await;
        }
        Ok(format!("{} lines in 30 s", lines.with("WARN") + lines.with("ERROR")))
    })
}
