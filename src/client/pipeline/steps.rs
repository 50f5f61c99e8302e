//! How many entries are visited or moved, for the tests that hold the cost of leaving.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts entries that are visited or moved; compiled to nothing outside of tests.
#[cfg(test)]
pub(super) fn count(entries: usize) {
    STEPS.set(STEPS.get() + entries);
}

#[cfg(not(test))]
#[inline]
pub(super) fn count(_: usize) {}

/// Returns how many entries `work` visits or moves.
#[cfg(test)]
pub(super) fn of(work: impl FnOnce()) -> usize {
    let before = STEPS.get();
    work();
    STEPS.get() - before
}
