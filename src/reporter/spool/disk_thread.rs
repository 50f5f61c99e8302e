//! The thread on which a spool uses its disk.
//!
//! It is not a blocking task of the runtime: a program may keep all threads of the blocking pool busy, and a
//! runtime waits for its blocking tasks when it ends, however long a disk takes.

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

/// Runs jobs one after the other, in the order in which they are submitted. The thread ends after the last job
/// when this is dropped, and is not joined.
#[derive(Debug, Default)]
pub(super) struct DiskThread {
    /// `None` until the first job.
    jobs: Mutex<Option<Sender<Job>>>,
}

impl DiskThread {
    /// Starts the thread. If this fails, each job tries again.
    pub(super) fn start(&self) {
        let _ = self.submit(Box::new(|| ()));
    }

    /// Runs a job, and returns its output.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, or the job panics.
    ///
    /// # Cancel safety
    ///
    /// The job runs to its end even if the future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        self.submit(Box::new(move || drop(done.send(job()))))?;
        #[cfg(debug_assertions)]
        let _stopped = stop_paused_clock();
        result.await.map_err(|_| io::Error::other("the job panicked"))
    }

    /// Runs a job, and waits for its output, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, the job panics, or the time is over. The job then still runs to its end.
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
        // The caller gets an error because the sender is dropped, and the next job may succeed.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// Stops the paused clock of a test until the sender is dropped. The clock stops while a blocking task runs,
/// but not for other threads.
#[cfg(debug_assertions)]
fn stop_paused_clock() -> Sender<()> {
    let (running, is_over) = mpsc::channel();
    let block = || tokio::task::spawn_blocking(move || is_over.recv());
    // It panics where no thread can be made.
    let _ = catch_unwind(AssertUnwindSafe(block));
    running
}
