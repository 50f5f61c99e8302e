//! [`Reporter`] and [`SeriesHandle`]: the handles that callers record with.

use std::{fmt, sync::Arc, time::Duration};

use tokio::task::coop;

#[cfg(feature = "spool")]
use super::spool::SpoolStats;
use super::{
    settings::deadline_after,
    shared::ReporterShared,
    stats::{DropReason, FlushError, ReporterStats},
};
use crate::metric::{IntoKey, InvalidKey, Key, Point, unix_now};

/// Records measurements without waiting, and sends them in the background.
///
/// [`record`](Self::record) pushes a sample to a queue, which takes nanoseconds, allocates nothing once the key
/// is known, and does not fail. A task sends the queue in batches through a
/// [`MetricsClient`](crate::MetricsClient), and sends samples again until they are acknowledged. The queue is
/// bounded, and [`stats`](Self::stats) accounts for every sample.
///
/// Cloning is cheap, and clones share the queue. When the last handle is dropped, queued samples are still sent
/// while the runtime runs and the server accepts them. To be sure that they are, use [`close`](Self::close) or
/// [`flush_on_drop`](Self::flush_on_drop). If the runtime is gone and there is a spool, the last handle moves
/// queued samples there, and waits at most 5 seconds for the disk.
///
/// A sample at which the server closes the connection, while it answers other requests, is dropped and counted as
/// [`DropCounts::poison`](super::DropCounts::poison), and its key is logged once. Other samples are still sent.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter};
///
/// let client = MetricsClient::connect(address).await?;
/// let reporter = Reporter::new(client.clone());
/// reporter.record("palm.cpu", 23.7);
/// let memory = reporter.series("palm.memory")?;
/// memory.record(512.0);
/// reporter.close(Duration::from_secs(5)).await?;
///
/// let metrics = client.get_all().await?;
/// assert_eq!(metrics.latest("palm.cpu").map(|point| point.value), Some(23.7));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reporter {
    handle: Arc<CloseOnDrop>,
}

struct CloseOnDrop {
    shared: Arc<ReporterShared>,
}

impl Reporter {
    pub(super) fn from_shared(shared: Arc<ReporterShared>) -> Self {
        Self { handle: Arc::new(CloseOnDrop { shared }) }
    }

    /// Records `value` for `key` at the current second.
    ///
    /// Never waits for the network, and may be called from any thread, in a runtime or not. A sample
    /// with an invalid key
    /// or a value that is not finite is dropped and counted, and logged at a limited rate.
    #[inline]
    pub fn record(&self, key: impl IntoKey, value: impl Into<f64>) {
        self.record_at(key, value, unix_now());
    }

    /// As [`record`](Self::record), at `timestamp`, in seconds since the Unix epoch.
    #[inline]
    pub fn record_at(&self, key: impl IntoKey, value: impl Into<f64>, timestamp: i64) {
        self.shared().record(key.into_text(), Point::new(value, timestamp));
    }

    /// As [`record`](Self::record), but returns why the sample was dropped, instead of logging it.
    ///
    /// Returns `Ok` once the sample is queued; [`stats`](Self::stats) has what happens to it later. A
    /// full queue that
    /// drops its oldest samples accepts every new one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use metrics_client::{MetricsClient, Reporter, reporter::DropReason};
    /// # let client = MetricsClient::builder("127.0.0.1:1").connect_lazy()?;
    /// let reporter = Reporter::new(client);
    /// assert_eq!(reporter.try_record("palm.cpu", 23.7), Ok(()));
    /// assert_eq!(reporter.try_record("palm cpu", 23.7), Err(DropReason::InvalidKey));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the sample was dropped. It is counted as dropped all the same.
    pub fn try_record(&self, key: impl IntoKey, value: impl Into<f64>) -> Result<(), DropReason> {
        self.try_record_at(key, value, unix_now())
    }

    /// As [`try_record`](Self::try_record), at `timestamp`, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// As [`try_record`](Self::try_record).
    pub fn try_record_at(
        &self,
        key: impl IntoKey,
        value: impl Into<f64>,
        timestamp: i64,
    ) -> Result<(), DropReason> {
        self.shared().try_record(key.into_text(), Point::new(value, timestamp))
    }

    /// Returns a handle that records for one key without looking it up each time.
    ///
    /// # Errors
    ///
    /// If `key` is invalid.
    pub fn series(&self, key: impl IntoKey) -> Result<SeriesHandle, InvalidKey> {
        let key = self.shared().key(key.into_text())?;
        Ok(SeriesHandle { key, reporter: self.clone() })
    }

    /// Returns the counters of all samples so far.
    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        self.shared().dispatcher.outbox().stats()
    }

    /// Returns the spool's counters, if there is a spool, as of its last use of the disk.
    #[cfg(feature = "spool")]
    #[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
    #[must_use]
    pub fn spool_stats(&self) -> Option<SpoolStats> {
        self.shared().spool.as_ref().map(|_| self.shared().dispatcher.outbox().spool_stats())
    }

    /// Sends what has been recorded until now, and returns once all of it is acknowledged; with a
    /// spool, once the spool
    /// is empty.
    ///
    /// # Errors
    ///
    /// If some of it is not stored: `limit` has passed, the queue was full, the server rejected
    /// samples, or the task
    /// that sends has ended with its runtime or its client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was recorded is still sent.
    pub async fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let flushed = self.shared().flush(deadline_after(limit)).await;
        // It may have returned without waiting, and the caller may flush in a loop.
        coop::consume_budget().await;
        flushed
    }

    /// Closes the reporter for all clones: accepts no more samples, sends what is queued, and returns
    /// once all of it is
    /// acknowledged or `limit` has passed, whatever the server and the disk do. From then on nothing is
    /// queued or sent,
    /// except what the client's connection was already writing. The client stays open.
    ///
    /// Without a spool, samples that could not be sent by then are dropped. With a spool they are moved
    /// there, and the
    /// directory is released. The last quarter of `limit` is for that, at least 100 milliseconds, also
    /// if `limit` is
    /// less, and at most 1 second. What the disk has not taken by then is dropped. If the disk takes it
    /// after all, it is
    /// counted as [`spooled`](ReporterStats::spooled) from then on.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush). Samples that were dropped for lack of time are counted there too, and
    /// in
    /// [`DropCounts::closed`](super::DropCounts::closed). What the server has acknowledged by then
    /// counts as
    /// acknowledged.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the reporter is closed all the same, and sends what is queued until an
    /// attempt fails
    /// after `limit`.
    pub async fn close(&self, limit: Duration) -> Result<(), FlushError> {
        let closed = self.shared().close(limit).await;
        coop::consume_budget().await;
        closed
    }

    #[inline]
    pub(super) fn shared(&self) -> &Arc<ReporterShared> {
        &self.handle.shared
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Records values for one key: returned by [`Reporter::series`].
///
/// It keeps the reporter running as a [`Reporter`] does.
#[derive(Clone, Debug)]
pub struct SeriesHandle {
    key: Key,
    reporter: Reporter,
}

impl SeriesHandle {
    /// As [`Reporter::record`], for this key.
    #[inline]
    pub fn record(&self, value: impl Into<f64>) {
        self.record_at(value, unix_now());
    }

    /// As [`Reporter::record_at`], for this key.
    #[inline]
    pub fn record_at(&self, value: impl Into<f64>, timestamp: i64) {
        self.reporter.shared().record_key(self.key.clone(), Point::new(value, timestamp));
    }

    /// As [`record`](Self::record), but returns why the sample was dropped, instead of logging it.
    ///
    /// # Errors
    ///
    /// As [`Reporter::try_record`].
    pub fn try_record(&self, value: impl Into<f64>) -> Result<(), DropReason> {
        let point = Point::now(value);
        self.reporter.shared().try_record_key(self.key.clone(), point)
    }

    /// Returns the key for which values are recorded.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}
