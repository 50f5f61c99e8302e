//! Deadlines that are fair to peers after the process was suspended.
//!
//! A process can be suspended for longer than any timeout: SIGSTOP, `docker pause`, a suspended machine.
//! When it resumes, Tokio runs timers before it has asked the kernel which sockets are ready, because the
//! wait for both returns `EINTR`. Input that arrived in time is still in the kernel then. So after a
//! deadline has passed, the runtime gets a short time to poll its sockets once more.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, error::Elapsed, timeout};

/// Awaits `future` for `time`, and then for [`SECOND_LOOK`], or for `time` again if the deadline was
/// noticed more than [`LATE`] after it.
///
/// A future that is ready at once costs no timer.
pub(super) async fn within<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        return Ok(output);
    }
    // Boxed, so that a session, which has several of these, does not reserve space for each.
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

/// How long the runtime may poll its sockets after a deadline: some ticks of Tokio's clock, of one
/// millisecond each. A timer fires after such a poll, unless the wait before it was interrupted too.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(10);

/// A deadline that is noticed so much too late passed while the process was suspended. A busy server is
/// never as late as this.
pub(super) const LATE: Duration = Duration::from_secs(1);
