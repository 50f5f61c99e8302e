//! What became of each sample of a batch, one by one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pipeline::Progress;

/// The outcome of each sample of a `put_all`, in the order of the samples. It is known also where the
/// future was dropped before it was ready: what was answered by then is not open.
#[derive(Debug)]
pub(crate) struct Outcomes(Mutex<Box<[SampleOutcome]>>);

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "reporter"), expect(dead_code, reason = "a reporter alone asks"))]
pub(crate) enum SampleOutcome {
    /// It was not answered.
    Open,
    Acknowledged,
    Rejected,
    /// The server closes the connection at it.
    ClosedOn,
}

impl Outcomes {
    /// Creates the outcomes of `samples` samples, all of them open.
    #[cfg(feature = "reporter")]
    pub(crate) fn new(samples: usize) -> Self {
        Self(Mutex::new(vec![SampleOutcome::Open; samples].into()))
    }

    /// Returns the outcomes that are known by now.
    #[cfg(feature = "reporter")]
    pub(crate) fn get(&self) -> Box<[SampleOutcome]> {
        self.lock().clone()
    }

    /// Notes how far the samples of these places have come; without places, all samples.
    pub(super) fn note(&self, progress: &Progress, places: Option<&[usize]>) {
        let Progress { acknowledged, rejected, closed_on, interrupted, .. } = progress;
        let answered = acknowledged + rejected.len() + closed_on.len();
        // Answers come in order, so all before the first that failed for another reason have theirs.
        let settled = interrupted.map_or(answered, |(place, _)| place);
        let mut outcomes = self.lock();
        let mut set = |place: usize, outcome| {
            let place = places.map_or(Some(place), |places| places.get(place).copied());
            if let Some(known) = place.and_then(|place| outcomes.get_mut(place)) {
                *known = outcome;
            }
        };
        (0..settled).for_each(|place| set(place, SampleOutcome::Acknowledged));
        let failed = [(rejected, SampleOutcome::Rejected), (closed_on, SampleOutcome::ClosedOn)];
        for (failed, outcome) in failed {
            let failed = failed.iter().filter(|&&place| place < settled);
            failed.for_each(|&place| set(place, outcome));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Box<[SampleOutcome]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
