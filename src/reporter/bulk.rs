//! Recording many samples under a lock of the caller.
//!
//! A sample that is recorded may wake the task that sends, and may be worth a log line. Neither may
//! happen under a lock: a waker and a tracing subscriber are foreign code. So this records first, and
//! leaves the rest to a value that the caller runs once it has released its locks.

use std::sync::Arc;
#[cfg(feature = "recorder")]
use std::time::Duration;

#[cfg(feature = "recorder")]
use super::FlushError;
use super::{Reporter, delivery::Delivery, outbox::Recorded, stats::DropReason};
use crate::{metric::Sample, protocol::NonFiniteValue};

/// What is left to do after samples have been recorded.
#[must_use = "the task that sends is not woken otherwise"]
pub(crate) struct Aftermath {
    delivery: Arc<Delivery>,
    /// Those that say something new.
    recorded: Vec<Recorded>,
    not_finite: Vec<NonFiniteValue>,
    refused: Refused,
}

/// How many samples were dropped while these were recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The reporter was closed.
    pub(crate) closed: u64,
    /// The queue was full: these samples were dropped, or older ones.
    pub(crate) queue_full: u64,
}

/// How many samples are recorded at one go, which other threads wait for: some microseconds.
const SLICE_SAMPLES: usize = 256;

impl Reporter {
    /// Records samples in this order. Wakes no task and logs nothing.
    pub(crate) fn record_quietly(&self, samples: &[Sample]) -> Aftermath {
        let mut aftermath = Aftermath {
            delivery: Arc::clone(&self.shared().delivery),
            recorded: Vec::new(),
            not_finite: Vec::new(),
            refused: Refused::default(),
        };
        for slice in samples.chunks(SLICE_SAMPLES) {
            let mut outbox = self.shared().delivery.outbox();
            let full_before = outbox.stats().dropped.queue_full;
            for sample in slice {
                match NonFiniteValue::ensure_finite(&sample.key, sample.point.value) {
                    Ok(()) => aftermath.note(outbox.record(sample.clone())),
                    Err(error) => aftermath.not_finite.push(error),
                }
            }
            aftermath.refused.queue_full += outbox.stats().dropped.queue_full - full_before;
        }
        aftermath
    }

    /// As [`flush`](Self::flush), where samples were dropped right before.
    #[cfg(feature = "recorder")]
    pub(crate) async fn flush_after(
        &self,
        refused: Refused,
        limit: Duration,
    ) -> Result<(), FlushError> {
        let flushed = self.flush(limit).await;
        let dropped = refused.closed + refused.queue_full;
        let unsent = match flushed {
            Ok(()) if dropped == 0 => return Ok(()),
            Ok(()) => self.shared().delivery.nothing_unsent(),
            Err(unsent) => unsent,
        };
        Err(FlushError { dropped: unsent.dropped + dropped, ..unsent })
    }
}

#[cfg(feature = "recorder")]
impl Delivery {
    /// What is unsent of what waits for nothing.
    fn nothing_unsent(&self) -> FlushError {
        let (worker, unsent) = {
            let mut outbox = self.outbox();
            let (mark, worker) = outbox.begin_flush();
            (worker, FlushError { waiting: 0, ..outbox.unsent(&mark) })
        };
        if let Some(worker) = worker {
            worker.wake();
        }
        unsent
    }
}

impl Aftermath {
    /// Wakes the task that sends, and logs what is worth it. The caller holds no lock.
    pub(crate) fn run(self) -> Refused {
        for recorded in self.recorded {
            self.delivery.follow_up(recorded);
        }
        for error in self.not_finite {
            self.delivery.refuse(DropReason::NonFiniteValue, &error);
        }
        self.refused
    }

    fn note(&mut self, recorded: Recorded) {
        self.refused.closed += u64::from(recorded.dropped == Some(DropReason::Closed));
        let is_known = |reason| self.recorded.iter().any(|known| known.dropped == Some(reason));
        if recorded.worker.is_some() || recorded.dropped.is_some_and(|reason| !is_known(reason)) {
            self.recorded.push(recorded);
        }
    }
}
