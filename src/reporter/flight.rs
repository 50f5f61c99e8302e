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

use super::shared::Shared;
use crate::{client::MetricsClient, error::Error, metric::Sample};

/// How many samples leave at once: what a connection has in flight, so that it is kept busy, and few
/// enough that what is sent again after a failure does not count.
pub(super) const BATCH: usize = 4096;

/// How many of them are taken from the queue at one go: nobody can record meanwhile.
const SLICE: usize = 256;

/// The batch that is on its way, if one is.
#[derive(Debug, Default)]
pub(super) struct Flights {
    current: Option<Flight>,
    /// How many batches have left.
    left: u64,
}

struct Flight {
    id: u64,
    batch: Arc<Vec<Sample>>,
    call: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
    /// Whoever waits for the outcome.
    waker: Option<Waker>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Landed {
    /// Every sample has its outcome.
    Whole,
    /// Some have none, and wait again.
    Broken(Error),
    /// Somebody has called it back, and it waits again.
    CalledBack,
}

impl Shared {
    /// Sends what waits, one batch of it; `None` if nothing does, or it is somebody else's turn.
    pub(super) async fn send(
        &self,
        client: &MetricsClient,
        holds: bool,
        most: usize,
    ) -> Option<Landed> {
        let id = self.take_off(client, holds, most)?;
        Some(self.landed(id).await)
    }

    async fn landed(&self, id: u64) -> Landed {
        // The future may be dropped with its runtime.
        let _returns = Returns { shared: self, id };
        poll_fn(|cx| {
            let mut flights = self.flights();
            flights.poll(id, cx).map(|landed| match landed {
                Some((flight, result)) => self.land(flights, flight, result),
                None => Landed::CalledBack,
            })
        })
        .await
    }

    /// Calls back the batch that is on its way. What of it has not been sent will not be, and all of
    /// it waits again.
    pub(super) fn call_back(&self) {
        let mut flights = self.flights();
        let flight = flights.current.take();
        self.return_home(flights, flight);
    }

    /// Calls back the batch that is on its way, and keeps the sender from sending; false if somebody
    /// does already.
    pub(super) fn hold(&self) -> bool {
        let mut flights = self.flights();
        if !self.outbox().hold() {
            return false;
        }
        let flight = flights.current.take();
        self.return_home(flights, flight);
        true
    }

    /// Calls back the batch that is on its way, whosever it is, and keeps everybody from sending.
    #[cfg(feature = "spool")]
    pub(super) fn begin_rescue(&self) {
        let mut flights = self.flights();
        self.outbox().begin_rescue();
        let flight = flights.current.take();
        self.return_home(flights, flight);
    }

    #[cfg(feature = "spool")]
    pub(super) fn end_rescue(&self) {
        let sender = self.outbox().end_rescue();
        if let Some(sender) = sender {
            sender.wake();
        }
        self.note_settled();
    }

    /// The sender sends again.
    pub(super) fn release(&self) {
        let sender = self.outbox().release();
        if let Some(sender) = sender {
            sender.wake();
        }
        // Where there is no sender any more, a flush is over.
        self.note_settled();
    }

    fn take_off(&self, client: &MetricsClient, holds: bool, most: usize) -> Option<u64> {
        let mut flights = self.flights();
        let mut batch = Vec::new();
        while batch.len() < most
            && self.outbox().take(SLICE.min(most - batch.len()), holds, &mut batch)
        {}
        if batch.is_empty() {
            return None;
        }
        let batch = Arc::new(batch);
        let call = {
            let (client, batch) = (client.clone(), Arc::clone(&batch));
            Box::pin(async move { client.put_all(batch.as_slice()).await })
        };
        flights.left += 1;
        let id = flights.left;
        flights.current = Some(Flight { id, batch, call, waker: None });
        Some(id)
    }

    fn land(
        &self,
        flights: MutexGuard<'_, Flights>,
        flight: Flight,
        result: Result<(), Error>,
    ) -> Landed {
        let total = flight.batch.len();
        let (settled, rejected) = outcome(&result, total);
        let fault = result.err();
        let trouble = fault.clone().filter(|_| settled < total);
        self.settle(flights, flight, settled, rejected, trouble.clone());
        if rejected > 0
            && let Some(error) = &fault
        {
            self.log.rejected(rejected as u64, error);
        }
        match &trouble {
            Some(error) => self.log.unsent(error),
            None => self.log.sent(),
        }
        self.note_room();
        trouble.map_or(Landed::Whole, Landed::Broken)
    }

    fn return_home(&self, flights: MutexGuard<'_, Flights>, flight: Option<Flight>) {
        if let Some(mut flight) = flight {
            let waker = flight.waker.take();
            self.settle(flights, flight, 0, 0, None);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The flight has been taken out of the flights, which stay locked until its samples are settled:
    /// whoever finds none on its way finds none that is out.
    fn settle(
        &self,
        flights: MutexGuard<'_, Flights>,
        flight: Flight,
        settled: usize,
        rejected: usize,
        trouble: Option<Error>,
    ) {
        let Flight { batch, call, .. } = flight;
        drop(call);
        let mut batch = Arc::unwrap_or_clone(batch);
        let open = batch.split_off(settled);
        let acknowledged = settled - rejected;
        self.outbox().settle(acknowledged as u64, rejected as u64, open.into_iter(), trouble);
        drop(flights);
        // Only now: there may be many keys to let go of.
        drop(batch);
        self.note_settled();
    }

    /// Locked before the outbox.
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many samples of a batch have their outcome, and how many of those the server has refused.
pub(super) fn outcome(result: &Result<(), Error>, total: usize) -> (usize, usize) {
    match result {
        Ok(()) => (total, 0),
        Err(Error::Batch(batch)) => (batch.settled, batch.rejected),
        Err(_) => (0, 0),
    }
}

impl Flights {
    /// The outcome of a flight; nothing if it has been called back.
    fn poll(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Option<(Flight, Result<(), Error>)>> {
        let Some(flight) = self.current.as_mut().filter(|flight| flight.id == id) else {
            return Poll::Ready(None);
        };
        match flight.call.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(self.current.take().map(|flight| (flight, result))),
            Poll::Pending => {
                flight.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Sees to it that the samples of a flight wait again when nobody waits for its outcome any more.
struct Returns<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Returns<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights();
        let flight = flights.current.take_if(|flight| flight.id == self.id);
        self.shared.return_home(flights, flight);
    }
}

impl fmt::Debug for Flight {
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

    use super::*;
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
        let flight = Flight { id: 1, batch: Arc::new(batch), call: Box::pin(call), waker: None };
        shared.flights().current = Some(flight);
        (shared, was_hidden)
    }

    #[tokio::test]
    async fn a_batch_lands_in_one_go() {
        let (shared, was_hidden) = flying();
        assert!(matches!(shared.landed(1).await, Landed::Whole));
        assert!(was_hidden.load(Ordering::Relaxed));
        let stats = shared.outbox().stats();
        assert_eq!((stats.acknowledged, stats.waiting), (3, 0));
    }

    #[tokio::test]
    async fn a_batch_is_called_back_in_one_go() {
        let (shared, was_hidden) = flying();
        shared.call_back();
        assert!(was_hidden.load(Ordering::Relaxed));
        let stats = shared.outbox().stats();
        assert_eq!((stats.acknowledged, stats.waiting), (0, 3));
    }
}
