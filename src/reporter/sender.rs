//! The task that sends.

use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::{
    Settings,
    flight::{BATCH, Landed},
    outbox::Wanted,
    own,
    poison::is_hangup,
    shared::Shared,
};
use crate::error::Error;

/// How long a sender lets the client be after a failure. While there is no connection, an attempt
/// takes as long as a request may, so this only matters where it fails at once.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Sender {
    pub(super) shared: Arc<Shared>,
    pub(super) gather: Duration,
    /// From how many samples on there is no need to let more gather.
    pub(super) enough: usize,
    /// How many samples are sent at once.
    pub(super) batch: usize,
    /// When the reporter's own counters are due.
    pub(super) own_due: Option<Instant>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, settings: &Settings) -> Self {
        Self {
            shared,
            gather: settings.gather,
            enough: (settings.limits.samples / 2).max(1),
            batch: BATCH,
            own_due: settings.own.as_ref().map(|_| Instant::now() + own::EVERY),
        }
    }

    pub(super) async fn run(mut self) {
        #[cfg(feature = "spool")]
        if let Some(keeper) = self.shared.spool.clone()
            && !self.run_with_spool(keeper).await
        {
            return;
        }
        while let Wanted::Send = self.wanted().await {
            if !self.send_all().await {
                return;
            }
            // Either way there is nothing to do but to look again.
            let _ = time::timeout(self.gather, self.gathered(self.enough)).await;
        }
    }

    /// What there is to do, once there is something; meanwhile, records the reporter's own counters.
    async fn wanted(&mut self) -> Wanted {
        loop {
            self.record_own();
            let wanted = self.gathered(1);
            match self.own_due {
                None => return wanted.await,
                Some(due) => {
                    if let Ok(wanted) = time::timeout_at(due, wanted).await {
                        return wanted;
                    }
                }
            }
        }
    }

    /// What there is to do, once so many samples wait or nothing more will come.
    async fn gathered(&self, samples: usize) -> Wanted {
        poll_fn(|cx| self.shared.outbox().poll_wanted(samples, cx.waker())).await
    }

    /// Sends until nothing waits. False if this was the end.
    async fn send_all(&mut self) -> bool {
        while let Some(landed) = self.shared.send(&self.shared.client, false, self.batch).await {
            self.batch = next_batch(self.batch, &landed);
            if let Landed::Broken(error) = landed {
                if is_closed(&error) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the reporter's client is closed: nothing more is sent"
                    );
                    return false;
                }
                if self.shared.outbox().gives_up(Instant::now()) {
                    let samples = self.shared.give_up();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        samples,
                        "dropped: the reporter is at its end"
                    );
                    return false;
                }
                time::sleep(PAUSE).await;
            }
            self.record_own();
        }
        true
    }

    pub(super) fn record_own(&mut self) {
        if let Some(due) = self.own_due
            && due <= Instant::now()
        {
            self.own_due = Some(Instant::now() + own::EVERY);
            self.shared.record_own();
        }
    }
}

/// However the task ends, by a panic or with its runtime: those who wait for it are told.
impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.outbox().abandon();
        self.shared.note_settled();
    }
}

/// How many samples are sent at once after this outcome. Where the server closes the connection, the
/// oldest is sent alone, to find out if it is due to that.
pub(super) fn next_batch(batch: usize, landed: &Landed) -> usize {
    match landed {
        Landed::Whole => (2 * batch).min(BATCH),
        Landed::Broken(error) if is_hangup(error) => 1,
        Landed::Broken(_) | Landed::CalledBack => batch,
    }
}

pub(super) fn is_closed(error: &Error) -> bool {
    match error {
        Error::Batch(batch) => is_closed(&batch.error),
        error => matches!(error, Error::Closed { .. } | Error::RuntimeGone { .. }),
    }
}
