//! Builder and defaults of [`Spool`].

use std::{
    path::{self, Path, PathBuf},
    time::Duration,
};

use metrics_wal::{Fsync, OsFileSystem};

use super::{
    error::SpoolError,
    sample_log::{SampleLog, SpoolLimits},
    samples::salvage,
};
use crate::metric::{Sample, unix_now};

/// A directory to which a [`Reporter`](crate::Reporter) moves samples while the server is slow or
/// unreachable, and from which it sends them later, also those of an earlier process.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use metrics_client::{MetricsClient, Reporter, spool::Spool};
///
/// let client = MetricsClient::builder("metrics.internal:8888").connect_lazy()?;
/// let reporter = Reporter::builder(client)
///     .spool(Spool::dir("/var/lib/agent/spool").max_bytes(1 << 30))?
///     .start();
/// # Ok(()) }
/// ```
///
/// A separate thread does the disk IO, and new samples never wait for it, however slow the disk is. The
/// exception is a sample that follows an older one of the same key and second that is still in the
/// directory or being moved to it: it is sent after that one.
///
/// Stored samples survive the end of the process, also by `kill -9`. They survive a loss of power once they
/// are synced, see [`fsync`](Self::fsync). Only one process at a time can have the directory open.
///
/// If the directory is moved, or its lock file removed, while a reporter has it open, another process can
/// open it. The reporter notices this before it next uses the directory: it logs an error, works without a
/// spool, and counts the samples left there as [`abandoned`](crate::spool::SpoolStats::abandoned). On Windows only
/// a missing file is noticed, not a replaced one; but a directory with open files cannot be moved there. If
/// the directory is removed with everything in it, it is created again, and its samples count as lost.
///
/// A segment that is copied into the directory, from a backup for example, is sent if its samples have
/// numbers that were never sent. Otherwise it is renamed with the suffix `.committed`, and a warning is
/// logged, because newer values may have been sent since: [`salvage`](Self::salvage) reads its samples.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
    limits: SpoolLimits,
    pub(in crate::reporter) spill_after: Duration,
    pub(in crate::reporter) replay_rate: u32,
    max_age: Option<Duration>,
}

impl Spool {
    /// Returns a spool in this directory, which is created if it does not exist.
    ///
    /// A relative path is made absolute now, so a later change of the working directory has no effect.
    /// Opening a spool with an empty path fails.
    #[must_use]
    pub fn dir(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self {
            // Without a working directory, and for an empty path, opening fails.
            dir: path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            limits: SpoolLimits {
                max_bytes: 256 * 1024 * 1024,
                fsync: Fsync::Every(Duration::from_secs(1)),
            },
            spill_after: Duration::from_secs(1),
            replay_rate: 100_000,
            max_age: None,
        }
    }

    /// Sets how much disk space the segments may take, in bytes, at least 1 MiB. Space is counted in blocks
    /// of 4,096 bytes, so that many small segments, of a process that restarts often, cannot exceed it. When
    /// the spool is full, the oldest segment is dropped: a sixteenth of this, at most 8 MiB. If this is
    /// smaller than when the spool was written, the oldest samples are dropped at opening. Quarantined files
    /// are not counted. Default: 256 MiB, about six million samples with keys of 24 bytes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_bytes = bytes.max(SpoolLimits::MIN_BYTES);
        self
    }

    /// Sets how long samples may wait in memory before they are moved to the spool, at least 10
    /// milliseconds. They are moved at once when the queue is half full. The end of the process, by
    /// `kill -9`, can lose the samples of this time while the server is unreachable, and of as long again
    /// for those that are being sent. Default: 1 second.
    #[must_use]
    pub fn spill_after(mut self, time: Duration) -> Self {
        self.spill_after = time.max(Duration::from_millis(10));
        self
    }

    /// Sets when stored samples are synced, so that they survive a loss of power. Default:
    /// [`Fsync::Every`] second.
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.limits.fsync = fsync;
        self
    }

    /// Sets how many samples per second are sent from the spool at most. The rate begins at 1,000 and
    /// doubles each second, as long as the server keeps up. Default: 100,000.
    #[must_use]
    pub fn replay_rate(mut self, samples: u32) -> Self {
        self.replay_rate = samples.max(1);
        self
    }

    /// Sets the maximum age of a sample that is sent from the spool, by its timestamp and the clock of this
    /// machine. Older samples are dropped when they would be sent, and counted as
    /// [`spool_expired`](crate::reporter::DropCounts::spool_expired). For a server that rejects or does not need old
    /// samples. Default: no maximum.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Returns the samples that can be read of a segment file's content, however damaged, and the number of
    /// bytes that hold none. For quarantined files, and for tools.
    #[must_use]
    pub fn salvage(segment: &[u8]) -> (Vec<Sample>, usize) {
        salvage(segment)
    }

    /// Returns how often the reporter syncs the spool besides when it appends to it.
    pub(in crate::reporter) fn sync_interval(&self) -> Option<Duration> {
        match self.limits.fsync {
            Fsync::Every(time) => Some(time.max(Duration::from_millis(10))),
            Fsync::Always | Fsync::Never => None,
        }
    }

    /// Returns the earliest timestamp that is sent from the spool now.
    pub(super) fn oldest(&self) -> i64 {
        self.max_age.map_or(i64::MIN, |age| unix_now().saturating_sub_unsigned(age.as_secs()))
    }

    pub(in crate::reporter) fn open(&self) -> Result<SampleLog, SpoolError> {
        SampleLog::open(OsFileSystem, &self.dir, self.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS A8
    #[test]
    fn relative_path_is_made_absolute_when_given() {
        let spool = Spool::dir("spool");
        assert_eq!(spool.dir, std::env::current_dir().unwrap().join("spool"));
        assert_eq!(Spool::dir("/a/b").dir, Path::new("/a/b"));
    }

    #[test]
    fn empty_path_is_an_error_and_creates_nothing() {
        let error = Spool::dir("").open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open the directory \"\": the spool's path is invalid"
        );
        for name in ["lock", "position"] {
            assert!(!Path::new(name).exists(), "{name}");
        }
    }
}
