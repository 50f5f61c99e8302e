//! Write coalescing: when to write the requests of several callers at once.

/// Lets requests gather after callers have been roused, and says when they leave.
///
/// Who has just got an answer is likely to ask again at once. So the driver does not write right
/// after it has roused several callers: it takes its turn again once the runtime has run what was
/// ready, and goes on like this while each turn brings more of those that are expected. What gathers
/// leaves with one write instead of many, and the server answers it with one instead of many.
///
/// This costs what waits a few turns of the runtime's queue, and no timer. A caller who is alone with
/// the connection never meets it.
#[derive(Debug, Default)]
pub(super) struct WriteCoalescer {
    /// How many callers have been roused and, as far as can be told, have not asked again.
    expected: usize,
    /// How many requests waited at the last look.
    waiting: usize,
    /// How many turns have been waited.
    turns: usize,
    /// How many of these, at the end, brought nothing.
    empty_yields: usize,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Now,
    /// After what is ready on this worker.
    NextTurn,
    /// After what is ready on this worker, and what it finds elsewhere.
    WhenIdle,
}

/// From how many callers on it is worth to wait for what they will ask next. Two, so that one
/// caller's round trip stays what it is; measured with 8 to 1,024 callers by `benches/compare.rs`.
const MIN_CALLERS: usize = 2;

/// How many turns may bring nothing: another worker may hold the callers, and have been held up.
const MAX_EMPTY_YIELDS: usize = 1;

impl WriteCoalescer {
    pub(super) fn on_woken(&mut self, callers: usize) {
        self.expected += callers;
    }

    /// Says what to do, given how many requests wait now if that matters.
    pub(super) fn look(&mut self, waiting: impl FnOnce() -> usize) -> Leave {
        if self.expected < MIN_CALLERS {
            *self = Self::default();
            return Leave::Now;
        }
        let waiting = waiting();
        self.empty_yields = if waiting > self.waiting { 0 } else { self.empty_yields + 1 };
        if waiting < self.expected && self.empty_yields <= MAX_EMPTY_YIELDS {
            self.waiting = waiting;
            self.turns += 1;
            return if self.turns == 1 { Leave::NextTurn } else { Leave::WhenIdle };
        }
        // Who has not come by now may be on their way. Half of them, and not more than those who have
        // come: callers who never ask again are soon forgotten.
        let expected = self.expected.saturating_sub(waiting).min(waiting) / 2;
        *self = Self { expected, ..Self::default() };
        Leave::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roused(callers: usize) -> WriteCoalescer {
        let mut write_coalescing = WriteCoalescer::default();
        write_coalescing.on_woken(callers);
        write_coalescing
    }

    #[test]
    fn one_caller_is_never_waited_for() {
        let mut write_coalescing = WriteCoalescer::default();
        for _ in 0..3 {
            write_coalescing.on_woken(1);
            assert_eq!(write_coalescing.look(|| 0), Leave::Now);
            assert_eq!(write_coalescing.look(|| 1), Leave::Now);
        }
    }

    #[test]
    fn it_waits_until_all_have_come() {
        let mut write_coalescing = roused(9);
        assert_eq!(write_coalescing.look(|| 0), Leave::NextTurn);
        assert_eq!(write_coalescing.look(|| 5), Leave::WhenIdle);
        assert_eq!(write_coalescing.look(|| 8), Leave::WhenIdle);
        assert_eq!(write_coalescing.look(|| 9), Leave::Now);
        assert_eq!(write_coalescing.look(|| 1), Leave::Now);
    }

    #[test]
    fn it_does_not_wait_for_those_who_do_not_come() {
        let mut write_coalescing = roused(9);
        assert_eq!(write_coalescing.look(|| 0), Leave::NextTurn);
        assert_eq!(write_coalescing.look(|| 0), Leave::Now);
        assert_eq!(write_coalescing.look(|| 0), Leave::Now);
        write_coalescing.on_woken(9);
        assert_eq!(write_coalescing.look(|| 0), Leave::NextTurn);
        assert_eq!(write_coalescing.look(|| 3), Leave::WhenIdle);
        assert_eq!(write_coalescing.look(|| 3), Leave::WhenIdle);
        assert_eq!(write_coalescing.look(|| 3), Leave::Now);
    }

    #[test]
    fn those_who_come_late_are_waited_for_as_long_as_others_come() {
        let mut write_coalescing = roused(9);
        for waiting in [0, 5, 5] {
            assert_ne!(write_coalescing.look(|| waiting), Leave::Now);
        }
        assert_eq!(write_coalescing.look(|| 5), Leave::Now);
        assert_eq!(write_coalescing.look(|| 1), Leave::NextTurn);
        assert_eq!(write_coalescing.look(|| 2), Leave::Now);
        assert_eq!(write_coalescing.look(|| 2), Leave::Now);
    }

    #[test]
    fn callers_who_never_ask_again_are_soon_forgotten() {
        let mut write_coalescing = roused(1000);
        let mut turns = 0;
        for _ in 0..20 {
            turns = 0;
            // Two of the thousand go on.
            while write_coalescing.look(|| 2) != Leave::Now {
                turns += 1;
            }
            write_coalescing.on_woken(2);
        }
        assert_eq!(turns, 0);
    }
}
