//! The thread on which a spool's disk is worked on.
//!
//! It is a thread of its own, and no blocking task of the runtime: a program may keep all threads of
//! its blocking pool busy, and a runtime that ends waits for its blocking tasks, however long a disk
//! takes.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after the other, in the order in which they come. The thread ends when this is
/// dropped; nobody waits for it.
#[derive(Debug, Default)]
pub(super) struct DiskThread {
    /// `None` until there is a job.
    jobs: Mutex<Option<Sender<Job>>>,
}

impl DiskThread {
    /// Starts the thread, if it can be started now. Otherwise each job tries.
    pub(super) fn start(&self) {
        let _ = self.submit(Box::new(|| ()));
    }

    /// Runs a job, and returns what it returns.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, or the job panicked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the job runs all the same.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        self.submit(Box::new(move || drop(done.send(job()))))?;
        #[cfg(debug_assertions)]
        let _standing = stand_still();
        result.await.map_err(|_| io::Error::other("the job panicked"))
    }

    /// Runs a job, and waits for what it returns, at most so long.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, the job panicked, or the time is over: then the job runs all
    /// the same.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = mpsc::channel();
        self.submit(Box::new(move || drop(done.send(job()))))?;
        result.recv_timeout(limit).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            mpsc::RecvTimeoutError::Disconnected => io::Error::other("the job panicked"),
        })
    }

    fn submit(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            let (sender, receiver) = mpsc::channel();
            thread::Builder::new().name("reporter-spool".into()).spawn(|| work(receiver))?;
            *jobs = Some(sender);
        }
        let sent = jobs.as_ref().map(|jobs| jobs.send(job));
        // The thread ends with the sender, and not before.
        debug_assert!(matches!(sent, Some(Ok(()))));
        Ok(())
    }
}

fn work(jobs: Receiver<Job>) {
    for job in jobs {
        // The job's waiter is told, because its sender is dropped; the next may work.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// Keeps the paused clock of a test from going on until the sender is dropped: it stands still while
/// a blocking task runs, and knows nothing of other threads.
#[cfg(debug_assertions)]
fn stand_still() -> Sender<()> {
    let (standing, is_over) = mpsc::channel();
    let stand = || tokio::task::spawn_blocking(move || is_over.recv());
    // It panics where no thread can be made.
    let _ = catch_unwind(AssertUnwindSafe(stand));
    standing
}
