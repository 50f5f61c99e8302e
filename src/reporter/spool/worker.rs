//! The task that sends, where there is a spool: what waits too long in memory goes to the folder, and
//! what lies there is sent behind what comes.
//!
//! Sending what comes and working on the folder are two futures of one task, so that what comes never
//! waits for the disk.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::{self, Instant};

use super::{
    error::SpoolError,
    handle::{self, SpillGuard, SpoolHandle},
    pacer::Pacer,
};
use crate::{
    client::ENOUGH_PROOFS,
    error::Error,
    log_limit::Lasting,
    log_state::LogState,
    metric::Sample,
    reporter::{
        in_flight::SendOutcome,
        outbox::Spill,
        poison::is_hangup,
        shared::Shared,
        worker::{PAUSE, Worker, is_closed, next_batch},
    },
};

/// How long a disk that has refused something is left alone.
const IO_RETRY_DELAY: Duration = Duration::from_secs(1);
/// What is on its way gets this long to land before what waits is moved to the folder, and then the
/// disk gets as long before the sender goes on beside it.
const RECALL_GRACE: Duration = Duration::from_millis(100);
/// How often a sender looks for samples behind those that have to go through the folder.
const LOOK: Duration = Duration::from_millis(10);
/// The least that is sent at once to a server that is slow.
const MIN_BATCH: usize = 16;

/// Works on the folder, beside the sender.
struct SpoolWorker {
    shared: Arc<Shared>,
    handle: Arc<SpoolHandle>,
    /// From how many samples on that wait in memory they are moved at once.
    enough: usize,
    /// The sender's last attempt has failed, or was called back to be moved to the folder.
    has_failed: Arc<AtomicBool>,
    pacer: Pacer,
    suspect: Suspect,
    /// What was recorded before this position had been recorded at this time.
    oldest_seen: (u64, Instant),
    /// When the disk may be asked again to take something. One that is full still gives.
    write_due: Instant,
    /// When it may be asked again for something.
    read_due: Instant,
    /// Whether it refuses to take, and to give.
    write_failing: LogState,
    read_failing: LogState,
}

/// The oldest sample in the folder, if the server may close the connection at it, and the client does
/// not find that out by itself because it was told not to retry.
#[derive(Debug, Default)]
struct Suspect {
    /// Whether the server has closed the connection at several samples, so that the oldest is sent alone.
    is_sought: bool,
    /// Whether the server has closed the connection at it alone.
    was_alone: bool,
    /// How often in a row it has done so after it had acknowledged another sample.
    proofs: u32,
    /// How often it had closed the connection at others when it did so last.
    closed_at_others: u64,
    /// How many samples had been acknowledged when it did so last.
    acknowledged: u64,
    /// Which sample behind it is sent to find out whether the server acknowledges that.
    witness: usize,
}

/// How far behind a suspect a witness is sought, each time twice as far: as many samples as a batch has.
const MAX_WITNESSES: usize = 4096;

/// The sender is at its end.
#[derive(Debug)]
enum Over {
    /// Somebody has closed the reporter.
    Closed,
    /// All is sent.
    Sent,
    /// The spool is not ours any more: the sender goes on without.
    Abandoned,
    /// Nothing more can be sent, or there is no more time for it.
    Broken(Error),
}

impl Worker {
    /// Sends until the end, or until the spool is not ours any more. False if it was the end.
    pub(in crate::reporter) async fn run_with_spool(&mut self, handle: Arc<SpoolHandle>) -> bool {
        let syncing = Arc::downgrade(&handle);
        if let Some(every) = handle.settings.sync_interval() {
            tokio::spawn(async move {
                loop {
                    time::sleep(every).await;
                    let Some(handle) = syncing.upgrade() else { return };
                    handle.sync().await;
                }
            });
        }
        let shared = Arc::clone(&self.shared);
        let has_failed = Arc::new(AtomicBool::new(false));
        let mut spool = SpoolWorker::new(self, Arc::clone(&handle), Arc::clone(&has_failed));
        let over = either(self.send_live(&has_failed), spool.run()).await;
        match over {
            Over::Closed => return false,
            Over::Abandoned => return true,
            Over::Sent | Over::Broken(_) => {}
        }
        let _spilling = SpillGuard::begin(&shared.delivery);
        handle.close(&shared.delivery).await;
        shared.delivery.discard_all();
        if let Over::Broken(error) = over {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the reporter is at its end: what waits lies in its spool");
        }
        false
    }

    /// Sends what waits in memory, and never waits for the disk.
    async fn send_live(&mut self, has_failed: &AtomicBool) -> Over {
        let shared = Arc::clone(&self.shared);
        loop {
            self.record_self_metrics();
            let sendable = self.sendable(1);
            match self.self_metrics_due {
                None => sendable.await,
                Some(due) => {
                    if time::timeout_at(due, sendable).await.is_err() {
                        continue;
                    }
                }
            }
            if shared.delivery.outbox().is_closed() {
                return Over::Closed;
            }
            let batch_outcome = shared.delivery.send(&shared.client, false, self.batch).await;
            if let Some(batch_outcome) = &batch_outcome {
                self.batch = next_batch(self.batch, batch_outcome);
            }
            match batch_outcome {
                // What waits has to go through the folder.
                None => {
                    let more = shared.delivery.outbox().queued() + 1;
                    let _ = time::timeout(PAUSE, self.queued(more)).await;
                    time::sleep(LOOK).await;
                }
                Some(SendOutcome::Complete) => {
                    let _ = time::timeout(self.linger, self.sendable(self.flush_threshold)).await;
                }
                Some(SendOutcome::Recalled) => {
                    self.batch = (self.batch / 2).max(MIN_BATCH);
                }
                Some(SendOutcome::Interrupted(error)) => {
                    has_failed.store(true, Ordering::Relaxed);
                    if is_closed(&error) || shared.delivery.outbox().should_give_up(Instant::now())
                    {
                        return Over::Broken(error);
                    }
                    time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until the sender may send, and so many samples wait or it is urgent.
    async fn sendable(&self, samples: usize) {
        poll_fn(|cx| self.shared.delivery.outbox().poll_sendable(samples, cx.waker())).await;
    }

    /// Waits until so many samples wait.
    async fn queued(&self, samples: usize) {
        poll_fn(|cx| {
            self.shared.delivery.outbox().poll_queued(samples, Instant::now(), cx.waker())
        })
        .await;
    }
}

impl SpoolWorker {
    fn new(worker: &Worker, handle: Arc<SpoolHandle>, has_failed: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        Self {
            shared: Arc::clone(&worker.shared),
            enough: worker.flush_threshold,
            has_failed,
            pacer: Pacer::new(handle.settings.replay_rate, now),
            suspect: Suspect::default(),
            oldest_seen: (0, now),
            write_due: now,
            read_due: now,
            write_failing: LogState::new(),
            read_failing: LogState::new(),
            handle,
        }
    }

    async fn run(&mut self) -> Over {
        loop {
            self.spill_if_needed().await;
            if let Some(error) = self.replay().await {
                return Over::Broken(error);
            }
            {
                let outbox = self.shared.delivery.outbox();
                if outbox.is_closed() {
                    return Over::Closed;
                }
                if outbox.is_over(Instant::now()) {
                    return Over::Sent;
                }
            }
            if self.handle.is_abandoned() {
                return Over::Abandoned;
            }
            self.wait().await;
        }
    }

    /// Moves to the folder what has to go through it, and all that waits if it has waited too long or
    /// is too much.
    async fn spill_if_needed(&mut self) {
        if Instant::now() < self.write_due || self.shared.delivery.outbox().is_sender_paused() {
            return;
        }
        if self.shared.delivery.outbox().has_held_back(handle::SPILL_BATCH) {
            self.store(Spill::OrderOnly).await;
        }
        if !self.is_overdue(Instant::now()) && !self.is_over_threshold() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let pause = SpillPause::begin(&shared);
        // What is on its way is the oldest, and has to be moved first.
        let _ = time::timeout(RECALL_GRACE, batch_outcome(&shared)).await;
        if shared.delivery.recall() {
            // Noted here, and not where the sender learns of it, which may be later: what is moved to
            // the folder now is not to be sent again at once.
            self.has_failed.store(true, Ordering::Relaxed);
        }
        let end = shared.delivery.outbox().end();
        let is_stored = {
            let mut storing = pin!(self.store(Spill::All));
            match time::timeout(RECALL_GRACE, storing.as_mut()).await {
                Ok(is_stored) => is_stored,
                // The server may take what waits sooner than the disk does.
                Err(_) => {
                    drop(pause);
                    storing.await
                }
            }
        };
        if is_stored {
            self.oldest_seen = (end, Instant::now());
        }
    }

    async fn store(&mut self, spill: Spill) -> bool {
        let stored = self.handle.store(&self.shared.delivery, spill).await;
        self.shared.delivery.note_room();
        disk_answered(&mut self.write_due, &self.write_failing, stored).is_some()
    }

    /// Whether samples have waited for as long as they may.
    fn is_overdue(&mut self, now: Instant) -> bool {
        let outbox = self.shared.delivery.outbox();
        if outbox.waiting_before(self.oldest_seen.0) == 0 {
            self.oldest_seen = (outbox.end(), now);
        }
        now.saturating_duration_since(self.oldest_seen.1) >= self.handle.settings.spill_after
    }

    fn is_over_threshold(&self) -> bool {
        self.shared.delivery.outbox().queued() >= self.enough
    }

    /// Sends some of what lies in the folder, if it is their turn. The error, if it was the last
    /// attempt.
    async fn replay(&mut self) -> Option<Error> {
        let now = Instant::now();
        if self.has_failed.swap(false, Ordering::Relaxed) {
            self.pacer.failed(PAUSE, now);
        }
        let is_due = self.pacer.due() <= now && self.read_due <= now;
        if !is_due || !self.shared.delivery.outbox().may_replay() || self.is_over_threshold() {
            return None;
        }
        let most = match self.suspect {
            Suspect { was_alone: true, witness, .. } => 2 + witness,
            Suspect { is_sought: true, .. } => 1,
            Suspect { .. } => self.pacer.batch(),
        };
        let read = self.handle.read(&self.shared.delivery, most).await;
        let mut samples = disk_answered(&mut self.read_due, &self.read_failing, read).flatten()?;
        let mut is_proof = false;
        if self.suspect.was_alone {
            let witness = samples.split_off(1).pop();
            is_proof = self.has_acknowledged_another(witness).await;
        }
        let is_alone = samples.len() == 1;
        let accused = is_alone && is_proof && self.suspect.proofs + 1 >= ENOUGH_PROOFS;
        let (total, sent) = (samples.len(), Instant::now());
        let shared = Arc::clone(&self.shared);
        let mut replay = pin!(shared.delivery.replay(&shared.client, samples, accused));
        let batch_outcome = loop {
            match time::timeout(RECALL_GRACE, replay.as_mut()).await {
                Ok(batch_outcome) => break batch_outcome,
                Err(_) => self.spill_if_needed().await,
            }
        };
        let now = Instant::now();
        match &batch_outcome {
            SendOutcome::Complete => {
                self.suspect = Suspect::default();
                self.pacer.answered(total, sent, now);
            }
            SendOutcome::Interrupted(error) if is_hangup(error) => {
                self.suspect.is_sought = true;
                if is_alone {
                    self.suspect.was_alone = true;
                    self.suspect.proofs += u32::from(is_proof);
                    self.suspect.acknowledged = shared.delivery.outbox().stats().acknowledged;
                    self.suspect.closed_at_others = shared.delivery.closed_at_others();
                }
                self.pacer.failed(PAUSE, now);
            }
            SendOutcome::Interrupted(_) | SendOutcome::Recalled => self.pacer.failed(PAUSE, now),
        }
        self.handle.settle(&shared.delivery).await;
        match batch_outcome {
            SendOutcome::Interrupted(error)
                if is_closed(&error) || shared.delivery.outbox().should_give_up(now) =>
            {
                Some(error)
            }
            _ => None,
        }
    }

    /// Whether the server has acknowledged another sample since it closed the connection at the
    /// suspect. If there was none, the witness is sent, which is sent again in its turn.
    async fn has_acknowledged_another(&mut self, witness: Option<Sample>) -> bool {
        if self.shared.delivery.closed_at_others() != self.suspect.closed_at_others {
            self.suspect.proofs = 0;
        }
        if self.shared.delivery.outbox().stats().acknowledged > self.suspect.acknowledged {
            return true;
        }
        let Some(witness) = witness else { return false };
        let is_acknowledged = self.shared.client.put_all([witness]).await.is_ok();
        if !is_acknowledged {
            self.suspect.proofs = 0;
            let further = 2 * self.suspect.witness + 1;
            self.suspect.witness = if further < MAX_WITNESSES { further } else { 0 };
        }
        is_acknowledged
    }

    /// Waits until there may be something to do.
    async fn wait(&self) {
        let now = Instant::now();
        let after = self.handle.settings.spill_after;
        let (is_idle, may_replay, until, is_over_threshold) = {
            let outbox = self.shared.delivery.outbox();
            let is_over_threshold = outbox.queued() >= self.enough;
            (!outbox.has_waiting(), outbox.may_replay(), outbox.closing_until(), is_over_threshold)
        };
        let mut due = now + if is_idle { IO_RETRY_DELAY } else { RECALL_GRACE.min(after) };
        if may_replay {
            due = due.min(self.pacer.due().max(self.read_due));
        }
        if let Some(until) = until {
            due = due.min(until);
        }
        let samples = match (is_idle, is_over_threshold) {
            (true, _) => 1,
            (false, false) => self.enough,
            (false, true) => usize::MAX,
        };
        let queued = poll_fn(|cx| {
            self.shared.delivery.outbox().poll_queued(samples, Instant::now(), cx.waker())
        });
        let _ = time::timeout_at(due, queued).await;
    }
}

/// Keeps the sender waiting while it lasts.
struct SpillPause<'a>(&'a Shared);

impl<'a> SpillPause<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.delivery.outbox().pause_for_spill();
        Self(shared)
    }
}

impl Drop for SpillPause<'_> {
    fn drop(&mut self) {
        let worker = self.0.delivery.outbox().resume_after_spill();
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

/// Waits until nothing that was taken from the queue is on its way to the server.
async fn batch_outcome(shared: &Shared) {
    loop {
        let settled = shared.delivery.next_settled();
        if !shared.delivery.outbox().is_sending() {
            return;
        }
        settled.await;
    }
}

/// What the disk has given; if it has refused, it is left alone for a while.
fn disk_answered<T>(
    due: &mut Instant,
    failing: &LogState,
    result: Result<T, SpoolError>,
) -> Option<T> {
    match result {
        Ok(given) => {
            if let Some(Lasting { since, times }) = failing.is_over() {
                tracing::info!(lasted = ?since, times, "the spool works again");
            }
            Some(given)
        }
        Err(error) => {
            *due = Instant::now() + IO_RETRY_DELAY;
            // One that is not ours any more has said so, and is not tried again.
            if !matches!(error, SpoolError::NotOwned { .. })
                && let Some(Lasting { since, times }) = failing.holds()
            {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    ?since,
                    times,
                    "the spool failed and is tried again after a pause"
                );
            }
            None
        }
    }
}

/// What the one or the other comes to, whichever is ready first.
async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io};

    use tokio::io::DuplexStream;

    use super::*;
    use crate::{
        MetricsClient, Reporter,
        client::Connector,
        spool::{Fsync, Spool},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Nobody is ever reached.
    struct Nowhere;

    impl Connector for Nowhere {
        type Io = DuplexStream;

        async fn connect(&self, _: &str) -> io::Result<DuplexStream> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_appended_is_synced_at_the_next_turn_however_new_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let client = MetricsClient::builder("peer").connector(Nowhere).connect_lazy().unwrap();
        let spool = Spool::dir(folder.path()).fsync(Fsync::Every(3600 * SECOND));
        let reporter = Reporter::builder(client).spool(spool).unwrap().start();
        let handle = Arc::clone(reporter.shared().spool.as_ref().unwrap());
        reporter.record_at("a", 1.0, 1);
        time::sleep(600 * SECOND).await;
        assert_eq!((reporter.stats().spooled, handle.is_synced()), (1, false));
        // By the clock that the folder goes by, no time has passed.
        time::sleep(3600 * SECOND).await;
        assert!(handle.is_synced());
    }
}
