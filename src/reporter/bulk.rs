//! Recording many samples at once, also under a lock of the caller.
//!
//! A sample that is recorded may wake the task that sends, and may be worth a log line. Neither may
//! happen under a lock: a waker and a tracing subscriber are foreign code. So this records first, and
//! leaves the rest to an [`Aftermath`], which the caller runs once it has released its locks.

#[cfg(feature = "recorder")]
use std::time::Duration;
use std::{borrow::Borrow, sync::Arc};

#[cfg(feature = "recorder")]
use super::FlushError;
use super::{
    Reporter,
    dispatcher::Dispatcher,
    outbox::RecordOutcome,
    stats::{DropReason, LossReason},
};
use crate::{metric::Sample, protocol::NonFiniteValue};

/// What is left to do after samples have been recorded.
#[must_use = "the task that sends is not woken otherwise"]
pub(crate) struct Aftermath {
    dispatcher: Arc<Dispatcher>,
    /// Those that say something new.
    recorded: Vec<RecordOutcome>,
    not_finite: Vec<NonFiniteValue>,
    refused: ReportDrops,
}

/// How many samples were dropped while these were recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportDrops {
    /// The reporter was closed.
    pub(crate) closed: u64,
    /// The queue was full: these samples were dropped, or older ones.
    pub(crate) queue_full: u64,
}

/// How many samples are recorded under one lock, which other threads wait for: some microseconds.
const CHUNK_SAMPLES: usize = 256;

impl Reporter {
    /// Records samples in this order, and takes the queue's lock once for every 256 of them. Each is recorded
    /// as by [`record`](Self::record).
    ///
    /// The iterator may use the reporter, and is not asked for a sample under its lock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use metrics_client::{MetricsClient, Reporter, Sample};
    /// # let client = MetricsClient::builder("127.0.0.1:1").connect_lazy()?;
    /// let reporter = Reporter::new(client);
    /// let cores = [0.5, 0.25, 0.75, 1.0];
    /// let samples = cores.iter().zip(0..).map(|(&load, core)| Sample::now(format!("cpu{core}"), load));
    /// reporter.record_all(samples.collect::<Result<Vec<_>, _>>()?);
    /// assert_eq!(reporter.stats().recorded, 4);
    /// # Ok(()) }
    /// ```
    pub fn record_all<I>(&self, samples: I)
    where
        I: IntoIterator,
        I::Item: Borrow<Sample>,
    {
        let mut samples = samples.into_iter().map(|sample| sample.borrow().clone());
        let mut chunk = Vec::new();
        loop {
            chunk.extend(samples.by_ref().take(CHUNK_SAMPLES));
            if chunk.is_empty() {
                return;
            }
            let mut aftermath = Aftermath::new(self);
            aftermath.record(chunk.drain(..));
            aftermath.run();
        }
    }

    /// Records samples in this order. Wakes no task and logs nothing.
    #[cfg(any(feature = "recorder", feature = "opentelemetry"))]
    pub(crate) fn record_quietly(&self, samples: &[Sample]) -> Aftermath {
        let mut aftermath = Aftermath::new(self);
        for chunk in samples.chunks(CHUNK_SAMPLES) {
            aftermath.record(chunk.iter().cloned());
        }
        aftermath
    }

    /// As [`flush`](Self::flush), where samples were dropped right before.
    #[cfg(feature = "recorder")]
    pub(crate) async fn flush_after(
        &self,
        refused: ReportDrops,
        limit: Duration,
    ) -> Result<(), FlushError> {
        let flushed = self.flush(limit).await;
        let dropped = refused.closed + refused.queue_full;
        let unsent = match flushed {
            Ok(()) if dropped == 0 => return Ok(()),
            Ok(()) => self.shared().dispatcher.nothing_unsent(),
            Err(unsent) => unsent,
        };
        Err(FlushError { dropped: unsent.dropped + dropped, ..unsent })
    }
}

#[cfg(feature = "recorder")]
impl Dispatcher {
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
    fn new(reporter: &Reporter) -> Self {
        Self {
            dispatcher: Arc::clone(&reporter.shared().dispatcher),
            recorded: Vec::new(),
            not_finite: Vec::new(),
            refused: ReportDrops::default(),
        }
    }

    /// Records samples under one lock. They are few, and their iterator is no foreign code.
    fn record(&mut self, samples: impl Iterator<Item = Sample>) {
        let dispatcher = Arc::clone(&self.dispatcher);
        let mut outbox = dispatcher.outbox();
        let full_before = outbox.stats().dropped.queue_full;
        for sample in samples {
            match NonFiniteValue::ensure_finite(&sample.key, sample.point.value) {
                Ok(()) => self.note(outbox.record(sample)),
                Err(error) => self.not_finite.push(error),
            }
        }
        self.refused.queue_full += outbox.stats().dropped.queue_full - full_before;
    }

    /// Wakes the task that sends, and logs what is worth it. The caller holds no lock.
    pub(crate) fn run(self) -> ReportDrops {
        for recorded in self.recorded {
            self.dispatcher.follow_up(recorded);
        }
        for error in self.not_finite {
            self.dispatcher.refuse(DropReason::NonFiniteValue, &error);
        }
        self.refused
    }

    fn note(&mut self, recorded: RecordOutcome) {
        self.refused.closed += u64::from(recorded.dropped == Some(LossReason::Closed));
        let is_known = |reason| self.recorded.iter().any(|known| known.dropped == Some(reason));
        if recorded.worker.is_some() || recorded.dropped.is_some_and(|reason| !is_known(reason)) {
            self.recorded.push(recorded);
        }
    }
}
