//! The way of samples from the queue to the server and back, which any thread can interrupt.
//!
//! The task that sends may be stuck with its runtime: on a current-thread runtime nothing runs while a
//! guard is being dropped. So what is in flight is kept here, where the guard can recall it.

use std::{
    collections::HashSet,
    error::Error as StdError,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, ready},
};

use tokio::sync::{Notify, futures::Notified};

use super::{
    in_flight::{InFlight, InFlightBatch, Origin, Replayed, SendOutcome, StartedBatch},
    log::ReporterLog,
    outbox::{Outbox, RecordOutcome},
    poison::{PoisonKeys, Suspects, is_hangup},
    settlement::Settlement,
    stats::{DropReason, LossReason},
};
use crate::{
    client::{MetricsClient, SampleOutcome},
    error::Error,
    metric::Sample,
    wake::survives,
};

/// What the handles of a reporter, the task that sends, the guards and the spool work on.
///
/// # Locks
///
/// In this order: the spool's folder, `in_flight`, and then either the outbox, or the outcomes of a batch
/// and with them the pipelines of its client. All but the folder are held for moments. Under none of them
/// is a task woken, a line logged, or a future polled or dropped: each of these can run foreign code, which
/// may use the reporter.
#[derive(Debug)]
pub(super) struct Dispatcher {
    outbox: Mutex<Outbox>,
    in_flight: Mutex<InFlight>,
    /// Notified whenever a batch has an outcome, samples turn out to have none, or a task that sends has
    /// ended.
    settled: Notify,
    pub(super) log: ReporterLog,
    poison: PoisonKeys,
}

impl Dispatcher {
    pub(super) fn new(outbox: Outbox, max_attempts: Option<u32>) -> Self {
        Self {
            outbox: Mutex::new(outbox),
            in_flight: Mutex::new(InFlight::new(max_attempts)),
            settled: Notify::new(),
            log: ReporterLog::default(),
            poison: PoisonKeys::default(),
        }
    }

    #[inline]
    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // Nothing foreign runs under the lock but the cloning of wakers.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if no thread holds a lock of the reporter.
    #[cfg(test)]
    pub(super) fn is_unlocked(&self) -> bool {
        self.outbox.try_lock().is_ok() && self.in_flight.try_lock().is_ok()
    }

    /// Sends at most `most` of the samples that wait, through this client. Returns `None` if none wait, or
    /// if it is another's turn: while the sender is [paused](Self::pause_sender), only the caller that has
    /// paused it sends, and `has_paused` says that this is the one.
    pub(super) async fn send(
        &self,
        client: &MetricsClient,
        has_paused: bool,
        most: usize,
    ) -> Option<SendOutcome> {
        let batch = self.start_batch(has_paused, most)?;
        Some(self.batch_outcome(client, batch).await)
    }

    async fn batch_outcome(&self, client: &MetricsClient, batch: StartedBatch) -> SendOutcome {
        let StartedBatch { id, samples, outcomes } = batch;
        // The future may be dropped with its runtime.
        let _requeue = RequeueOnDrop { dispatcher: self, id };
        self.ended(id, async move { client.put_all_tracked(&samples, &outcomes).await }).await
    }

    /// Sends the batch by this future, until that is ready or the batch is recalled.
    async fn ended(&self, id: u64, call: impl Future<Output = Result<(), Error>>) -> SendOutcome {
        let mut call = pin!(call);
        poll_fn(|cx| {
            let Ok(_replaced) = self.in_flight().set_waker(id, cx.waker()) else {
                return Poll::Ready(SendOutcome::Recalled);
            };
            let result = ready!(call.as_mut().poll(cx));
            Poll::Ready(self.finish_batch(id, result))
        })
        .await
    }

    /// Recalls the batch that was taken from the queue. When this returns, what of it has not been sent
    /// will not be, and what of it has no outcome waits again. Returns false if no batch was in flight.
    #[cfg(any(test, feature = "spool"))]
    pub(super) fn recall(&self) -> bool {
        let mut in_flight = self.in_flight();
        let batch = in_flight.take_current();
        let was_in_flight = batch.is_some();
        self.requeue(in_flight, batch);
        was_in_flight
    }

    /// Recalls the batch that is in flight, and keeps the sender from sending until
    /// [`resume_sender`](Self::resume_sender). Returns false if it is paused already.
    pub(super) fn pause_sender(&self) -> bool {
        let mut in_flight = self.in_flight();
        if !self.outbox().pause_sender() {
            return false;
        }
        let batch = in_flight.take_current();
        self.requeue(in_flight, batch);
        true
    }

    /// Has the sender send again.
    pub(super) fn resume_sender(&self) {
        let worker = self.outbox().resume_sender();
        if let Some(worker) = worker {
            worker.wake();
        }
        // Where there is no sender any more, a flush is over.
        self.note_settled();
    }

    fn recall_replay(&self) {
        let mut in_flight = self.in_flight();
        let batch = in_flight.take_replay();
        self.requeue(in_flight, batch);
    }

    /// Accepts no more samples, drops what waits, and recalls what is in flight: from then on nothing is
    /// sent. Returns how many samples were dropped.
    pub(super) fn discard_all(&self) -> u64 {
        let mut in_flight = self.in_flight();
        // Before the batch is back, so that no task sends it again.
        let (dropped, worker) = self.outbox().discard_all();
        let batch = in_flight.take_current();
        let dropped = dropped + self.requeue(in_flight, batch);
        self.recall_replay();
        if let Some(worker) = worker {
            worker.wake();
        }
        self.note_settled();
        dropped
    }

    fn start_batch(&self, has_paused: bool, most: usize) -> Option<StartedBatch> {
        let mut in_flight = self.in_flight();
        if !self.outbox().may_take(has_paused, 0) {
            return None;
        }
        let batch = if in_flight.suspects.is_empty() {
            take_chunks(most, |chunk, batch| self.outbox().take(chunk, has_paused, batch))
        } else {
            self.take_past(&mut in_flight.suspects, has_paused, most)
        };
        (!batch.is_empty()).then(|| in_flight.start(Origin::Queue, batch))
    }

    /// Takes a suspect alone if one is due, otherwise samples that are no suspects, and a suspect if
    /// there are no others.
    fn take_past(&self, suspects: &mut Suspects, has_paused: bool, most: usize) -> Vec<Sample> {
        let take_one = |is_wanted: &dyn Fn(&Sample) -> bool| {
            let mut batch = Vec::new();
            self.outbox().take_matching(1, has_paused, is_wanted, &mut batch);
            batch
        };
        if suspects.is_trial_due() {
            let batch = take_one(&|sample| suspects.is_due(sample));
            if !batch.is_empty() {
                return batch;
            }
            suspects.forget_due();
        }
        let mut batch = Vec::new();
        if suspects.skip() > 0 {
            batch = self.take_skipping(suspects, has_paused);
        }
        if batch.is_empty() {
            batch = take_chunks(most, |chunk, batch| {
                let is_other = |sample: &Sample| !suspects.contains(sample);
                self.outbox().take_matching(chunk, has_paused, is_other, batch)
            });
        }
        // If none but suspects wait, one that is due, otherwise the oldest.
        if batch.is_empty() {
            batch = take_one(&|sample| suspects.is_due(sample));
        }
        if batch.is_empty() {
            batch = take_one(&|_| true);
        }
        batch
    }

    /// Takes one sample that is no suspect, after [skipping](Suspects::skip) others; if there are fewer, the
    /// last.
    fn take_skipping(&self, suspects: &mut Suspects, has_paused: bool) -> Vec<Sample> {
        let take_behind = |skip: usize| {
            let mut batch = Vec::new();
            let mut skipped = HashSet::new();
            let is_behind = |sample: &Sample| {
                if suspects.contains(sample) {
                    return false;
                }
                let id = (sample.key.clone(), sample.point.timestamp);
                // A sample must not overtake an older one that it replaces.
                let is_behind = skipped.len() >= skip && !skipped.contains(&id);
                if !is_behind {
                    skipped.insert(id);
                }
                is_behind
            };
            self.outbox().take_matching(1, has_paused, is_behind, &mut batch);
            (batch, skipped.len())
        };
        let (batch, skipped) = take_behind(suspects.skip());
        if !batch.is_empty() {
            return batch;
        }
        let (batch, _) = take_behind(skipped.saturating_sub(1));
        suspects.reset_skip();
        batch
    }

    fn finish_batch(&self, id: u64, result: Result<(), Error>) -> SendOutcome {
        let mut in_flight = self.in_flight();
        let Some(batch) = in_flight.take(id) else {
            drop(in_flight);
            return SendOutcome::Recalled;
        };
        let mut outcomes = match result {
            Ok(()) => vec![SampleOutcome::Acknowledged; batch.samples.len()].into(),
            Err(_) => batch.outcomes.get(),
        };
        let error = result.err();
        match batch.origin {
            Origin::Queue => {
                in_flight.suspects.judge(&batch.samples, &mut outcomes, error.as_ref());
            }
            Origin::Spool { accused } => {
                if accused && error.as_ref().is_some_and(is_hangup) {
                    outcomes.fill(SampleOutcome::ClosedOn);
                }
            }
        }
        let is_complete = !outcomes.contains(&SampleOutcome::Open);
        self.settle(in_flight, batch, &outcomes, true, error.as_ref());
        let last_error = error.filter(|_| !is_complete);
        match &last_error {
            Some(error) => self.log.unsent(error),
            None => self.log.sent(),
        }
        self.note_room();
        last_error.map_or(SendOutcome::Complete, SendOutcome::Interrupted)
    }

    /// Has the samples of a batch that was taken out of `in_flight` wait again, if there is one. Returns
    /// how many of its samples had to be dropped.
    fn requeue(&self, in_flight: MutexGuard<'_, InFlight>, batch: Option<InFlightBatch>) -> u64 {
        let Some(mut batch) = batch else { return 0 };
        let waker = batch.waker.take();
        // What it leaves behind wakes tasks when it is dropped, at the end.
        let (outcomes, _cancelled) = batch.outcomes.cancel();
        let dropped = self.settle(in_flight, batch, &outcomes, false, None);
        if let Some(waker) = waker {
            waker.wake();
        }
        dropped
    }

    /// Counts the samples of a batch by their outcomes, and has those without one wait again. The batch
    /// was taken out of `in_flight`, which stays locked until then: a thread that finds no batch in flight
    /// finds none that the queue still counts as taken. Returns how many samples had to be dropped.
    fn settle(
        &self,
        mut in_flight: MutexGuard<'_, InFlight>,
        batch: InFlightBatch,
        outcomes: &[SampleOutcome],
        is_attempt: bool,
        error: Option<&Error>,
    ) -> u64 {
        let InFlightBatch { samples, origin, .. } = batch;
        let samples = Arc::unwrap_or_clone(samples);
        let (settlement, dropped) = match origin {
            Origin::Queue => {
                let mut settlement = Settlement::new(samples, outcomes);
                let mut open = std::mem::take(&mut settlement.open);
                let last_error = error.filter(|_| !open.is_empty()).cloned();
                if is_attempt {
                    settlement.exhausted = in_flight.attempts.failed(&mut open);
                }
                let counts = settlement.counts();
                let dropped = self.outbox().settle(counts, open.into_iter(), last_error);
                (settlement, dropped)
            }
            // What has no outcome is still in the spool.
            Origin::Spool { .. } => {
                let is_open = |outcome: &SampleOutcome| *outcome == SampleOutcome::Open;
                let settled = outcomes.iter().position(is_open).unwrap_or(outcomes.len());
                let settlement = Settlement::new(samples, &outcomes[..settled]);
                let (rejected, poison) = (settlement.rejected, settlement.poison.len() as u64);
                in_flight.replayed = Some(Replayed { settled, rejected, poison });
                (settlement, 0)
            }
        };
        drop(in_flight);
        self.log_losses(&settlement, error);
        drop(settlement);
        self.note_settled();
        dropped
    }

    fn log_losses(&self, settlement: &Settlement, error: Option<&Error>) {
        if settlement.rejected > 0 {
            self.log.rejected(settlement.rejected, error);
        }
        for sample in &settlement.poison {
            self.poison.log(sample);
        }
        if !settlement.exhausted.is_empty() {
            self.log.exhausted(settlement.exhausted.len());
        }
    }

    /// Wakes the flushes that wait for an outcome, or for the end of the task that sends.
    pub(super) fn note_settled(&self) {
        survives(|| self.settled.notify_waiters());
    }

    /// Returns a future that is ready when [`note_settled`](Self::note_settled) is called the next time.
    pub(super) fn next_settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    /// Notes in the log that samples are not dropped any more, if the queue has room again.
    pub(super) fn note_room(&self) {
        let has_room = self.outbox().is_half_empty();
        if has_room {
            self.log.has_room();
        }
    }

    /// Wakes and logs what recording a sample has made due. The caller holds no lock.
    #[inline]
    pub(super) fn follow_up(&self, recorded: RecordOutcome) {
        let RecordOutcome { worker, dropped, .. } = recorded;
        if let Some(worker) = worker {
            worker.wake();
        }
        if let Some(reason) = dropped {
            self.log_drop(reason);
        }
    }

    /// Counts and logs a sample that cannot be sent.
    #[cold]
    pub(super) fn refuse(&self, reason: DropReason, error: &dyn StdError) {
        let _ = self.outbox().refuse(reason);
        self.log.refused(reason.into(), error);
    }

    #[cold]
    fn log_drop(&self, reason: LossReason) {
        self.log.dropped(reason, || *self.outbox().stats().counter_mut(reason));
    }
}

/// What a spool does.
#[cfg(feature = "spool")]
impl Dispatcher {
    /// Sends samples that were read from the spool. However this ends, the spool has to be told what
    /// became of them: see [`take_replayed`](Self::take_replayed). If the server closes the connection
    /// at them, and they are `accused` of that, it is proved.
    pub(super) async fn replay(
        &self,
        client: &MetricsClient,
        samples: Vec<Sample>,
        accused: bool,
    ) -> SendOutcome {
        let batch = {
            let mut in_flight = self.in_flight();
            if !self.outbox().may_replay() {
                return SendOutcome::Recalled;
            }
            in_flight.start(Origin::Spool { accused }, samples)
        };
        self.batch_outcome(client, batch).await
    }

    /// Returns the outcome of the samples that were last sent from the spool, once, for the spool.
    pub(super) fn take_replayed(&self) -> Option<Replayed> {
        self.in_flight().replayed.take()
    }

    /// Returns how often the server has closed the connection at a sample alone that it was not suspected
    /// to.
    pub(super) fn closed_at_others(&self) -> u64 {
        self.in_flight().suspects.closed_at_others()
    }

    /// Recalls every batch in flight, and keeps all from sending until [`end_spill`](Self::end_spill).
    pub(super) fn begin_spill(&self) {
        let mut in_flight = self.in_flight();
        self.outbox().begin_spill();
        let batch = in_flight.take_current();
        self.requeue(in_flight, batch);
        self.recall_replay();
    }

    pub(super) fn end_spill(&self) {
        let worker = self.outbox().end_spill();
        if let Some(worker) = worker {
            worker.wake();
        }
        self.note_settled();
    }
}

/// Takes up to `most` samples, a chunk at a time.
fn take_chunks(most: usize, take: impl Fn(usize, &mut Vec<Sample>) -> bool) -> Vec<Sample> {
    let mut batch = Vec::new();
    while batch.len() < most && take(TAKE_CHUNK.min(most - batch.len()), &mut batch) {}
    batch
}

/// How many samples are taken from the queue at once: no thread can record until that is done.
const TAKE_CHUNK: usize = 256;

/// Has the samples of a batch wait again when no task awaits its outcome any more.
struct RequeueOnDrop<'a> {
    dispatcher: &'a Dispatcher,
    id: u64,
}

impl Drop for RequeueOnDrop<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.dispatcher.in_flight();
        let batch = in_flight.take(self.id);
        self.dispatcher.requeue(in_flight, batch);
    }
}

#[cfg(test)]
mod tests;
