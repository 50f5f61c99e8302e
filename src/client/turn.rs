//! Waiting for the runtime's IO driver.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{task::yield_now, time};

/// Waits until the runtime's IO driver has asked the system for events.
///
/// Without this a socket that has input may claim to have none: Tokio asks the system between the polls of tasks, and
/// answers from memory until then. So the first task that runs after the process was suspended does not see what came
/// in that time.
#[derive(Debug, Default)]
pub(super) struct IoTurn {
    asked: Option<Arc<Signal>>,
    /// Whether the IO driver had run before the last [`observe`](Self::observe).
    over: bool,
}

#[derive(Debug)]
struct Signal {
    given: AtomicBool,
    task: Waker,
}

impl IoTurn {
    /// Must be called before the connection is read: only a run of the IO driver before that counts.
    pub(super) fn observe(&mut self) {
        self.over = self.asked.as_ref().is_some_and(|turn| turn.given.load(Ordering::Acquire));
        if self.over {
            self.asked = None;
        }
    }

    /// Ready if the IO driver has run since this was last pending, and before the connection was read. Otherwise
    /// wakes the task after the next run.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.over) {
            return Poll::Ready(());
        }
        if self.asked.is_none() {
            let turn = Arc::new(Signal { given: AtomicBool::new(false), task: cx.waker().clone() });
            let waker = Waker::from(Arc::clone(&turn));
            self.asked = Some(turn);
            // Polled once, it has registered the waker with the runtime, which wakes it after the IO driver has
            // run. The task itself may be woken sooner, by anything.
            let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
        }
        Poll::Pending
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.given.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Returns the output of the future, or `None` if that takes longer than `limit`.
///
/// Unlike with [`time::timeout`], a timer that is late, because the process or its runtime was suspended, does not
/// decide: what has come by then is read first, and other tasks that the future waits for are run.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Ok(output) = time::timeout(limit, &mut future).await {
        return Some(output);
    }
    yield_now().await;
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
