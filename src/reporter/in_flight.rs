//! The batches that are being sent: plain state.

use std::{sync::Arc, task::Waker};

use super::{attempts::Attempts, poison::Suspects};
use crate::{client::Outcomes, error::Error, metric::Sample};

/// The batches in flight, and what is known of samples that failed before.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// The one that was taken from the queue.
    current: Option<InFlightBatch>,
    /// The one that was read from the spool.
    replay: Option<InFlightBatch>,
    /// The outcome of the last one from the spool, until the spool takes it.
    pub(super) replayed: Option<Replayed>,
    /// Samples that failed alone: they are left out of batches, and tried again one by one.
    pub(super) suspects: Suspects,
    pub(super) attempts: Attempts,
    /// How many batches have been started.
    started: u64,
}

/// A batch in flight. The future that sends it belongs to the task that awaits it; the batch itself can
/// be recalled by any thread.
#[derive(Debug)]
pub(super) struct InFlightBatch {
    id: u64,
    pub(super) origin: Origin,
    pub(super) samples: Arc<Vec<Sample>>,
    pub(super) outcomes: Arc<Outcomes>,
    /// The task that awaits the outcome.
    pub(super) waker: Option<Waker>,
}

/// What the task that sends a batch needs of it.
pub(super) struct StartedBatch {
    pub(super) id: u64,
    pub(super) samples: Arc<Vec<Sample>>,
    pub(super) outcomes: Arc<Outcomes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Queue,
    #[cfg_attr(not(feature = "spool"), expect(dead_code, reason = "a spool makes it"))]
    Spool {
        /// The batch is one sample, which is to blame if the server closes the connection.
        accused: bool,
    },
}

/// How the sending of a batch has ended.
#[derive(Debug)]
pub(super) enum SendOutcome {
    /// Every sample has its outcome.
    Complete,
    /// Some samples have none, and wait again.
    Interrupted(Error),
    /// The batch was recalled; its samples without an outcome wait again.
    Recalled,
}

/// The outcome of samples that were sent from the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// How many of the first samples have their outcome.
    pub(super) settled: usize,
    pub(super) rejected: u64,
    pub(super) poison: u64,
}

impl InFlight {
    pub(super) fn new(max_attempts: Option<u32>) -> Self {
        Self { attempts: Attempts::new(max_attempts), ..Self::default() }
    }

    /// Adds a batch of this origin, which has none in flight.
    pub(super) fn start(&mut self, origin: Origin, samples: Vec<Sample>) -> StartedBatch {
        self.started += 1;
        let id = self.started;
        let outcomes = Arc::new(Outcomes::new(samples.len()));
        let samples = Arc::new(samples);
        let started =
            StartedBatch { id, samples: Arc::clone(&samples), outcomes: Arc::clone(&outcomes) };
        *self.slot(origin) = Some(InFlightBatch { id, origin, samples, outcomes, waker: None });
        started
    }

    /// Keeps the waker of the task that awaits the batch, and returns the one that it replaces. Fails if
    /// the batch is not in flight any more.
    pub(super) fn set_waker(&mut self, id: u64, waker: &Waker) -> Result<Option<Waker>, Recalled> {
        let batch = self.find(id).and_then(Option::as_mut).ok_or(Recalled)?;
        if batch.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return Ok(None);
        }
        Ok(batch.waker.replace(waker.clone()))
    }

    /// Removes the batch, if it is in flight.
    pub(super) fn take(&mut self, id: u64) -> Option<InFlightBatch> {
        self.find(id).and_then(Option::take)
    }

    /// Removes the batch that was taken from the queue, if one is in flight.
    pub(super) fn take_current(&mut self) -> Option<InFlightBatch> {
        self.current.take()
    }

    /// Removes the batch that was read from the spool, if one is in flight.
    pub(super) fn take_replay(&mut self) -> Option<InFlightBatch> {
        self.replay.take()
    }

    fn slot(&mut self, origin: Origin) -> &mut Option<InFlightBatch> {
        match origin {
            Origin::Queue => &mut self.current,
            Origin::Spool { .. } => &mut self.replay,
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Option<InFlightBatch>> {
        let slots = [&mut self.current, &mut self.replay];
        slots.into_iter().find(|slot| slot.as_ref().is_some_and(|batch| batch.id == id))
    }
}

/// The batch is not in flight any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recalled;
