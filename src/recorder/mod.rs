//! Where the `metrics` facade reports to: counters, gauges and histograms of a whole program, through
//! a [`Reporter`].

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

/// Reports what a program says with `metrics::counter!`, `gauge!` and `histogram!`.
///
/// An update costs an atomic operation or two (a histogram: a lock and a logarithm) besides what the
/// facade takes to find it. Each interval a task hands the values of all series to a [`Reporter`]:
///
/// - a counter as its total since it began, or as a rate each second, as [`CounterMode`] says;
/// - a gauge as its last value, from the first one on;
/// - a histogram as what was recorded in the interval: `.count`, `.sum`, `.min`, `.max`, and
///   [quantiles](RecorderBuilder::quantiles), of a sketch that is off by at most 1 % and holds at most
///   32 KiB ([DDSketch](https://arxiv.org/abs/1908.10693)). Its sum saturates at the greatest finite
///   number.
///
/// A key is the metric's name with its labels as [`Key::with_labels`](crate::Key::with_labels) writes
/// them: `http.requests;method=GET`, `http.latency.p99;method=GET`. Of several labels with one name the
/// last counts. Descriptions and units are not reported, for the protocol has no place for them. Where
/// two metrics have one key (a counter and a gauge of one name, or a counter `x.count` and a histogram
/// `x`) the one that is reported later replaces the other; the log tells of each such pair once.
///
/// A server keeps one value for each key and second. A report is stored in the second in which it is made,
/// or was due. Reports of one second are merged, and the last of them says what all say: what they
/// counted is added, gauges and totals have their last value. Where the wall clock is set back, the
/// seconds that come again replace what was reported in them at first.
///
/// A series that was not updated for the [idle timeout](RecorderBuilder::idle_timeout) is not reported
/// until it is, and is forgotten if no handle of it is kept. One that comes back after that begins at 0.
/// A gauge that is not 0 is not idle.
///
/// The task ends with the runtime on which the recorder was made, and the log says so. From then on
/// only [`flush`](Self::flush) and a guard report.
///
/// Cloning is cheap, and clones are one recorder.
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

/// What a recorder has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecorderStats {
    /// Series that there are now, those that are idle and have not been forgotten among them.
    pub series: u64,
    /// How often a handle was taken of a series for which there was no room: see
    /// [`max_series`](RecorderBuilder::max_series).
    pub refused: u64,
    /// Series that are not reported because their name and labels make no key; the log has shown the
    /// first ones.
    pub invalid_names: u64,
    /// Values of histograms that were left out because they are NaN or infinite.
    pub not_finite: u64,
}

impl MetricsRecorder {
    /// A recorder that reports through `reporter`, and is to be told more before it begins.
    pub fn builder(reporter: Reporter) -> RecorderBuilder {
        RecorderBuilder::new(reporter)
    }

    fn start(registry: Registry) -> Self {
        let registry = Arc::new(registry);
        tokio::spawn(Ticker::new(&registry).run());
        Self { registry }
    }

    /// Reports now, and returns once everything has been acknowledged. For the end of a program, and
    /// for tests.
    ///
    /// Where it comes in the second of another report, it says what both of them say.
    ///
    /// # Errors
    ///
    /// As [`Reporter::flush`], and if the reporter is closed or has no room for the report: what was
    /// dropped for that counts as dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was reported is sent all the same.
    pub async fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let refused = self.registry.report(None);
        self.registry.reporter().flush_after(refused, limit).await
    }

    /// A guard that reports when it is dropped, and then does what [`Reporter::flush_on_drop`] does. For the
    /// end of `main`, also where that is a panic.
    pub fn flush_on_drop(&self, limit: Duration) -> RecorderGuard {
        let reporter = self.registry.reporter().flush_on_drop(limit);
        RecorderGuard { recorder: self.clone(), _reporter: reporter }
    }

    /// What the recorder has done so far.
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

/// Reports and sends when it is dropped: see [`MetricsRecorder::flush_on_drop`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once has nothing to wait for"]
pub struct RecorderGuard {
    recorder: MetricsRecorder,
    /// Dropped after what this guard itself does when it is.
    _reporter: FlushGuard,
}

impl Drop for RecorderGuard {
    fn drop(&mut self) {
        self.recorder.registry.report(None);
    }
}

/// Reports each interval, as long as there is a recorder.
struct Ticker {
    registry: Weak<Registry>,
    /// When the next report is due, by the wall clock: at the beginning of a second.
    due: Duration,
}

/// By how much the wall clock may fall behind Tokio's while an interval passes: more is a clock that
/// has been set back. Clocks that are adjusted go slower by half a millisecond a second.
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

    /// Reports, unless it is a little early, and returns how long to wait; nothing once the recorder is
    /// gone.
    fn next(&mut self) -> Option<Duration> {
        let registry = self.registry.upgrade()?;
        let (interval, now) = (registry.interval(), registry.clock().now());
        let early = self.due.saturating_sub(now);
        if !early.is_zero() && early <= MAX_DRIFT {
            return Some(early);
        }
        // What was missed is missed: this is then the report of several intervals.
        let is_missed = now.saturating_sub(self.due) >= interval;
        registry.report(Some(if is_missed { now } else { self.due }));
        let is_on_time = early.is_zero() && !is_missed;
        self.due = if is_on_time { self.due } else { floor(now) } + interval;
        Some(self.due.saturating_sub(registry.clock().now()))
    }
}

/// The runtime is gone, or a report has panicked, unless the recorder is.
impl Drop for Ticker {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        match registry.unreported() {
            0 => tracing::info!("the recorder stops with its runtime"),
            series => tracing::warn!(
                series,
                "the recorder stops with its runtime: series have updates that are not reported"
            ),
        }
    }
}

/// The beginning of a second.
fn floor(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
