//! Where the `metrics` facade reports to: counters, gauges and histograms of a whole program, through
//! a [`Reporter`].

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, KeyName, Metadata, SharedString, Unit};
use tokio::time::{self, Instant, MissedTickBehavior};

use self::registry::Registry;
use crate::reporter::{Reporter, ReporterGuard, Unsent};

mod builder;
mod registry;
mod series;

pub use builder::{Counters, InstallError, InvalidQuantile, RecorderBuilder};

/// Reports what a program says with `metrics::counter!`, `gauge!` and `histogram!`.
///
/// An update costs an atomic operation or two (a histogram: a lock and a logarithm) besides what the
/// facade takes to find it. Each interval a task hands the values of all series to a [`Reporter`]:
///
/// - a counter as its total since it began, or as a rate each second, as [`Counters`] says;
/// - a gauge as its last value, from the first one on;
/// - a histogram as what was recorded in the interval: `.count`, `.sum`, and quantiles, of a sketch that
///   is off by at most 1 % and holds at most 32 KiB ([DDSketch](https://arxiv.org/abs/1908.10693)).
///
/// A key is the metric's name with its labels as [`Key::with_labels`](crate::Key::with_labels) writes
/// them: `http.requests;method=GET`, `http.latency.p99;method=GET`. Descriptions and units are not
/// reported, for the protocol has no place for them.
///
/// A series that was not updated for the [idle timeout](RecorderBuilder::idle_timeout) is not reported
/// until it is, and is forgotten if no handle of it is kept. One that comes back after that begins anew, a
/// counter at 0.
///
/// Cloning is cheap, and clones are one recorder.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr();
/// # tokio::spawn(server.serve_until(std::future::pending::<()>()));
/// use std::time::Duration;
/// use metrics_client::{MetricsClient, Reporter, recorder::Recorder};
///
/// let client = MetricsClient::connect(address).await?;
/// let recorder = Recorder::builder(Reporter::new(client.clone())).prefix("shop")?.install()?;
/// metrics::counter!("http.requests", "method" => "GET").increment(3);
/// recorder.flush(Duration::from_secs(5)).await?;
///
/// let found = client.get("shop.http.requests;method=GET").await?;
/// assert_eq!(found.latest("shop.http.requests;method=GET").unwrap().value, 3.0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Recorder {
    registry: Arc<Registry>,
}

/// What a recorder has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecorderStats {
    /// Series that there are now, those that are idle and have not been forgotten among them.
    pub series: u64,
    /// How often a series was asked for that is not there and for which there was no room: see
    /// [`max_series`](RecorderBuilder::max_series).
    pub refused: u64,
    /// Series that are not reported because their name and labels make no key; the log has shown the
    /// first one.
    pub unnamed: u64,
    /// Values of histograms that were left out because they are NaN or infinite.
    pub not_finite: u64,
}

impl Recorder {
    /// A recorder that reports through `reporter`, and is to be told more before it begins.
    pub fn builder(reporter: Reporter) -> RecorderBuilder {
        RecorderBuilder::new(reporter)
    }

    fn start(registry: Registry, interval: Duration) -> Self {
        let registry = Arc::new(registry);
        tokio::spawn(report_each(interval, Arc::downgrade(&registry)));
        Self { registry }
    }

    /// Reports now, and returns once everything has been acknowledged. For the end of a program, and
    /// for tests.
    ///
    /// Where it comes in the second of another report, its values stand at the second after: the
    /// protocol keeps one for each.
    ///
    /// # Errors
    ///
    /// As [`Reporter::flush`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: what was reported is sent all the same.
    pub async fn flush(&self, limit: Duration) -> Result<(), Unsent> {
        self.registry.report();
        self.registry.reporter().flush(limit).await
    }

    /// A guard that reports when it is dropped, and then does what [`Reporter::guard`] does. For the
    /// end of `main`, also where that is a panic.
    pub fn guard(&self, limit: Duration) -> RecorderGuard {
        let reporter = self.registry.reporter().guard(limit);
        RecorderGuard { recorder: self.clone(), _reporter: reporter }
    }

    /// What the recorder has done so far.
    #[must_use]
    pub fn stats(&self) -> RecorderStats {
        let tally = self.registry.tally();
        RecorderStats {
            series: tally.series.load(Ordering::Relaxed),
            refused: tally.refused.load(Ordering::Relaxed),
            unnamed: tally.unnamed.load(Ordering::Relaxed),
            not_finite: tally.not_finite.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl metrics::Recorder for Recorder {
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

/// Reports and sends when it is dropped: see [`Recorder::guard`].
#[derive(Debug)]
#[must_use = "a guard that is dropped at once has nothing to wait for"]
pub struct RecorderGuard {
    recorder: Recorder,
    /// Dropped after what this guard itself does when it is.
    _reporter: ReporterGuard,
}

impl Drop for RecorderGuard {
    fn drop(&mut self) {
        self.recorder.registry.report();
    }
}

/// Reports until nobody has the recorder any more.
async fn report_each(interval: Duration, registry: Weak<Registry>) {
    let mut ticks = time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match registry.upgrade() {
            Some(registry) => registry.report(),
            None => return,
        }
    }
}
