//! A log of samples behind a lock, under which nothing is written to the program's log.

use std::{
    fmt::Debug,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use metrics_wal::FileSystem;

use super::{
    error::SpoolError,
    notices::{Health, Notice, SpoolLogger},
    sample_log::SampleLog,
    stats::SpoolStats,
};
use crate::metric::Sample;

/// A [`SampleLog`] on any file system.
pub(super) trait AnySampleLog: Debug + Send {
    fn append(&mut self, now: Instant, samples: &[Sample]) -> Result<usize, SpoolError>;
    fn read_since(&mut self, oldest: i64, most: usize) -> Result<Option<Vec<Sample>>, SpoolError>;
    fn settle(&mut self, samples: usize) -> Result<(), SpoolError>;
    fn sync(&mut self);
    fn is_drained(&self) -> bool;
    fn is_abandoned(&self) -> bool;
    fn latest(&self) -> Option<i64>;
    fn stats(&self) -> SpoolStats;
    fn health(&self) -> Health;
    fn note(&mut self, notice: Notice);
    fn take_notices(&mut self) -> Vec<Notice>;
    #[cfg(test)]
    fn is_synced(&self) -> bool;
}

impl<F> AnySampleLog for SampleLog<F>
where
    F: FileSystem + Send,
    F::File: Send,
{
    fn append(&mut self, now: Instant, samples: &[Sample]) -> Result<usize, SpoolError> {
        Self::append(self, now, samples)
    }

    fn read_since(&mut self, oldest: i64, most: usize) -> Result<Option<Vec<Sample>>, SpoolError> {
        Self::read_since(self, oldest, most)
    }

    fn settle(&mut self, samples: usize) -> Result<(), SpoolError> {
        Self::settle(self, samples)
    }

    fn sync(&mut self) {
        Self::sync(self);
    }

    fn is_drained(&self) -> bool {
        Self::is_drained(self)
    }

    fn is_abandoned(&self) -> bool {
        Self::is_abandoned(self)
    }

    fn latest(&self) -> Option<i64> {
        Self::latest(self)
    }

    fn stats(&self) -> SpoolStats {
        Self::stats(self)
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn note(&mut self, notice: Notice) {
        Self::note(self, notice);
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        Self::take_notices(self)
    }

    #[cfg(test)]
    fn is_synced(&self) -> bool {
        Self::is_synced(self)
    }
}

/// A log that several threads use. It is `None` once the reporter is closed: then another reporter may open
/// the directory.
#[derive(Debug)]
pub(super) struct LockedLog {
    log: Mutex<Option<Box<dyn AnySampleLog>>>,
    path: PathBuf,
    is_abandoned: AtomicBool,
    pub(super) logger: SpoolLogger,
}

impl LockedLog {
    pub(super) fn new(path: PathBuf, log: Box<dyn AnySampleLog>, logger: SpoolLogger) -> Self {
        Self { log: Mutex::new(Some(log)), path, is_abandoned: AtomicBool::new(false), logger }
    }

    /// Locks the log. Its notices are logged when the guard has released the lock.
    pub(super) fn lock(&self) -> LogGuard<'_> {
        // After a panic, the log is as after the end of its process: what it has returned was written.
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard(log)
    }

    /// Locks the log if it is not in use.
    pub(super) fn try_lock(&self) -> Option<LogGuard<'_>> {
        match self.log.try_lock() {
            Ok(log) => Some(self.guard(log)),
            Err(TryLockError::Poisoned(log)) => Some(self.guard(log.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn guard<'a>(&'a self, log: MutexGuard<'a, Option<Box<dyn AnySampleLog>>>) -> LogGuard<'a> {
        let after = After { locked: self, notices: Vec::new(), health: Health::default() };
        LogGuard { log, after }
    }

    /// Returns whether the directory was found to be taken over by another process.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }
}

pub(super) struct LogGuard<'a> {
    log: MutexGuard<'a, Option<Box<dyn AnySampleLog>>>,
    // Dropped after the lock's guard, because it is declared after it.
    after: After<'a>,
}

/// What is logged when the lock is released.
struct After<'a> {
    locked: &'a LockedLog,
    notices: Vec<Notice>,
    health: Health,
}

impl Drop for LogGuard<'_> {
    fn drop(&mut self) {
        let Some(log) = self.log.as_mut() else { return };
        self.after.notices = log.take_notices();
        self.after.health = log.health();
        if log.is_abandoned() {
            self.after.locked.is_abandoned.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for After<'_> {
    fn drop(&mut self) {
        let LockedLog { logger, path, .. } = self.locked;
        logger.write(path, std::mem::take(&mut self.notices), self.health);
    }
}

impl Deref for LogGuard<'_> {
    type Target = Option<Box<dyn AnySampleLog>>;

    fn deref(&self) -> &Option<Box<dyn AnySampleLog>> {
        &self.log
    }
}

impl DerefMut for LogGuard<'_> {
    fn deref_mut(&mut self) -> &mut Option<Box<dyn AnySampleLog>> {
        &mut self.log
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, OnceLock},
        time::{Duration, Instant},
    };

    use tokio::time;

    use super::*;
    use crate::{log_watch::LogWatch, metric::Sample, spool::Spool};

    // FAULTS A25, and A1: nothing is logged under a lock.
    #[test]
    fn notices_are_logged_once_and_without_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let locked = Arc::new(OnceLock::<LockedLog>::new());
        let seen = Arc::clone(&locked);
        let watch = LogWatch::calling(move || {
            let is_locked = |locked: &LockedLog| locked.log.try_lock().is_err();
            assert!(!seen.get().is_some_and(is_locked), "logged under the lock");
        });
        let _default = watch.watch();
        let log = Spool::dir(root.path()).open().unwrap();
        let locked = locked.get_or_init(|| {
            LockedLog::new(root.path().to_owned(), Box::new(log), SpoolLogger::default())
        });
        let sample = [Sample::new("a", 1.0, 1).unwrap()];
        let append = || locked.lock().as_mut().unwrap().append(Instant::now(), &sample);
        append().unwrap();
        assert_eq!(watch.take(), [""; 0]);
        fs::remove_file(root.path().join(format!("{:020}.log", 0))).unwrap();
        append().unwrap();
        let gone = "spool segment was removed or cut by another process";
        assert_eq!(watch.take(), [gone, "spooled samples are lost"]);
        #[cfg(unix)]
        {
            fs::remove_file(root.path().join("lock")).unwrap();
            for _ in 0..3 {
                append().unwrap_err();
            }
            let lines = watch.take();
            assert!(lines.len() == 1 && lines[0].contains("taken over"), "{lines:?}");
            assert!(locked.is_abandoned());
        }
    }

    // FAULTS A25
    #[tokio::test(start_paused = true)]
    async fn full_spool_is_logged_repeated_and_resolved() {
        let root = tempfile::tempdir().unwrap();
        let watch = LogWatch::default();
        let logger = SpoolLogger::default();
        let _default = watch.watch();
        let drop_some =
            || logger.write(root.path(), vec![Notice::Dropped { samples: 700 }], Health::default());
        for _ in 0..100 {
            drop_some();
        }
        assert_eq!(watch.take(), ["spool is full: dropping its oldest samples"]);
        time::advance(Duration::from_secs(60)).await;
        drop_some();
        assert_eq!(watch.take(), ["spool is full: dropping its oldest samples"]);
        logger.write(root.path(), Vec::new(), Health { has_room: true, ..Health::default() });
        assert_eq!(watch.take(), ["spool has free space again"]);
    }
}
