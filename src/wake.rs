//! Waking tasks whose wakers may panic.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

use crate::log_limit::LogLimiter;

/// Wakes tasks. The caller must hold no lock, since a task may run at once and take it.
///
/// A waker is its executor's code and may panic. That concerns one caller, so the others are woken all the
/// same, and the panic is caught here. The panic hook has reported it by then.
#[inline]
pub(crate) fn wake_all(wakers: &mut Vec<Waker>) {
    if !wakers.is_empty() {
        wake_each(wakers.drain(..));
    }
}

/// Wakes tasks, even if the waker of one of them panics. The caller must hold no lock.
pub fn wake_each(wakers: impl IntoIterator<Item = Waker>) {
    let mut wakers = wakers.into_iter();
    // Continues after the waker that has panicked, which the iterator has yielded by then.
    while !survives(|| wakers.by_ref().for_each(Waker::wake)) {}
}

/// Runs `wake`, and returns true unless it panicked.
pub(crate) fn survives(wake: impl FnOnce()) -> bool {
    static LOG: LogLimiter = LogLimiter::new();

    let Err(panic) = catch_unwind(AssertUnwindSafe(wake)) else {
        return true;
    };
    // Dropping it could panic again.
    std::mem::forget(panic);
    if LOG.should_log() {
        tracing::error!(suppressed = LOG.take_suppressed(), "a waker panicked");
    }
    false
}

#[cfg(test)]
mod tests {
    use futures_test::task::{new_count_waker, panic_waker};

    use super::*;

    // FAULTS C4
    #[test]
    fn wake_continues_after_a_waker_panics() {
        let (good, count) = new_count_waker();
        let (good, bad) = (|| good.clone(), panic_waker);
        let mut wakers = vec![bad(), good(), bad(), bad(), good(), bad()];
        wake_all(&mut wakers);
        assert!(wakers.is_empty());
        assert_eq!(count, 2);
    }
}
