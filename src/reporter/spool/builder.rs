//! What a spool can be told, and what it does when it is told nothing.

use std::{
    path::{self, Path, PathBuf},
    time::Duration,
};

use super::{
    error::SpoolError,
    fs::OsFileSystem,
    segment::salvage,
    segment_log::{Limits, SegmentLog},
};
use crate::metric::{Sample, unix_seconds};

/// A folder to which a [`Reporter`](crate::Reporter) moves samples while the server is slow or away,
/// and from which it sends them later, also those of an earlier process.
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
/// A thread of its own works on the folder, and samples that come never wait for it, however slow the
/// disk is; only those that follow an older one of their key and second do, if that one is in the folder
/// or on its way there.
///
/// What the folder holds survives the end of the process, also by `kill -9`; a loss of power it
/// survives once it is synced, see [`sync_every`](Self::sync_every). One process may have it open at a
/// time.
///
/// If the folder is moved, or its lock file removed, while a reporter has it open, another process may open
/// it: the reporter notices before it next uses the folder, logs an error, goes on without a spool, and
/// counts what it leaves there as [`abandoned`](crate::spool::SpoolStats::abandoned). On Windows only a file that
/// is missing is noticed, not one that was replaced; but a folder with open files cannot be moved there. If the
/// folder is removed with all that is in it, it is made again, and what was in it counts as lost.
///
/// A segment that is put into the folder, from a backup for example, is sent if none of its numbers have
/// been settled. Otherwise it is set aside under a name that ends in `.settled`, with a warning, since
/// newer values may have been sent since: its samples can be read with [`salvage`](Self::salvage).
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
    limits: Limits,
    pub(in crate::reporter) after: Duration,
    pub(in crate::reporter) replay_rate: u32,
    max_age: Option<Duration>,
}

impl Spool {
    /// Returns a spool in this folder, which is made if it is not there.
    ///
    /// A relative path is made absolute here and now: the folder stays where it is if the process changes
    /// its working directory later.
    #[must_use]
    pub fn dir(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self {
            // Where there is no working directory, or no path, opening the folder says so.
            folder: path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            limits: Limits { max_bytes: 256 * 1024 * 1024, sync_every: Duration::from_secs(1) },
            after: Duration::from_secs(1),
            replay_rate: 100_000,
            max_age: None,
        }
    }

    /// Sets how much of a disk the segments in the folder may take, in bytes, at least 1 MiB. They are
    /// counted in disk blocks of 4,096 bytes, so that a process that restarts often cannot exceed it with
    /// many small segments. When it is full, the oldest segment is dropped, a sixteenth of this or 8 MiB.
    /// If this has become smaller since the folder was written, the oldest samples are dropped when it is
    /// opened. Files that were set aside are not counted. Default: 256 MiB, some six million samples whose
    /// keys have 24 bytes.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_bytes = bytes.max(Limits::MIN_BYTES);
        self
    }

    /// How long samples may wait in memory before they are moved to the folder; when half of what may
    /// wait in memory does, they are moved at once. This is how much the end of the process, by
    /// `kill -9`, can cost while the server is away, and as long again for what is being sent.
    /// Default: 1 second.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time.max(Duration::from_millis(10));
        self
    }

    /// How long what is in the folder may go unsynced, and so be lost with the power. Zero: nothing;
    /// [`Duration::MAX`]: the system alone decides. Default: 1 second.
    #[must_use]
    pub fn sync_every(mut self, time: Duration) -> Self {
        self.limits.sync_every = time;
        self
    }

    /// How many samples a second are sent from the folder at most. It begins with 1,000 and doubles
    /// each second, as long as the server keeps up. Default: 100,000.
    #[must_use]
    pub fn replay_rate(mut self, samples: u32) -> Self {
        self.replay_rate = samples.max(1);
        self
    }

    /// Sets how old a sample may be when it is sent from the folder, by its own timestamp and the clock
    /// of this machine. Older ones are dropped when it is their turn, and counted as
    /// [`spool_expired`](crate::reporter::DropCounts::spool_expired). For a server that refuses or does not need what
    /// is old. Default: any age.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// What can be read of a segment file, whatever has become of it, and how many of its bytes hold
    /// nothing that can. For files that a spool has set aside, and for tools.
    #[must_use]
    pub fn salvage(segment: &[u8]) -> (Vec<Sample>, usize) {
        salvage(segment)
    }

    pub(in crate::reporter) fn sync_every_or_never(&self) -> Option<Duration> {
        let every = self.limits.sync_every;
        (!every.is_zero() && every < Duration::MAX).then(|| every.max(Duration::from_millis(10)))
    }

    /// The earliest timestamp that is sent from the folder now.
    pub(super) fn oldest(&self) -> i64 {
        self.max_age.map_or(i64::MIN, |age| unix_seconds().saturating_sub_unsigned(age.as_secs()))
    }

    pub(in crate::reporter) fn open(&self) -> Result<SegmentLog, SpoolError> {
        SegmentLog::open(OsFileSystem, &self.folder, self.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS A8
    #[test]
    fn relative_folder_is_made_absolute_when_given() {
        let spool = Spool::dir("spool");
        assert_eq!(spool.folder, std::env::current_dir().unwrap().join("spool"));
        assert_eq!(Spool::dir("/a/b").folder, Path::new("/a/b"));
        assert!(Spool::dir("").open().is_err());
    }
}
