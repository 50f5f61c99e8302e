//! [`ReporterBuilder`]: the settings of a reporter, and their defaults.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use super::spool::{OpenSpool, Spool, SpoolError};
use super::{
    handle::Reporter, queue::QueueLimits, self_metrics::SelfMetrics, settings::ReporterSettings,
    shared::ReporterShared, worker::Worker,
};
use crate::{
    client::{MetricsClient, WhenFull},
    metric::{IntoKey, InvalidKey},
};

impl Reporter {
    /// Starts a reporter with default settings that sends through `client`. Its task runs on the
    /// caller's runtime.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a reporter that is dropped ends as soon as it has sent what it has"]
    pub fn new(client: MetricsClient) -> Self {
        Self::builder(client).start()
    }

    /// Returns a builder of a reporter that sends through `client`.
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

/// Builds a [`Reporter`]. A setting outside of its range is set to the nearest valid value; zero never
/// means
/// "without a limit" ([the rule](crate::ClientBuilder#limits-and-zero)).
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

    /// Sets how many samples the queue holds, at least one. Samples in flight count, which are at most
    /// half of the
    /// capacity, and so do samples being written to a spool, at most a quarter. Default: 262,144, a
    /// quarter of a second
    /// at a million samples a second.
    pub fn capacity(mut self, samples: usize) -> Self {
        self.settings.limits.samples = samples.max(1);
        self
    }

    /// Sets how many bytes of memory the queued samples may be counted as: 64 bytes for each sample and
    /// the length of
    /// its key, and 64 more where samples are [coalesced](WhenFull::Coalesce). The queue never uses
    /// more than that, and
    /// less where samples share a key. A sample that counts as more than this limit is dropped, so 0
    /// keeps none.
    /// Default: 32 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.limits.bytes = bytes;
        self
    }

    /// Sets what happens to a new sample when the queue is full. Default: [`WhenFull::DropOldest`].
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.limits.when_full = policy;
        self
    }

    /// Sets how long the reporter collects samples between two batches: the next batch is sent after
    /// this time, or when
    /// the queue is half full. Default: 10 milliseconds.
    ///
    /// The first sample after a longer silence is sent at once. Waking the task that sends costs the
    /// calling thread a
    /// few microseconds, so it happens once in this time, and not with each sample.
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.linger = time;
        self
    }

    /// Sets how many attempts to send a sample may fail, at least one. After that the sample is dropped
    /// and counted as
    /// [`DropCounts::attempts`](crate::reporter::DropCounts::attempts). Default: no limit.
    ///
    /// An attempt is a failed batch that contained the sample: there was no connection within the
    /// client's
    /// [request timeout](crate::ClientBuilder::request_timeout), or the server did not answer. A sample
    /// that the server
    /// rejects is never sent again. Samples that are moved to a spool are not dropped for this reason.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = Some(attempts.max(1));
        self
    }

    /// Records the reporter's own counters every 10 seconds and when it is closed. If `prefix` is
    /// `myhost.reporter`, the
    /// keys are `myhost.reporter.recorded`, `.acknowledged`, `.coalesced`, `.rejected`, `.waiting`, and
    /// `.dropped.` with
    /// the reason; with a spool also `.recovered`, `.spooled`, `.spool.bytes` and `.spool.io_errors`.
    /// These samples are
    /// queued and counted like all others.
    ///
    /// # Errors
    ///
    /// If `prefix` is not valid as the beginning of a key.
    pub fn self_metrics(mut self, prefix: impl IntoKey) -> Result<Self, InvalidKey> {
        self.settings.self_metrics = Some(SelfMetrics::new(&prefix.into_key()?)?);
        Ok(self)
    }

    /// Opens a directory to which samples are moved while the server is slow or unreachable, and from which
    /// they are sent later, behind live samples: see [`Spool`]. Samples that are stored there already are sent
    /// too.
    ///
    /// Returns a builder of the same settings with the directory open, and leaves this one unchanged: if the
    /// directory cannot be used, a reporter can still be started without it. A directory belongs to one
    /// reporter, so builders cannot be cloned, and a second builder with the same directory fails with
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
    ///         eprintln!("no spool: {error}");
    ///         builder.start()
    ///     }
    /// };
    /// # }
    /// ```
    ///
    /// Reads all of the newest segment and the headers of the others, and blocks until that is done.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, with the reason and a hint.
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

    /// Starts the reporter. Spawns its task on the caller's runtime.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    #[must_use = "a reporter that is dropped ends as soon as it has sent what it has"]
    pub fn start(self) -> Reporter {
        Reporter::start(self.client, self.settings)
    }
}
