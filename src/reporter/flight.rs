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

use super::{shared::Shared, stats::Reason};
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
        // The future may be dropped with its runtime.
        let _returns = Returns { shared: self, id };
        let landed = poll_fn(|cx| self.flights().poll(id, cx)).await;
        Some(match landed {
            Some((flight, result)) => self.land(flight, result),
            None => Landed::CalledBack,
        })
    }

    /// Calls back the batch that is on its way. What of it has not been sent will not be, and all of
    /// it waits again.
    pub(super) fn call_back(&self) {
        let flight = self.flights().current.take();
        self.return_home(flight);
    }

    /// Calls back the batch that is on its way, and keeps the sender from sending; false if somebody
    /// does already.
    pub(super) fn hold(&self) -> bool {
        let flight = {
            let mut flights = self.flights();
            if !self.outbox().hold() {
                return false;
            }
            flights.current.take()
        };
        self.return_home(flight);
        true
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

    fn land(&self, flight: Flight, result: Result<(), Error>) -> Landed {
        let total = flight.batch.len();
        let (settled, rejected) = outcome(&result, total);
        let trouble = result.err();
        if rejected > 0
            && self.complaints.is_due(Reason::Rejected)
            && let Some(error) = &trouble
        {
            tracing::warn!(samples = rejected, %error, "the server refuses samples");
        }
        let trouble = trouble.filter(|_| settled < total);
        self.settle(flight, settled, rejected, trouble.clone());
        trouble.map_or(Landed::Whole, Landed::Broken)
    }

    fn return_home(&self, flight: Option<Flight>) {
        if let Some(mut flight) = flight {
            let waker = flight.waker.take();
            self.settle(flight, 0, 0, None);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn settle(&self, flight: Flight, settled: usize, rejected: usize, trouble: Option<Error>) {
        let Flight { batch, call, .. } = flight;
        drop(call);
        let mut batch = Arc::unwrap_or_clone(batch);
        let open = batch.split_off(settled);
        // Before the lock is taken: there may be many keys to let go of.
        drop(batch);
        let acknowledged = settled - rejected;
        self.outbox().settle(acknowledged as u64, rejected as u64, open.into_iter(), trouble);
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
        let flight = self.shared.flights().current.take_if(|flight| flight.id == self.id);
        self.shared.return_home(flight);
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
