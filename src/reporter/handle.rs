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

/// Records measurements without waiting for anything, and sends them in the background.
///
/// [`record`](Self::record) puts a sample in a queue, which takes nanoseconds, allocates nothing once
/// the key is known, and does not fail. A task sends what has gathered, in batches, through a
/// [`MetricsClient`](crate::MetricsClient); what is not acknowledged is sent again until it is. The queue is bounded, and
/// what becomes of every sample can be read from [`stats`](Self::stats).
///
/// Cloning is cheap, and clones share the queue. When the last handle is dropped, what waits is still
/// sent, as long as the runtime runs and the server takes it; to know that it was, use
/// [`close`](Self::close) or [`flush_on_drop`](Self::flush_on_drop). Where the runtime is gone and there is a spool, the
/// last handle moves what waits there, and waits at most 5 seconds for the disk.
///
/// A sample at which the server closes the connection, while it answers other requests, is dropped,
/// counted as [`DropCounts::poison`](super::DropCounts::poison), and its key is logged once. The others go on.
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
    /// Never waits for the network, and may be called from any thread, in a runtime or not. A key that
    /// is none, or a value that is not finite, is dropped and counted, and logged once in ten seconds.
    #[inline]
    pub fn record(&self, key: impl IntoKey, value: impl Into<f64>) {
        self.record_at(key, value, unix_now());
    }

    /// Records `value` for `key` at `timestamp`, in seconds since the Unix epoch; else as
    /// [`record`](Self::record).
    #[inline]
    pub fn record_at(&self, key: impl IntoKey, value: impl Into<f64>, timestamp: i64) {
        self.shared().record(key.into_text(), Point::new(value, timestamp));
    }

    /// A handle for one key, which does not have to be looked up each time.
    ///
    /// # Errors
    ///
    /// If `key` is none.
    pub fn series(&self, key: impl IntoKey) -> Result<SeriesHandle, InvalidKey> {
        let key = self.shared().key(key.into_text())?;
        Ok(SeriesHandle { key, reporter: self.clone() })
    }

    /// What has become of every sample so far.
    #[must_use]
    pub fn stats(&self) -> ReporterStats {
        self.shared().dispatcher.outbox().stats()
    }

    /// What the spool has done so far, if there is one; as it was when its folder was last used.
    #[cfg(feature = "spool")]
    #[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
    #[must_use]
    pub fn spool_stats(&self) -> Option<SpoolStats> {
        self.shared().spool.as_ref().map(|_| self.shared().dispatcher.outbox().spool_stats())
    }

    /// As [`record`](Self::record), but returns why the sample was dropped, instead of logging it.
    ///
    /// Returns `Ok` once the sample is queued: what becomes of it later is seen in [`stats`](Self::stats). A
    /// full queue that drops its oldest accepts every sample.
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
    /// If the sample was dropped; it is counted as dropped all the same.
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

    /// Sends what has been recorded until now, and returns once all of it has been acknowledged; with a
    /// spool, once nothing lies there.
    ///
    /// # Errors
    ///
    /// If some of it is not stored: because `limit` has passed, because there was no room for it or
    /// the server refused it meanwhile, or because the task that sends has ended with its runtime or its client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was recorded is sent all the same.
    pub async fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let flushed = self.shared().flush(deadline_after(limit)).await;
        // It may not have waited, and the caller may flush in a loop.
        coop::consume_budget().await;
        flushed
    }

    /// Takes no more samples, for all clones, sends what there is, and returns once all of it has been
    /// acknowledged or `limit` has passed, whatever the server and the disk do. From then on nothing
    /// waits and nothing is sent, but for what the client's connection had taken to be written. The
    /// client stays open.
    ///
    /// Without a spool, what could not be sent by then is dropped. With a spool it is moved there, and
    /// the folder is released. Of `limit`, the last quarter is for that, at least 100 milliseconds, also
    /// where `limit` is less, and at most 1 second. What the disk has not taken by then is dropped. If
    /// the disk takes it after all, it is counted as [`spooled`](ReporterStats::spooled) from then on.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush); what was dropped for want of time is counted there too, and in
    /// [`DropCounts::closed`](super::DropCounts::closed). What the server has acknowledged by then counts as acknowledged.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the reporter takes no more all the same, and sends what it has, until
    /// an attempt fails after `limit`.
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

/// Records values for one key: what [`Reporter::series`] gives.
///
/// It keeps the reporter running as a [`Reporter`] does.
#[derive(Clone, Debug)]
pub struct SeriesHandle {
    key: Key,
    reporter: Reporter,
}

impl SeriesHandle {
    /// Records `value` at the current second; else as [`Reporter::record`].
    #[inline]
    pub fn record(&self, value: impl Into<f64>) {
        self.record_at(value, unix_now());
    }

    /// Records `value` at `timestamp`, in seconds since the Unix epoch; else as [`Reporter::record`].
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
