//! The samples of a batch that has ended, by their outcomes.

use super::outbox::Settled;
use crate::{client::SampleOutcome, metric::Sample};

#[derive(Debug, Default)]
pub(super) struct Settlement {
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
    /// The server closes the connection at these.
    pub(super) poison: Vec<Sample>,
    /// These have no outcome.
    pub(super) open: Vec<Sample>,
    /// These have had as many attempts as they may.
    pub(super) exhausted: Vec<Sample>,
    /// Kept until no lock is held: to drop thousands of keys takes a while.
    _done: Vec<Sample>,
}

impl Settlement {
    /// Sorts samples by their outcomes; samples beyond the outcomes are left out.
    pub(super) fn new(batch: Vec<Sample>, outcomes: &[SampleOutcome]) -> Self {
        let mut sorted = Self { _done: Vec::with_capacity(batch.len()), ..Self::default() };
        let mut samples = batch.into_iter();
        for (outcome, sample) in outcomes.iter().zip(samples.by_ref()) {
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
        sorted._done.extend(samples);
        sorted
    }

    pub(super) fn counts(&self) -> Settled {
        Settled {
            acknowledged: self.acknowledged,
            rejected: self.rejected,
            poison: self.poison.len() as u64,
            exhausted: self.exhausted.len() as u64,
        }
    }
}
