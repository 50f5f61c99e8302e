//! The task of a relay: takes points from the queue, stores them in the spool if they wait too long or are too
//! many, and sends them in order.
//!
//! There is one order for all points of a relay, and one request in flight, which is repeated until it succeeds: so
//! an older value never replaces a newer one of the same second. The oldest points are the head; behind it come those of
//! the spool; behind these come those in memory.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use metrics_client::codec::KeyRef;
use metrics_wal::FileSystem;
use tokio::time::{Instant, sleep_until};

use super::{
    backoff::Backoff,
    chunk::{MAX_CHUNK_BYTES, MAX_CHUNK_POINTS, RelayBatch, RelayBatches},
    events::RelayLog,
    queue::{Millis, Queue},
    rules::{Rules, Ruling},
    sink::{Sent, Sink},
    spool::{SpoolHandle, SpoolReport},
    stats::RelayStats,
};

mod disk;

/// How a worker works.
#[derive(Clone, Debug)]
pub(super) struct WorkerSettings {
    pub(super) rules: Rules,
    /// How long points may wait in memory.
    pub(super) spill_after: Duration,
    /// At how many bytes the points in memory are stored in the spool.
    pub(super) spill_bytes: usize,
}

pub(super) struct Worker<K, F: FileSystem> {
    settings: WorkerSettings,
    queue: Arc<Queue>,
    log: RelayLog,
    /// `None` while it is sending.
    sink: Option<K>,
    sending: Option<Sending<K>>,
    /// The oldest points, which are sent or will be next.
    head: Option<HeadBatch>,
    /// The points in memory behind those of the spool.
    pending: RelayBatches,
    /// `None` once it belongs to another process.
    spool: Option<SpoolHandle<F>>,
    is_spool_empty: bool,
    /// What the spool has to be told: the points before this number are done with.
    commit: Option<u64>,
    /// When the head may be sent, and the disk used, again.
    retry_at: Instant,
    disk_retry_at: Instant,
    backoff: Backoff,
    has_failed: bool,
}

/// A request in flight, which returns the sink.
type Sending<K> = Pin<Box<dyn Future<Output = (K, Sent)> + Send>>;

/// The oldest points.
struct HeadBatch {
    chunk: Arc<RelayBatch>,
    /// Where they are on disk: the number of the first that the spool still counts, and the one behind the last.
    stored: Option<(u64, u64)>,
}

/// Points of puts that come one by one are collected for this long.
const LINGER: Duration = Duration::from_millis(50);

impl<K: Sink, F> Worker<K, F>
where
    F: FileSystem + Send + 'static,
    F::File: Send,
{
    pub(super) fn new(
        settings: WorkerSettings,
        queue: Arc<Queue>,
        log: RelayLog,
        sink: K,
        spool: SpoolHandle<F>,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings,
            queue,
            log,
            sink: Some(sink),
            sending: None,
            head: None,
            pending: RelayBatches::default(),
            spool: Some(spool),
            // Reading tells.
            is_spool_empty: false,
            commit: None,
            retry_at: now,
            disk_retry_at: now,
            backoff: Backoff::default(),
            has_failed: false,
        }
    }

    /// Runs until the queue is closed.
    pub(super) async fn run(mut self) {
        loop {
            // Before the intake: a closed queue takes no more, so nothing can be left in it.
            let closing = self.queue.closing();
            self.intake();
            if self.is_spill_due() {
                self.spill().await;
            }
            if self.head.is_none() {
                self.load_head().await;
            }
            self.start_sending();
            if closing.is_some_and(|by| self.is_over(by)) {
                break;
            }
            self.wait().await;
        }
        self.sending = None;
        self.close().await;
    }

    /// Takes what is in the queue, and applies the rules.
    fn intake(&mut self) {
        let batches = self.queue.take();
        if batches.is_empty() {
            return;
        }
        let (mut filtered, mut invalid, mut unrepresentable) = (0, 0, 0);
        for batch in &batches {
            for run in batch.puts.runs() {
                let points = run.points();
                let name = match self.settings.rules.apply(run.key) {
                    Ruling::Send(name) => name,
                    Ruling::Filtered => {
                        filtered += points.len() as u64;
                        continue;
                    }
                    Ruling::Invalid => {
                        invalid += points.len() as u64;
                        continue;
                    }
                };
                let Ok(key) = KeyRef::new(&name) else {
                    invalid += points.len() as u64;
                    continue;
                };
                for point in points {
                    if point.value.is_finite() {
                        self.pending.push(key, point, batch.received);
                    } else {
                        unrepresentable += 1;
                    }
                }
            }
        }
        self.update(|stats| {
            stats.waiting -= filtered + invalid + unrepresentable;
            stats.filtered += filtered;
            stats.dropped.invalid_key += invalid;
            stats.dropped.unrepresentable += unrepresentable;
        });
    }

    /// Changes the counters.
    fn update(&self, change: impl FnOnce(&mut RelayStats)) {
        let head = self.head.as_ref();
        let head_bytes = head.filter(|head| head.stored.is_none()).map_or(0, |h| h.chunk.bytes());
        let oldest = head.map(|head| head.chunk.received).or(self.pending.oldest());
        self.queue.update(self.pending.bytes() + head_bytes, oldest, change);
    }

    /// Returns when the oldest point was applied that is in memory only.
    fn oldest_unspooled(&self) -> Option<Millis> {
        let head = self.head.as_ref().filter(|head| head.stored.is_none());
        head.map(|head| head.chunk.received).or(self.pending.oldest())
    }

    /// Returns when points have waited for `limit`.
    fn waited(&self, since: Millis, limit: Duration) -> Instant {
        let age = u64::try_from(self.queue.now().saturating_sub(since)).unwrap_or(0);
        Instant::now() + limit.saturating_sub(Duration::from_millis(age))
    }

    /// Returns when points in memory have to be stored; `None` without any.
    fn spill_at(&self) -> Option<Instant> {
        self.spool.as_ref()?;
        let oldest = self.oldest_unspooled()?;
        let at = if self.queue.bytes() >= self.settings.spill_bytes {
            Instant::now()
        } else {
            self.waited(oldest, self.settings.spill_after)
        };
        Some(at.max(self.disk_retry_at))
    }

    fn is_spill_due(&self) -> bool {
        self.spill_at().is_some_and(|at| at <= Instant::now())
    }

    /// Makes the oldest points the head, if they may be sent.
    async fn load_head(&mut self) {
        if !self.is_spool_empty && Instant::now() >= self.disk_retry_at {
            self.read_spool().await;
        }
        let is_due = self.linger_until().is_some_and(|until| until <= Instant::now());
        if self.is_spool_empty
            && is_due
            && let Some(chunk) = self.pending.pop()
        {
            self.head = Some(HeadBatch { chunk: Arc::new(chunk), stored: None });
        }
        self.update(|_| ());
    }

    /// Returns until when more points are collected before those in memory are sent.
    fn linger_until(&self) -> Option<Instant> {
        let oldest = self.pending.oldest()?;
        if self.pending.has_full() || self.queue.closing().is_some() {
            return Some(Instant::now());
        }
        Some(self.waited(oldest, LINGER))
    }

    fn start_sending(&mut self) {
        if Instant::now() < self.retry_at {
            return;
        }
        let Some(head) = &self.head else { return };
        let Some(mut sink) = self.sink.take() else { return };
        let chunk = Arc::clone(&head.chunk);
        self.sending = Some(Box::pin(async move {
            let sent = sink.send(&chunk.puts).await;
            (sink, sent)
        }));
    }

    /// Takes the outcome of a request.
    fn on_sent(&mut self, sent: Sent) {
        let Some(mut head) = self.head.take() else { return };
        let total = head.chunk.puts.len();
        let settled = sent.settled.min(total);
        let is_complete = settled == total && sent.failure.is_none();
        // Those that the spool has dropped are counted already.
        let counted = match &mut head.stored {
            None => settled as u64,
            Some((first, end)) => {
                let done = *end - (total - settled) as u64;
                let counted = done.saturating_sub(*first);
                *first = (*first).max(done);
                self.commit = Some(done);
                counted
            }
        };
        let rejected = (sent.rejected as u64).min(counted);
        let unrepresentable = (sent.unrepresentable as u64).min(counted - rejected);
        let is_stored = head.stored.is_some();
        if settled < total {
            if settled > 0 {
                let puts = head.chunk.puts.filtered(|index| index >= settled);
                head.chunk = Arc::new(RelayBatch { puts, received: head.chunk.received });
            }
            self.head = Some(head);
        }
        self.update(|stats| {
            *if is_stored { &mut stats.spooled } else { &mut stats.waiting } -= counted;
            stats.delivered += counted - rejected - unrepresentable;
            stats.rejected += rejected;
            stats.dropped.unrepresentable += unrepresentable;
            stats.is_up = is_complete;
            stats.failures += u64::from(!is_complete);
        });
        if let Some(reason) = sent.rejection {
            self.log.rejected(rejected, &reason);
        }
        self.has_failed = !is_complete;
        if settled > 0 {
            self.backoff.reset();
        }
        if let Some(failure) = sent.failure {
            let delay = self.backoff.next().max(failure.retry_after.unwrap_or_default());
            self.retry_at = Instant::now() + delay.min(MAX_RETRY_DELAY);
            self.log.failing(&failure.message);
        } else {
            self.log.delivered();
        }
    }

    /// Returns true if nothing is left to do, or nothing more should be sent before the relay ends.
    fn is_over(&self, by: Instant) -> bool {
        let is_empty = self.head.is_none() && self.pending.is_empty();
        // What is on disk is sent by the next process.
        !self.is_spool_empty || is_empty || self.has_failed || Instant::now() >= by
    }

    /// Waits until there is something to do.
    async fn wait(&mut self) {
        let is_idle = self.sending.is_none();
        let mut due = self.spill_at();
        let mut at = |time: Option<Instant>| due = due.into_iter().chain(time).min();
        at(self.queue.closing());
        match &self.head {
            Some(_) => at(Some(self.retry_at).filter(|_| is_idle)),
            None if self.is_spool_empty => at(self.linger_until()),
            None => at(Some(self.disk_retry_at)),
        }
        let bytes = self.queue.bytes();
        let wanted = if self.oldest_unspooled().is_none() {
            1
        } else if self.head.is_none() && self.is_spool_empty {
            // The points that are collected become a chunk.
            MAX_CHUNK_BYTES.saturating_sub(self.pending.bytes()).max(1)
        } else if bytes < self.settings.spill_bytes {
            self.settings.spill_bytes - self.pending.bytes().min(bytes)
        } else {
            usize::MAX
        };
        let filled = self.queue.filled(wanted);
        let sending = async {
            match &mut self.sending {
                Some(sending) => sending.await,
                None => std::future::pending().await,
            }
        };
        let sleep = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            biased;
            sent = sending => Some(sent),
            () = filled => None,
            () = sleep => None,
        };
        if let Some((sink, sent)) = sent {
            (self.sink, self.sending) = (Some(sink), None);
            self.on_sent(sent);
        }
    }
}

/// A destination that asks for more is asked again all the same.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);
