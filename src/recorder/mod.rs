//! A recorder for the `metrics` facade: reports a program's counters, gauges and histograms through a
//! [`Reporter`].

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, KeyName, Metadata, SharedString, Unit};
use tokio::time;

use self::registry::Registry;
use crate::reporter::{FlushError, FlushGuard, Reporter};

mod builder;
mod histogram;
mod late;
mod names;
mod registry;
mod series;
#[cfg(test)]
mod tests;

pub use builder::{InstallError, InvalidInterval, InvalidQuantile, RecorderBuilder};
pub use series::CounterMode;

/// Reports the metrics of `metrics::counter!`, `gauge!` and `histogram!`.
///
/// An update costs one or two atomic operations (for a histogram: a lock and a logarithm), besides the facade's
/// look-up. Once per interval, a task records the values of all series with a [`Reporter`]:
///
/// - a counter as its total or as a rate, see [`CounterMode`];
/// - a gauge as its last value, once it has one;
/// - a histogram as what was recorded in the interval: `.count`, `.sum`, `.min`, `.max`, and
///   [quantiles](RecorderBuilder::quantiles) of a sketch with an error of at most 1 % and a size of at most 32 KiB
///   ([DDSketch](https://arxiv.org/abs/1908.10693)). The sum saturates at the greatest finite number.
///
/// A key is the metric's name with its labels, as [`Key::with_labels`](crate::Key::with_labels) writes them:
/// `http.requests;method=GET`, `http.latency.p99;method=GET`. Of several labels with one name the last counts.
/// Descriptions and units are not reported, because the protocol has none. If two metrics have the same key (a
/// counter and a gauge of one name, or a counter `x.count` and a histogram `x`), the one that is reported later
/// replaces the other. Each such pair is logged once.
///
/// A server stores one value per key and second. A report has the second in which it is made, or was due. Reports
/// of one second are merged: increments are added, and gauges and totals have their last value. If the wall clock
/// is set back, the seconds that repeat replace their first reports.
///
/// A series without an update for the [idle timeout](RecorderBuilder::idle_timeout) is not reported until its next
/// update, and is forgotten if no handle of it is kept. After that it starts again at 0. A gauge that is not 0 is
/// never idle.
///
/// The task ends with the runtime on which the recorder was started, which is logged. From then on only
/// [`flush`](Self::flush) and a guard report.
///
/// Cloning is cheap, and clones are the same recorder.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, recorder::MetricsRecorder};
///
/// let client = MetricsClient::connect(address).await?;
/// let recorder = MetricsRecorder::builder(Reporter::new(client.clone())).prefix("shop")?.install()?;
/// metrics::counter!("http.requests", "method" => "GET").increment(3);
/// recorder.flush(Duration::from_secs(5)).await?;
///
/// let found = client.get("shop.http.requests;method=GET").await?;
/// assert_eq!(found.latest("shop.http.requests;method=GET").unwrap().value, 3.0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MetricsRecorder {
    registry: Arc<Registry>,
}

/// Counters of a recorder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
#[non_exhaustive]
pub struct RecorderStats {
    /// Current series, idle ones that are not forgotten included.
    pub series: u64,
    /// Handles that were created beyond the limit of series: see
    /// [`max_series`](RecorderBuilder::max_series).
    pub refused: u64,
    /// Series that are not reported because their name and labels make no valid key. The first ones are
    /// logged.
    pub invalid_names: u64,
    /// Histogram values that were ignored because they are NaN or infinite.
    pub not_finite: u64,
}

impl MetricsRecorder {
    /// Returns a builder of a recorder that reports through `reporter`.
    pub fn builder(reporter: Reporter) -> RecorderBuilder {
        RecorderBuilder::new(reporter)
    }

    fn start(registry: Registry) -> Self {
        let registry = Arc::new(registry);
        tokio::spawn(Ticker::new(&registry).run());
        Self { registry }
    }

    /// Reports now, and returns once everything is acknowledged. For the end of a program, and for tests.
    ///
    /// A report in the second of another report is merged with it.
    ///
    /// # Errors
    ///
    /// As [`Reporter::flush`], and if the reporter is closed or its queue is full: samples that were dropped
    /// for that count as dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was reported is still sent.
    pub async fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let refused = self.registry.report(None);
        self.registry.reporter().flush_after(refused, limit).await
    }

    /// Returns a guard that reports when it is dropped, and then flushes as [`Reporter::flush_on_drop`]. For the
    /// end of `main`, also by a panic.
    pub fn flush_on_drop(&self, limit: Duration) -> RecorderGuard {
        let reporter = self.registry.reporter().flush_on_drop(limit);
        RecorderGuard { recorder: self.clone(), _reporter: reporter }
    }

    /// Returns the counters of the recorder.
    #[must_use]
    pub fn stats(&self) -> RecorderStats {
        let counters = self.registry.counters();
        RecorderStats {
            series: counters.series.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            invalid_names: counters.invalid_names.load(Ordering::Relaxed),
            not_finite: counters.not_finite.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for MetricsRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsRecorder").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl metrics::Recorder for MetricsRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &Metadata<'_>) -> Counter {
        self.registry.counter(key)
    }

    fn register_gauge(&self, key: &metrics::Key, _: &Metadata<'_>) -> Gauge {
        self.registry.gauge(key)
    }

    fn register_histogram(&self, key: &metrics::Key, _: &Metadata<'_>) -> Histogram {
        self.registry.histogram(key)
    }
}

/// Reports and flushes when it is dropped: see [`MetricsRecorder::flush_on_drop`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once flushes at once"]
pub struct RecorderGuard {
    recorder: MetricsRecorder,
    /// Dropped after this guard has reported.
    _reporter: FlushGuard,
}

impl Drop for RecorderGuard {
    fn drop(&mut self) {
        self.recorder.registry.report(None);
    }
}

/// Reports once per interval, until the last handle of the recorder is dropped.
struct Ticker {
    registry: Weak<Registry>,
    /// When the next report is due, by the wall clock: at the beginning of a second.
    due: Duration,
}

/// By how much the wall clock may fall behind Tokio's clock in an interval. More means that it was set back: a
/// clock that is adjusted is slower by at most half a millisecond a second.
const MAX_DRIFT: Duration = Duration::from_millis(100);

impl Ticker {
    fn new(registry: &Arc<Registry>) -> Self {
        let due = floor(registry.clock().now()) + registry.interval();
        Self { registry: Arc::downgrade(registry), due }
    }

    async fn run(mut self) {
        let registry = self.registry.upgrade();
        let mut wait = registry.map(|it| self.due.saturating_sub(it.clock().now()));
        while let Some(time) = wait {
            time::sleep(time).await;
            wait = self.next();
        }
    }

    /// Reports, unless it is slightly too early. Returns how long to wait, or `None` if the recorder is gone.
    fn next(&mut self) -> Option<Duration> {
        let registry = self.registry.upgrade()?;
        let (interval, now) = (registry.interval(), registry.clock().now());
        let early = self.due.saturating_sub(now);
        if !early.is_zero() && early <= MAX_DRIFT {
            return Some(early);
        }
        // Missed reports are not made up for: this one covers several intervals.
        let is_missed = now.saturating_sub(self.due) >= interval;
        registry.report(Some(if is_missed { now } else { self.due }));
        let is_on_time = early.is_zero() && !is_missed;
        self.due = if is_on_time { self.due } else { floor(now) } + interval;
        Some(self.due.saturating_sub(registry.clock().now()))
    }
}

/// Logs that the runtime is gone, or a report has panicked, unless the recorder itself is gone.
impl Drop for Ticker {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        match registry.unreported() {
            0 => tracing::info!("recorder stopped with its runtime"),
            series => tracing::warn!(
                series,
                "recorder stopped with its runtime; updates are not reported"
            ),
        }
    }
}

/// Returns the beginning of the second.
fn floor(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
