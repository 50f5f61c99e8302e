//! What a reporter can be told, and what it does when it is told nothing.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use super::spool::{OpenSpool, Spool, SpoolError};
use super::{
    handle::Reporter, queue::QueueLimits, self_metrics::SelfMetrics, settings::ReporterSettings,
    shared::ReporterShared, worker::Worker,
};
use crate::{
    client::{MetricsClient, WhenFull},
    metric::{InvalidKey, Key},
};

impl Reporter {
    /// Starts a reporter that sends through `client`, with everything at its default. Its task lives
    /// on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a reporter that is dropped ends as soon as it has sent what it has"]
    pub fn new(client: MetricsClient) -> Self {
        Self::builder(client).start()
    }

    /// A reporter that is to be told more before it starts.
    pub fn builder(client: MetricsClient) -> ReporterBuilder {
        ReporterBuilder::new(client)
    }

    pub(super) fn start(client: MetricsClient, mut settings: ReporterSettings) -> Self {
        let spool = settings.spool.take();
        let shared = Arc::new(ReporterShared::new(client, &settings, spool));
        tokio::spawn(Worker::new(Arc::clone(&shared), &settings).run());
        Self::from_shared(shared)
    }
}

/// Builds a [`Reporter`]. What a setting cannot be is taken for the nearest that it can be; zero never
/// means "without a limit" ([the rule](crate::ClientBuilder#limits-and-zero)).
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use metrics_client::{MetricsClient, Reporter, client::WhenFull};
///
/// let client = MetricsClient::builder("metrics.internal:8888").connect_lazy()?;
/// let reporter = Reporter::builder(client)
///     .capacity(1_000_000)
///     .max_bytes(128 * 1024 * 1024)
///     .when_full(WhenFull::Coalesce)
///     .self_metrics("myhost.reporter")?
///     .start();
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it starts a reporter"]
pub struct ReporterBuilder {
    client: MetricsClient,
    settings: ReporterSettings,
}

impl ReporterBuilder {
    pub(super) fn new(client: MetricsClient) -> Self {
        let limits = QueueLimits {
            samples: 256 * 1024,
            bytes: 32 * 1024 * 1024,
            when_full: WhenFull::DropOldest,
        };
        let settings = ReporterSettings {
            limits,
            linger: Duration::from_millis(10),
            self_metrics: None,
            max_attempts: None,
            spool: None,
        };
        Self { client, settings }
    }

    /// How many samples may wait, at least one; those that are being sent, which are at most half of
    /// that, are among them, and those that are being written to a spool, at most a quarter. Default: 262,144, a quarter of a second at a million samples a second.
    pub fn capacity(mut self, samples: usize) -> Self {
        self.settings.limits.samples = samples.max(1);
        self
    }

    /// How much memory the samples that wait may be counted as, in bytes: 64 for each and the length
    /// of its key, and 64 more where samples are [coalesced](WhenFull::Coalesce). It is never
    /// more in truth, and less where samples share a key. A sample that counts as more than this by itself is
    /// dropped, so 0 keeps none. Default: 32 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// Sets what happens to a new sample when the queue is full. Default: [`WhenFull::DropOldest`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.limits.when_full = policy;
        self
    }

    /// How long samples may gather after others have been sent: the next batch leaves after this
    /// time, or when the queue is half full. Default: 10 milliseconds.
    ///
    /// The first sample after a longer silence is sent at once. Waking the task that sends costs the
    /// caller who does it a few microseconds, so it happens once in this time, and not with each
    /// sample.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = time;
        self
    }

    /// Sets how many attempts to send a sample may fail, at least one. Then it is dropped, and counted
    /// as [`DropCounts::attempts`](crate::reporter::DropCounts::attempts). Default: no limit.
    ///
    /// An attempt is a batch that failed with the sample in it: because there was no connection within
    /// the client's [request timeout](crate::ClientBuilder::request_timeout), or because the server
    /// did not answer. What a server refuses is never sent again. With a spool, samples that are moved
    /// there are not dropped for this reason.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = Some(attempts.max(1));
        self
    }

    /// Has the reporter record its own counters every ten seconds, and when it is closed: as
    /// `myhost.reporter.recorded`, `.acknowledged`, `.coalesced`, `.rejected`, `.waiting` and
    /// `.dropped.` with the reason, where `myhost.reporter` is `prefix`; with a spool also as
    /// `.recovered`, `.spooled`, `.spool.bytes` and `.spool.io_errors`. These samples wait and are
    /// counted like all others.
    ///
    /// # Errors
    ///
    /// If a key cannot begin with `prefix`.
    pub fn self_metrics<K>(mut self, prefix: K) -> Result<Self, InvalidKey>
    where
        K: TryInto<Key>,
        InvalidKey: From<K::Error>,
    {
        self.settings.self_metrics = Some(SelfMetrics::new(&prefix.try_into()?)?);
        Ok(self)
    }

    /// Opens a folder to which samples are moved while the server is slow or away, and from which they are
    /// sent later, behind those that come: see [`Spool`]. Samples that lie there already are sent too.
    ///
    /// Returns a builder of the same settings that has the folder, and leaves this one as it is: if the
    /// folder cannot be used, a reporter can still be started without. A folder belongs to one reporter,
    /// so a builder cannot be cloned; a second builder with this folder is the error
    /// [`InUse`](SpoolError::InUse).
    ///
    /// ```no_run
    /// # use metrics_client::{MetricsClient, Reporter, spool::Spool};
    /// # async fn f() {
    /// let client = MetricsClient::builder("metrics.internal:8888").connect_lazy().unwrap();
    /// let builder = Reporter::builder(client).capacity(1_000_000);
    /// let reporter = match builder.spool(Spool::dir("/var/lib/agent/spool")) {
    ///     Ok(with_spool) => with_spool.start(),
    ///     Err(error) => {
    ///         eprintln!("samples wait in memory alone: {error}");
    ///         builder.start()
    ///     }
    /// };
    /// # }
    /// ```
    ///
    /// This reads all of the segment that was written last, and the headers of the others, and blocks
    /// until it has.
    ///
    /// # Errors
    ///
    /// If the folder cannot be used, with the reason and the remedy.
    #[cfg(feature = "spool")]
    #[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
    pub fn spool(&self, spool: Spool) -> Result<Self, SpoolError> {
        let spool = OpenSpool::open(spool)?;
        let ReporterSettings { limits, linger, max_attempts, .. } = self.settings;
        let self_metrics = self.settings.self_metrics.clone();
        let settings =
            ReporterSettings { limits, linger, self_metrics, max_attempts, spool: Some(spool) };
        Ok(Self { client: self.client.clone(), settings })
    }

    /// Starts the reporter: its task lives on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a reporter that is dropped ends as soon as it has sent what it has"]
    pub fn start(self) -> Reporter {
        Reporter::start(self.client, self.settings)
    }
}
