//! The task that sends, where there is a spool: what waits too long in memory goes to the folder, and
//! what lies there is sent behind what comes.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{self, Instant},
};

use super::{
    error::SpoolError,
    keeper::{self, Keeper},
    pace::Pace,
};
use crate::{
    log_limit::Lasting,
    log_state::LogState,
    reporter::{
        after,
        flight::{BATCH, Landed, outcome},
        outbox::Moving,
        sender::{PAUSE, Sender, is_closed},
        shared::Shared,
    },
};

/// How long a disk that has refused something is left alone.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// What is on its way gets this long to land, however many samples wait.
const GRACE: Duration = Duration::from_millis(100);
/// The least that is sent at once to a server that is slow.
const LEAST_BATCH: usize = 16;

pub(in crate::reporter) struct Takeover {
    keeper: Arc<Keeper>,
    /// How many samples are sent at once.
    batch: usize,
    pace: Pace,
    /// What was recorded before this position had been recorded at this time.
    aged: (u64, Instant),
    /// When the disk may be asked again to take something. One that is full still gives.
    write_due: Instant,
    /// When it may be asked again for something.
    read_due: Instant,
    /// Whether it refuses to take, and to give.
    write_failing: LogState,
    read_failing: LogState,
}

/// Whether the sender goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing was sent.
    Idle,
    /// Something was.
    Go,
    /// The server did not take what it was sent.
    Pause,
    End,
}

impl Takeover {
    pub(in crate::reporter) fn new(keeper: Arc<Keeper>) -> Self {
        let now = Instant::now();
        let pace = Pace::new(keeper.settings.replay_rate, now);
        Self {
            keeper,
            batch: BATCH,
            pace,
            aged: (0, now),
            write_due: now,
            read_due: now,
            write_failing: LogState::default(),
            read_failing: LogState::default(),
        }
    }

    /// Whether samples have waited for as long as they may.
    fn is_late(&mut self, shared: &Shared, now: Instant) -> bool {
        let outbox = shared.outbox();
        if outbox.waiting_before(self.aged.0) == 0 {
            self.aged = (outbox.end(), now);
        }
        now.saturating_duration_since(self.aged.1) >= self.keeper.settings.after
    }
}

impl Sender {
    /// Sends until the end, or until the spool is not ours any more. False if it was the end.
    pub(in crate::reporter) async fn run_with_spool(&mut self, keeper: Arc<Keeper>) -> bool {
        let syncing = Arc::downgrade(&keeper);
        if let Some(every) = keeper.settings.sync_every_or_never() {
            tokio::spawn(async move {
                loop {
                    time::sleep(every).await;
                    let Some(keeper) = syncing.upgrade() else { return };
                    let _ = spawn_blocking(move || keeper.sync()).await;
                }
            });
        }
        let mut spool = Takeover::new(keeper);
        loop {
            self.record_own();
            if self.shared.outbox().is_closed() {
                return false;
            }
            if spool.keeper.is_abandoned() {
                return true;
            }
            self.relieve(&mut spool).await;
            let live = self.send_live(&mut spool).await;
            let next = match live {
                Next::Idle | Next::Go => self.replay(&mut spool).await,
                next => next,
            };
            match next {
                Next::Idle | Next::Go => {}
                Next::Pause => time::sleep(PAUSE).await,
                Next::End => return false,
            }
            if !self.wait(&spool, live).await {
                return false;
            }
        }
    }

    /// Moves what waits to the folder, if it has waited too long or is too much.
    async fn relieve(&mut self, spool: &mut Takeover) {
        let now = Instant::now();
        let is_needed = spool.is_late(&self.shared, now) || self.is_pressed();
        if is_needed && self.store(spool, Moving::All).await {
            spool.aged = (self.shared.outbox().end(), Instant::now());
        }
    }

    fn is_pressed(&self) -> bool {
        self.shared.outbox().queued() >= self.enough
    }

    async fn store(&self, spool: &mut Takeover, moving: Moving) -> bool {
        if Instant::now() < spool.write_due {
            return false;
        }
        let (shared, keeper) = (Arc::clone(&self.shared), Arc::clone(&spool.keeper));
        let stored = spawn_blocking(move || keeper.store(&shared, moving, false)).await;
        let stored = stored.unwrap_or(Ok(()));
        self.shared.note_room();
        disk_answered(&mut spool.write_due, &spool.write_failing, stored).is_some()
    }

    /// Sends one batch of what waits in memory, if something does.
    async fn send_live(&mut self, spool: &mut Takeover) -> Next {
        if self.shared.outbox().has_blocked(keeper::BATCH) {
            self.store(spool, Moving::Blocked).await;
        }
        let shared = Arc::clone(&self.shared);
        let mut flight = pin!(shared.send(&shared.client, false, spool.batch));
        let landed = match before(flight.as_mut(), self.needed(spool)).await {
            Some(landed) => landed,
            // What is on its way is the oldest, and has to be moved first.
            None => {
                shared.call_back();
                flight.await
            }
        };
        match landed {
            None => Next::Idle,
            Some(Landed::Whole) => {
                spool.batch = (2 * spool.batch).min(BATCH);
                Next::Go
            }
            Some(Landed::CalledBack) => {
                spool.batch = (spool.batch / 2).max(LEAST_BATCH);
                spool.pace.failed(PAUSE, Instant::now());
                Next::Go
            }
            Some(Landed::Broken(error)) => {
                spool.pace.failed(PAUSE, Instant::now());
                if is_closed(&error) || self.shared.outbox().gives_up(Instant::now()) {
                    self.end(spool).await;
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "the reporter is at its end: what waits lies in its spool"
                    );
                    return Next::End;
                }
                Next::Pause
            }
        }
    }

    /// Sends some of what lies in the folder, if it is their turn.
    async fn replay(&mut self, spool: &mut Takeover) -> Next {
        let now = Instant::now();
        let is_due = spool.pace.due() <= now && spool.read_due <= now;
        if !is_due || !self.shared.outbox().may_replay() || self.is_pressed() {
            return Next::Idle;
        }
        let (shared, keeper) = (Arc::clone(&self.shared), Arc::clone(&spool.keeper));
        let most = spool.pace.batch();
        let read = spawn_blocking(move || keeper.read(&shared, most)).await;
        let read =
            disk_answered(&mut spool.read_due, &spool.read_failing, read.unwrap_or(Ok(None)));
        let Some(samples) = read.flatten() else { return Next::Idle };
        let sent = Instant::now();
        let client = self.shared.client.clone();
        let mut put = pin!(client.put_all(samples.as_slice()));
        let result = loop {
            match before(put.as_mut(), self.needed(spool)).await {
                Some(result) => break result,
                None => self.relieve(spool).await,
            }
        };
        let (settled, rejected) = outcome(&result, samples.len());
        let now = Instant::now();
        if settled == samples.len() {
            spool.pace.answered(settled, sent, now);
        } else {
            spool.pace.failed(PAUSE, now);
        }
        let (shared, keeper) = (Arc::clone(&self.shared), Arc::clone(&spool.keeper));
        let _ = spawn_blocking(move || keeper.settle(&shared, settled, rejected)).await;
        if let Err(error) = result
            && settled < samples.len()
        {
            if self.shared.outbox().gives_up(now) || is_closed(&error) {
                self.end(spool).await;
                return Next::End;
            }
            self.shared.log.unsent(&error);
            return Next::Pause;
        }
        self.shared.log.sent();
        Next::Go
    }

    /// Waits until samples have to be moved to the folder.
    async fn needed(&self, spool: &mut Takeover) {
        let after = spool.keeper.settings.after;
        loop {
            time::sleep(after.min(GRACE)).await;
            let pressed = poll_fn(|cx| self.shared.outbox().poll_pressed(self.enough, cx.waker()));
            let _ = time::timeout(after, pressed).await;
            let now = Instant::now();
            if spool.write_due <= now && (self.is_pressed() || spool.is_late(&self.shared, now)) {
                return;
            }
        }
    }

    /// Waits until there is something to do. False if there never will be.
    async fn wait(&mut self, spool: &Takeover, live: Next) -> bool {
        let now = Instant::now();
        let (may_replay, is_over, is_stuck) = {
            let outbox = self.shared.outbox();
            let may_replay = outbox.may_replay();
            let has_time = outbox.closing_until().is_some_and(|until| now < until);
            let is_over = !outbox.is_open() && outbox.queued() == 0 && !(may_replay && has_time);
            // Somebody else sends, or the disk does not take what has to go through the spool.
            let is_stuck = outbox.is_held() || outbox.has_blocked(1);
            (may_replay, is_over && !outbox.is_held(), is_stuck)
        };
        if is_over {
            self.end(spool).await;
            return false;
        }
        let mut due = now + DISK_PAUSE;
        if may_replay {
            due = due.min(spool.pace.due().max(spool.read_due));
        }
        if let Some(own) = self.own_due {
            due = due.min(own);
        }
        if live == Next::Idle && is_stuck {
            time::sleep_until(due.min(now + PAUSE)).await;
            return true;
        }
        let enough = if live == Next::Go { self.enough } else { 1 };
        if live == Next::Go {
            due = due.min(after(self.gather));
        }
        let gathered = poll_fn(|cx| self.shared.outbox().poll_gathered(enough, cx.waker()));
        let _ = time::timeout_at(due, gathered).await;
        true
    }

    /// Moves what waits to the folder, and takes no more.
    async fn end(&self, spool: &Takeover) {
        let (shared, keeper) = (Arc::clone(&self.shared), Arc::clone(&spool.keeper));
        let _ = spawn_blocking(move || keeper.close(&shared)).await;
        self.shared.give_up();
    }
}

/// What the disk has given; if it has refused, it is left alone for a while.
fn disk_answered<T>(
    due: &mut Instant,
    failing: &LogState,
    result: Result<T, SpoolError>,
) -> Option<T> {
    match result {
        Ok(given) => {
            if let Some(Lasting { since, times }) = failing.is_over() {
                tracing::info!(lasted = ?since, times, "the spool works again");
            }
            Some(given)
        }
        Err(error) => {
            *due = Instant::now() + DISK_PAUSE;
            // One that is not ours any more has said so, and is not tried again.
            if !matches!(error, SpoolError::NotOwned { .. })
                && let Some(Lasting { since, times }) = failing.holds()
            {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    ?since,
                    times,
                    "the spool failed and is tried again after a pause"
                );
            }
            None
        }
    }
}

/// What the first comes to, if it does before the other.
async fn before<T>(mut first: Pin<&mut impl Future<Output = T>>, other: impl Future) -> Option<T> {
    let mut other = pin!(other);
    poll_fn(|cx| match first.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => other.as_mut().poll(cx).map(|_| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io};

    use tokio::io::DuplexStream;

    use super::*;
    use crate::{Connector, MetricsClient, Reporter, Spool};

    const SECOND: Duration = Duration::from_secs(1);

    /// Nobody is ever reached.
    struct Nowhere;

    impl Connector for Nowhere {
        type Io = DuplexStream;

        async fn connect(&self, _: &str) -> io::Result<DuplexStream> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_appended_is_synced_at_the_next_turn_however_new_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let client = MetricsClient::builder("peer").connector(Nowhere).connect_lazy().unwrap();
        let spool = Spool::folder(folder.path()).sync_every(3600 * SECOND);
        let reporter = Reporter::builder(client).spool(spool).unwrap().start();
        let keeper = Arc::clone(reporter.shared().spool.as_ref().unwrap());
        reporter.record_at("a", 1.0, 1);
        time::sleep(600 * SECOND).await;
        assert_eq!((reporter.stats().spooled, keeper.is_synced()), (1, false));
        // By the clock that the folder goes by, no time has passed.
        time::sleep(3600 * SECOND).await;
        assert!(keeper.is_synced());
    }
}
