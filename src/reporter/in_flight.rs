//! A batch on its way, which can be called back from any thread.
//!
//! The task that sends may be stuck with its runtime: on a current-thread runtime nothing runs while a
//! guard is being dropped. So the batch does not lie in the task, but where the guard can reach it.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

#[cfg(feature = "spool")]
use super::poison::is_hangup;
use super::{attempts::Attempts, outbox::Settled, poison::Suspects, shared::Shared};
use crate::{
    client::{MetricsClient, Outcomes, SampleOutcome},
    error::Error,
    metric::Sample,
};

/// How many of them are taken from the queue at one go: nobody can record meanwhile.
const SLICE: usize = 256;

/// The batches that are on their way.
#[derive(Debug, Default)]
pub(super) struct InFlightSlot {
    /// The one that was taken from the queue.
    current: Option<InFlightBatch>,
    /// The one that was read from the spool.
    #[cfg(feature = "spool")]
    replay: Option<InFlightBatch>,
    /// What became of the last one from the spool, until the spool is told.
    #[cfg(feature = "spool")]
    replayed: Option<Replayed>,
    /// Samples that the sender passes over.
    suspects: Suspects,
    attempts: Attempts,
    /// How many batches have left.
    left: u64,
}

struct InFlightBatch {
    id: u64,
    origin: Origin,
    batch: Arc<Vec<Sample>>,
    outcomes: Arc<Outcomes>,
    call: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
    /// Whoever waits for the outcome.
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Queue,
    #[cfg(feature = "spool")]
    Spool {
        /// What is sent is one sample, and it is to blame if the server closes the connection.
        accused: bool,
    },
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum SendOutcome {
    /// Every sample has its outcome.
    Whole,
    /// Some have none, and wait again.
    Broken(Error),
    /// Somebody has called it back, and what of it has no outcome waits again.
    Recalled,
}

/// What became of samples that were sent from the spool.
#[cfg(feature = "spool")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// So many of the first have their outcome.
    pub(super) settled: usize,
    pub(super) rejected: u64,
    pub(super) poison: u64,
}

impl Shared {
    /// Sends what waits, one batch of it; `None` if nothing does, or it is somebody else's turn.
    pub(super) async fn send(
        &self,
        client: &MetricsClient,
        holds: bool,
        most: usize,
    ) -> Option<SendOutcome> {
        let id = self.start_batch(client, holds, most)?;
        Some(self.batch_outcome(id).await)
    }

    /// Sends samples that were read from the spool. However this ends, the spool has to be told what
    /// became of them: see [`take_replayed`](Self::take_replayed). If the server closes the connection
    /// at them, and they are `accused` of that, it is proved.
    #[cfg(feature = "spool")]
    pub(super) async fn replay(&self, samples: Vec<Sample>, accused: bool) -> SendOutcome {
        let id = {
            let mut flights = self.flights();
            if !self.outbox().may_replay() {
                return SendOutcome::Recalled;
            }
            let origin = Origin::Spool { accused };
            let in_flight = flights.in_flight(&self.client, origin, samples);
            flights.replay.insert(in_flight).id
        };
        self.batch_outcome(id).await
    }

    /// What became of the samples that were last sent from the spool, which the spool is to be told.
    #[cfg(feature = "spool")]
    pub(super) fn take_replayed(&self) -> Option<Replayed> {
        self.flights().replayed.take()
    }

    /// How often the server has closed the connection at a sample alone that it was not suspected to.
    #[cfg(feature = "spool")]
    pub(super) fn closed_at_others(&self) -> u64 {
        self.flights().suspects.closed_at_others()
    }

    async fn batch_outcome(&self, id: u64) -> SendOutcome {
        // The future may be dropped with its runtime.
        let _returns = RequeueOnDrop { shared: self, id };
        poll_fn(|cx| {
            let mut flights = self.flights();
            flights.poll(id, cx).map(|batch_outcome| match batch_outcome {
                Some((in_flight, result)) => self.land(flights, in_flight, result),
                None => SendOutcome::Recalled,
            })
        })
        .await
    }

    /// Calls back the batch that was taken from the queue. What of it has not been sent will not be,
    /// and what of it has no outcome waits again. Returns whether there was one.
    #[cfg(any(test, feature = "spool"))]
    pub(super) fn recall(&self) -> bool {
        let mut flights = self.flights();
        let in_flight = flights.current.take();
        let has_flown = in_flight.is_some();
        self.requeue(flights, in_flight);
        has_flown
    }

    /// Calls back the batch that is on its way, and keeps the sender from sending; false if somebody
    /// does already.
    pub(super) fn hold(&self) -> bool {
        let mut flights = self.flights();
        if !self.outbox().hold() {
            return false;
        }
        let in_flight = flights.current.take();
        self.requeue(flights, in_flight);
        true
    }

    /// Calls back what is on its way, whosever it is, and keeps everybody from sending.
    #[cfg(feature = "spool")]
    pub(super) fn begin_spill(&self) {
        let mut flights = self.flights();
        self.outbox().begin_spill();
        let in_flight = flights.current.take();
        self.requeue(flights, in_flight);
        let mut flights = self.flights();
        let replay = flights.replay.take();
        self.requeue(flights, replay);
    }

    #[cfg(feature = "spool")]
    pub(super) fn end_spill(&self) {
        let worker = self.outbox().end_spill();
        if let Some(worker) = worker {
            worker.wake();
        }
        self.note_settled();
    }

    /// The sender sends again.
    pub(super) fn release(&self) {
        let worker = self.outbox().release();
        if let Some(worker) = worker {
            worker.wake();
        }
        // Where there is no sender any more, a flush is over.
        self.note_settled();
    }

    /// Takes no more, drops what waits, and calls back what is on its way: from then on nothing is
    /// sent. How many samples were dropped.
    pub(super) fn give_up(&self) -> u64 {
        let mut flights = self.flights();
        // Before the batch comes home, so that nobody sends it again.
        let (dropped, worker) = self.outbox().give_up();
        let in_flight = flights.current.take();
        let dropped = dropped + self.requeue(flights, in_flight);
        #[cfg(feature = "spool")]
        {
            let mut flights = self.flights();
            let replay = flights.replay.take();
            self.requeue(flights, replay);
        }
        if let Some(worker) = worker {
            worker.wake();
        }
        self.note_settled();
        dropped
    }

    fn start_batch(&self, client: &MetricsClient, holds: bool, most: usize) -> Option<u64> {
        let mut flights = self.flights();
        let batch = if flights.suspects.is_empty() {
            self.take_slices(most, |slice, batch| self.outbox().take(slice, holds, batch))
        } else {
            self.take_past(&mut flights.suspects, holds, most)
        };
        if batch.is_empty() {
            return None;
        }
        let in_flight = flights.in_flight(client, Origin::Queue, batch);
        Some(flights.current.insert(in_flight).id)
    }

    fn take_slices(
        &self,
        most: usize,
        take: impl Fn(usize, &mut Vec<Sample>) -> bool,
    ) -> Vec<Sample> {
        let mut batch = Vec::new();
        while batch.len() < most && take(SLICE.min(most - batch.len()), &mut batch) {}
        batch
    }

    /// A suspect alone if it is its turn, or else all others; or a suspect if there are no others.
    fn take_past(&self, suspects: &mut Suspects, holds: bool, most: usize) -> Vec<Sample> {
        let mut batch = Vec::new();
        if suspects.has_due() {
            let is_next = |sample: &Sample| suspects.is_next(sample, true);
            if self.outbox().take_where(1, holds, is_next, &mut batch) {
                return batch;
            }
            suspects.forget_due();
        }
        let batch = self.take_slices(most, |slice, batch| {
            let is_other = |sample: &Sample| !suspects.contains(sample);
            self.outbox().take_where(slice, holds, is_other, batch)
        });
        if !batch.is_empty() {
            return batch;
        }
        let mut batch = batch;
        let is_next = |sample: &Sample| suspects.is_next(sample, false);
        self.outbox().take_where(1, holds, is_next, &mut batch);
        batch
    }

    fn land(
        &self,
        mut flights: MutexGuard<'_, InFlightSlot>,
        in_flight: InFlightBatch,
        result: Result<(), Error>,
    ) -> SendOutcome {
        let mut outcomes = match result {
            Ok(()) => vec![SampleOutcome::Acknowledged; in_flight.batch.len()].into(),
            Err(_) => in_flight.outcomes.get(),
        };
        let error = result.err();
        match in_flight.origin {
            Origin::Queue => {
                flights.suspects.judge(&in_flight.batch, &mut outcomes, error.as_ref());
            }
            #[cfg(feature = "spool")]
            Origin::Spool { accused } => {
                if accused && error.as_ref().is_some_and(is_hangup) {
                    outcomes.fill(SampleOutcome::ClosedOn);
                }
            }
        }
        let is_whole = !outcomes.contains(&SampleOutcome::Open);
        self.settle(flights, in_flight, Some(outcomes), error.as_ref());
        let last_error = error.filter(|_| !is_whole);
        match &last_error {
            Some(error) => self.log.unsent(error),
            None => self.log.sent(),
        }
        self.note_room();
        last_error.map_or(SendOutcome::Whole, SendOutcome::Broken)
    }

    /// How many of its samples had to be dropped.
    fn requeue(
        &self,
        flights: MutexGuard<'_, InFlightSlot>,
        in_flight: Option<InFlightBatch>,
    ) -> u64 {
        let Some(mut in_flight) = in_flight else { return 0 };
        let waker = in_flight.waker.take();
        let dropped = self.settle(flights, in_flight, None, None);
        if let Some(waker) = waker {
            waker.wake();
        }
        dropped
    }

    /// The flight has been taken out of the flights, which stay locked until its samples are settled:
    /// whoever finds none on its way finds none that is out. Its outcomes are given if it has landed,
    /// with the error, if there was one. How many samples had to be dropped.
    fn settle(
        &self,
        mut flights: MutexGuard<'_, InFlightSlot>,
        in_flight: InFlightBatch,
        batch_outcome: Option<Box<[SampleOutcome]>>,
        error: Option<&Error>,
    ) -> u64 {
        let InFlightBatch { batch, call, outcomes, origin, .. } = in_flight;
        // From now on no more outcomes come.
        drop(call);
        let batch = Arc::unwrap_or_clone(batch);
        let has_landed = batch_outcome.is_some();
        let outcomes = batch_outcome.unwrap_or_else(|| outcomes.get());
        let (sorted, dropped) = match origin {
            Origin::Queue => {
                let mut sorted = Sorted::new(batch, &outcomes);
                let mut open = std::mem::take(&mut sorted.open);
                let last_error = error.filter(|_| !open.is_empty()).cloned();
                if has_landed {
                    sorted.exhausted = flights.attempts.failed(&mut open);
                }
                let poison = sorted.poison.len() as u64;
                let (acknowledged, rejected) = (sorted.acknowledged, sorted.rejected);
                let exhausted = sorted.exhausted.len() as u64;
                let settled = Settled { acknowledged, rejected, poison, exhausted };
                let dropped = self.outbox().settle(settled, open.into_iter(), last_error);
                (sorted, dropped)
            }
            // What has no outcome lies in the spool as it did.
            #[cfg(feature = "spool")]
            Origin::Spool { .. } => {
                let is_open = |outcome: &SampleOutcome| *outcome == SampleOutcome::Open;
                let settled = outcomes.iter().position(is_open).unwrap_or(outcomes.len());
                let sorted = Sorted::new(batch, &outcomes[..settled]);
                let (rejected, poison) = (sorted.rejected, sorted.poison.len() as u64);
                flights.replayed = Some(Replayed { settled, rejected, poison });
                (sorted, 0)
            }
        };
        drop(flights);
        self.complain_of(&sorted, error);
        drop(sorted);
        self.note_settled();
        dropped
    }

    fn complain_of(&self, sorted: &Sorted, error: Option<&Error>) {
        let samples = sorted.rejected;
        if samples > 0 {
            self.log.rejected(samples, error);
        }
        for sample in &sorted.poison {
            self.poison.log(sample);
        }
        if !sorted.exhausted.is_empty() {
            self.log.exhausted(sorted.exhausted.len());
        }
    }

    /// Locked before the outbox.
    ///
    /// The client's future is polled and dropped under this lock, which may wake the client's tasks:
    /// whoever calls a batch back counts on its being home when that returns. So this lock must not be
    /// taken where a task is woken or something is logged. Recording and the counts do not take it.
    fn flights(&self) -> MutexGuard<'_, InFlightSlot> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The samples of a batch by what became of them.
#[derive(Default)]
struct Sorted {
    acknowledged: u64,
    rejected: u64,
    /// The server closes the connection at these.
    poison: Vec<Sample>,
    open: Vec<Sample>,
    /// These have had as many attempts as they may.
    exhausted: Vec<Sample>,
    /// Kept until no lock is held: there may be many keys to let go of.
    _done: Vec<Sample>,
}

impl Sorted {
    fn new(batch: Vec<Sample>, outcomes: &[SampleOutcome]) -> Self {
        let mut sorted = Self { _done: Vec::with_capacity(batch.len()), ..Self::default() };
        for (sample, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                SampleOutcome::Open => sorted.open.push(sample),
                SampleOutcome::ClosedOn => sorted.poison.push(sample),
                SampleOutcome::Acknowledged => {
                    sorted.acknowledged += 1;
                    sorted._done.push(sample);
                }
                SampleOutcome::Rejected => {
                    sorted.rejected += 1;
                    sorted._done.push(sample);
                }
            }
        }
        sorted
    }
}

impl InFlightSlot {
    pub(super) fn new(max_attempts: Option<u32>) -> Self {
        Self { attempts: Attempts::new(max_attempts), ..Self::default() }
    }

    fn in_flight(
        &mut self,
        client: &MetricsClient,
        origin: Origin,
        batch: Vec<Sample>,
    ) -> InFlightBatch {
        self.left += 1;
        let outcomes = Arc::new(Outcomes::new(batch.len()));
        let batch = Arc::new(batch);
        let call = {
            let (client, batch) = (client.clone(), Arc::clone(&batch));
            let outcomes = Arc::clone(&outcomes);
            Box::pin(async move { client.put_all_tracked(&batch, &outcomes).await })
        };
        InFlightBatch { id: self.left, origin, batch, outcomes, call, waker: None }
    }

    /// Where the flight is, if it is on its way.
    fn find(&mut self, id: u64) -> Option<&mut Option<InFlightBatch>> {
        #[cfg(feature = "spool")]
        if self.replay.as_ref().is_some_and(|in_flight| in_flight.id == id) {
            return Some(&mut self.replay);
        }
        self.current
            .as_ref()
            .is_some_and(|in_flight| in_flight.id == id)
            .then_some(&mut self.current)
    }

    /// The outcome of a flight; nothing if it has been called back.
    fn poll(
        &mut self,
        id: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(InFlightBatch, Result<(), Error>)>> {
        let Some(place) = self.find(id) else { return Poll::Ready(None) };
        let Some(in_flight) = place else { return Poll::Ready(None) };
        match in_flight.call.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(place.take().map(|in_flight| (in_flight, result))),
            Poll::Pending => {
                in_flight.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Sees to it that the samples of a flight wait again when nobody waits for its outcome any more.
struct RequeueOnDrop<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for RequeueOnDrop<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights();
        let in_flight = flights.find(self.id).and_then(Option::take);
        self.shared.requeue(flights, in_flight);
    }
}

impl fmt::Debug for InFlightBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("id", &self.id)
            .field("samples", &self.batch.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{super::attempts::MAX_BATCH, *};
    use crate::Reporter;

    /// A call that is answered at once, and that looks, when it is dropped, whether anybody could take
    /// its batch for one that nobody sends.
    struct Call {
        shared: Arc<Shared>,
        was_hidden: Arc<AtomicBool>,
    }

    impl Future for Call {
        type Output = Result<(), Error>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(()))
        }
    }

    impl Drop for Call {
        fn drop(&mut self) {
            self.was_hidden.store(self.shared.flights.try_lock().is_err(), Ordering::Relaxed);
        }
    }

    /// Three samples on their way, and whether their end was hidden.
    fn flying() -> (Arc<Shared>, Arc<AtomicBool>) {
        let client = MetricsClient::builder("127.0.0.1:1").connect_lazy().unwrap();
        let reporter = Reporter::new(client);
        for second in 0..3 {
            reporter.record_at("a", 0.5, second);
        }
        let shared = Arc::clone(reporter.shared());
        let mut batch = Vec::new();
        assert!(shared.outbox().take(3, false, &mut batch));
        let was_hidden = Arc::new(AtomicBool::new(false));
        let call = Call { shared: Arc::clone(&shared), was_hidden: Arc::clone(&was_hidden) };
        let outcomes = Arc::new(Outcomes::new(3));
        let in_flight = InFlightBatch {
            id: 1,
            origin: Origin::Queue,
            batch: Arc::new(batch),
            outcomes,
            call: Box::pin(call),
            waker: None,
        };
        shared.flights().current = Some(in_flight);
        (shared, was_hidden)
    }

    #[tokio::test]
    async fn a_batch_lands_in_one_go() {
        let (shared, was_hidden) = flying();
        assert!(matches!(shared.batch_outcome(1).await, SendOutcome::Whole));
        assert!(was_hidden.load(Ordering::Relaxed));
        let stats = shared.outbox().stats();
        assert_eq!((stats.acknowledged, stats.waiting), (3, 0));
    }

    #[tokio::test]
    async fn a_batch_is_called_back_in_one_go() {
        let (shared, was_hidden) = flying();
        assert!(shared.recall());
        assert!(was_hidden.load(Ordering::Relaxed));
        let stats = shared.outbox().stats();
        assert_eq!((stats.acknowledged, stats.waiting), (0, 3));
    }

    /// A sender that is woken, at once, wherever that happens.
    struct Eager {
        shared: Arc<Shared>,
        has_sent: AtomicBool,
    }

    impl std::task::Wake for Eager {
        fn wake(self: Arc<Self>) {
            let id = self.shared.start_batch(&self.shared.client, false, MAX_BATCH);
            self.has_sent.store(id.is_some(), Ordering::Relaxed);
        }
    }

    // FAULTS A3
    #[tokio::test]
    async fn what_is_called_back_at_the_end_is_not_sent_again() {
        let (shared, _) = flying();
        let eager = Arc::new(Eager { shared: Arc::clone(&shared), has_sent: false.into() });
        shared.flights().current.as_mut().unwrap().waker = Some(Waker::from(Arc::clone(&eager)));
        let _ = shared.outbox().close(tokio::time::Instant::now());
        assert_eq!(shared.give_up(), 3);
        assert!(!eager.has_sent.load(Ordering::Relaxed));
        let stats = shared.outbox().stats();
        assert_eq!((stats.waiting, stats.dropped.closed), (0, 3));
    }
}
