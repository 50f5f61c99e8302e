//! Write coalescing: how long the driver lets requests gather before it writes them.

/// Decides when requests are flushed that callers send after they have been woken together.
///
/// A caller that has just got a response is likely to send its next request at once. So the driver does not write
/// right after it has woken several callers: it yields until the runtime has run what was ready, and again as long as
/// each yield brings more of the expected callers. The requests that have gathered leave with one write instead of
/// many, and the server answers them with one.
///
/// This costs a request a few turns of the runtime's queue, and no timer. A caller that is alone on the connection
/// never waits.
#[derive(Debug, Default)]
pub(super) struct WriteCoalescer {
    /// How many callers have been woken and, as far as is known, have not sent again.
    expected: usize,
    /// How many requests were queued at the last decision.
    queued: usize,
    /// How often the driver has yielded.
    yields: usize,
    /// How many of these yields, at the end, brought nothing.
    empty_yields: usize,
}

/// When to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Now,
    /// After the tasks that are ready on this worker.
    AfterYield,
    /// After the tasks that are ready on this worker, and those that it finds elsewhere.
    WhenIdle,
}

/// The number of callers from which it is worth waiting for their next requests. Two, so that the round trip of one
/// caller stays what it is; measured with 8 to 1,024 callers by the comparison bench.
const MIN_CALLERS: usize = 2;

/// How many yields may bring nothing: the callers may be on another worker that was held up.
const MAX_EMPTY_YIELDS: usize = 1;

impl WriteCoalescer {
    pub(super) fn on_woken(&mut self, callers: usize) {
        self.expected += callers;
    }

    /// Decides when to flush. `queued` returns how many requests are queued now, and is called only if that
    /// matters.
    pub(super) fn decide(&mut self, queued: impl FnOnce() -> usize) -> Flush {
        if self.expected < MIN_CALLERS {
            *self = Self::default();
            return Flush::Now;
        }
        let queued = queued();
        self.empty_yields = if queued > self.queued { 0 } else { self.empty_yields + 1 };
        if queued < self.expected && self.empty_yields <= MAX_EMPTY_YIELDS {
            self.queued = queued;
            self.yields += 1;
            return if self.yields == 1 { Flush::AfterYield } else { Flush::WhenIdle };
        }
        // Callers that have not sent by now may still do so. Half of them are expected, and not more than those
        // that have sent: callers that never send again are soon forgotten.
        let expected = self.expected.saturating_sub(queued).min(queued) / 2;
        *self = Self { expected, ..Self::default() };
        Flush::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(callers: usize) -> WriteCoalescer {
        let mut coalescer = WriteCoalescer::default();
        coalescer.on_woken(callers);
        coalescer
    }

    #[test]
    fn one_caller_is_flushed_at_once() {
        let mut coalescer = WriteCoalescer::default();
        for _ in 0..3 {
            coalescer.on_woken(1);
            assert_eq!(coalescer.decide(|| 0), Flush::Now);
            assert_eq!(coalescer.decide(|| 1), Flush::Now);
        }
    }

    #[test]
    fn waits_until_all_expected_callers_have_come() {
        let mut coalescer = woken(9);
        assert_eq!(coalescer.decide(|| 0), Flush::AfterYield);
        assert_eq!(coalescer.decide(|| 5), Flush::WhenIdle);
        assert_eq!(coalescer.decide(|| 8), Flush::WhenIdle);
        assert_eq!(coalescer.decide(|| 9), Flush::Now);
        assert_eq!(coalescer.decide(|| 1), Flush::Now);
    }

    #[test]
    fn stops_waiting_when_a_yield_brings_nothing() {
        let mut coalescer = woken(9);
        assert_eq!(coalescer.decide(|| 0), Flush::AfterYield);
        assert_eq!(coalescer.decide(|| 0), Flush::Now);
        assert_eq!(coalescer.decide(|| 0), Flush::Now);
        coalescer.on_woken(9);
        assert_eq!(coalescer.decide(|| 0), Flush::AfterYield);
        assert_eq!(coalescer.decide(|| 3), Flush::WhenIdle);
        assert_eq!(coalescer.decide(|| 3), Flush::WhenIdle);
        assert_eq!(coalescer.decide(|| 3), Flush::Now);
    }

    #[test]
    fn waits_while_each_yield_brings_callers() {
        let mut coalescer = woken(9);
        for waiting in [0, 5, 5] {
            assert_ne!(coalescer.decide(|| waiting), Flush::Now);
        }
        assert_eq!(coalescer.decide(|| 5), Flush::Now);
        assert_eq!(coalescer.decide(|| 1), Flush::AfterYield);
        assert_eq!(coalescer.decide(|| 2), Flush::Now);
        assert_eq!(coalescer.decide(|| 2), Flush::Now);
    }

    #[test]
    fn absent_callers_are_soon_forgotten() {
        let mut coalescer = woken(1000);
        let mut yields = 0;
        for _ in 0..20 {
            yields = 0;
            // Two of the thousand send again.
            while coalescer.decide(|| 2) != Flush::Now {
                yields += 1;
            }
            coalescer.on_woken(2);
        }
        assert_eq!(yields, 0);
    }
}
