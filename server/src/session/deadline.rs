//! Deadlines that are fair to the peers of a process that stood still.
//!
//! A process can be stopped for longer than any limit: SIGSTOP, `docker pause`, a suspended machine.
//! When it goes on, Tokio runs timers before it has asked the kernel which sockets are ready: the wait
//! for both ends with `EINTR`. What peers did in time is in the kernel then and has not been seen.
//! So when a deadline has passed, the runtime gets the chance to look at its sockets once more.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, error::Elapsed, timeout};

/// Awaits `future` for `time`, and once more after that: for [`SECOND_LOOK`], or for as long again
/// if the end of the time was seen [`LATE`].
///
/// A future that is ready at once costs no timer.
pub(super) async fn within<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        return Ok(output);
    }
    // In a box, so that a session, which has several of these, need not keep room for it.
    Box::pin(wait(time, future)).await
}

async fn wait<F: Future>(time: Duration, mut future: Pin<&mut F>) -> Result<F::Output, Elapsed> {
    let begin = Instant::now();
    if let Ok(output) = timeout(time, &mut future).await {
        return Ok(output);
    }
    let is_late = begin.elapsed().saturating_sub(time) >= LATE;
    timeout(if is_late { time } else { SECOND_LOOK }, future).await
}

/// How long the runtime has to look at its sockets once a deadline has passed. A timer that fires does
/// so behind such a look, unless the wait before it was interrupted too; the time is some ticks of
/// Tokio's clock, of one millisecond each.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(10);

/// A deadline that is seen so much later than it passed was slept through. A busy server is not as
/// late as this.
pub(super) const LATE: Duration = Duration::from_secs(1);
