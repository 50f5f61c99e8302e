//! [`Agent`]: measures at each due second, and records that.

use std::{convert::Infallible, fmt};

use metrics_client::{Reporter, internal::log_limit::LogCondition, unix_seconds};
use tokio::{
    task::{self, JoinError, JoinHandle},
    time::{self, Instant},
};

use crate::{
    host::{Host, Measurement, Measurements},
    names::Names,
    schedule::{Next, Schedule, WallClock},
    statsd::Statsd,
};

/// Measures a host at each due second, and records what it measures in a [`Reporter`].
pub struct Agent {
    settings: AgentSettings,
    reporter: Reporter,
    clock: WallClock,
    new_host: Box<dyn Fn() -> Host + Send>,
    /// The origin of the time that the host is given.
    begin: Instant,
    statsd: Option<Statsd>,
    /// The second that was measured last.
    last: Option<i64>,
    /// None while it is measured.
    host: Option<Box<Host>>,
    measuring: Option<Measuring>,
    /// How often the host was not measured in time.
    late: u64,
    lateness: LogCondition,
}

/// What an [`Agent`] measures, and when.
#[derive(Debug)]
pub struct AgentSettings {
    /// When it measures.
    pub schedule: Schedule,
    /// The keys of what it measures.
    pub names: Names,
}

/// A measurement, on a thread for calls that block.
struct Measuring {
    /// None for the first, which counters are compared with.
    second: Option<i64>,
    task: JoinHandle<(Box<Host>, Vec<Measurement>)>,
}

impl Agent {
    /// Creates an agent that measures the host that `new_host` returns, and makes its timestamps by `clock`.
    ///
    /// # Panics
    ///
    /// If called outside of a Tokio runtime.
    pub fn new(
        settings: AgentSettings,
        reporter: Reporter,
        clock: WallClock,
        new_host: impl Fn() -> Host + Send + 'static,
    ) -> Self {
        let mut agent = Self {
            settings,
            reporter,
            clock,
            new_host: Box::new(new_host),
            begin: Instant::now(),
            statsd: None,
            last: None,
            host: None,
            measuring: None,
            late: 0,
            lateness: LogCondition::new(),
        };
        agent.start_measuring(None);
        agent
    }

    /// Returns the reporter.
    #[must_use]
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Changes what is measured and when. Counters of the host continue.
    pub fn set_settings(&mut self, settings: AgentSettings) {
        self.settings = settings;
    }

    /// Changes the reporter. Returns the one before.
    pub fn set_reporter(&mut self, reporter: Reporter) -> Reporter {
        std::mem::replace(&mut self.reporter, reporter)
    }

    /// Changes what programs report to. The one before is closed, and what has arrived there is recorded.
    pub fn set_statsd(&mut self, statsd: Option<Statsd>) {
        if let Some(before) = &mut self.statsd {
            before.stop();
            let now = unix_seconds((self.clock)());
            // A second has one value.
            let second = self.last.map_or(now, |last| now.max(last.saturating_add(1)));
            self.record_reported(second);
        }
        self.statsd = statsd;
    }

    /// Returns what programs report to.
    #[must_use]
    pub fn statsd(&self) -> Option<&Statsd> {
        self.statsd.as_ref()
    }

    /// Measures at each due second, and never returns.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. The next run continues with the measurement that was going on.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let now = (self.clock)();
            let latest = self.settings.schedule.latest(now);
            let last = *self.last.get_or_insert(latest);
            match self.settings.schedule.next(now, last) {
                Next::Wait(time) => time::sleep(time).await,
                Next::Due(second) => {
                    let measured = self.measure(second).await;
                    self.record(&measured, second);
                    self.record_reported(second);
                    self.last = Some(second);
                }
            }
        }
    }

    /// Measures the host. Returns nothing if that takes too long: a disk that hangs holds up nothing else.
    async fn measure(&mut self, second: i64) -> Vec<Measurement> {
        let limit = Instant::now() + self.settings.schedule.interval() / 4 * 3;
        loop {
            if self.measuring.is_none() {
                self.start_measuring(Some(second));
            }
            let Some(Measuring { second: of, task }) = &mut self.measuring else { continue };
            let is_of_this = *of == Some(second);
            let Ok(finished) = time::timeout_at(limit, task).await else {
                self.late += 1;
                if let Some(lasting) = self.lateness.holds() {
                    let (since, times) = (lasting.since, lasting.times);
                    tracing::warn!(?since, times, "measuring the host takes too long");
                }
                return Vec::new();
            };
            let measured = self.settle(finished);
            // Rates of one that was late are rates of another second.
            if is_of_this {
                return measured;
            }
        }
    }

    fn start_measuring(&mut self, second: Option<i64>) {
        let mut host = self.host.take().unwrap_or_else(|| Box::new((self.new_host)()));
        let now = self.begin.elapsed();
        let task = task::spawn_blocking(move || {
            let measured = host.measure(now);
            (host, measured)
        });
        self.measuring = Some(Measuring { second, task });
    }

    fn settle(
        &mut self,
        finished: Result<(Box<Host>, Vec<Measurement>), JoinError>,
    ) -> Vec<Measurement> {
        self.measuring = None;
        match finished {
            Ok((host, measured)) => {
                self.host = Some(host);
                if let Some(lasting) = self.lateness.is_over() {
                    let (since, times) = (lasting.since, lasting.times);
                    tracing::info!(?since, times, "measuring the host is fast enough again");
                }
                measured
            }
            Err(error) => {
                tracing::error!(%error, "measuring the host failed");
                Vec::new()
            }
        }
    }

    fn record(&mut self, measured: &[Measurement], second: i64) {
        let own = self.measure_own();
        for measurement in measured.iter().chain(&own) {
            if let Some(key) = self.settings.names.key(measurement) {
                self.reporter.record_at(key, measurement.value, second);
            }
        }
    }

    fn record_reported(&self, second: i64) {
        let Some(statsd) = &self.statsd else { return };
        let aggregates = statsd.take();
        let names = &self.settings.names;
        for (name, tags, value) in aggregates.values() {
            if let Some(key) = names.reported_key(&name, tags) {
                self.reporter.record_at(key, value, second);
            }
        }
        for (name, tags, value, timestamp) in aggregates.timestamped() {
            if let Some(key) = names.reported_key(name, tags) {
                self.reporter.record_at(key, value, timestamp);
            }
        }
    }

    /// Returns what the agent has sent, and what it has not.
    fn measure_own(&self) -> Vec<Measurement> {
        let stats = self.reporter.stats();
        let mut out = Measurements::default();
        for (name, count) in [
            ("agent.recorded", stats.recorded),
            ("agent.acknowledged", stats.acknowledged),
            ("agent.rejected", stats.rejected),
            ("agent.dropped", stats.dropped.total()),
            ("agent.waiting", stats.waiting),
            ("agent.spooled", stats.spooled),
            ("agent.late", self.late),
        ] {
            out.push(name, count as f64);
        }
        if let Some(statsd) = &self.statsd {
            let stats = statsd.stats();
            for (name, count) in [
                ("agent.statsd.packets", stats.packets),
                ("agent.statsd.lines", stats.lines),
                ("agent.statsd.invalid", stats.invalid),
                ("agent.statsd.skipped", stats.skipped),
                ("agent.statsd.refused", stats.refused + stats.refused_members),
                ("agent.statsd.dropped", stats.dropped + stats.truncated),
                ("agent.statsd.series", stats.series),
            ] {
                out.push(name, count as f64);
            }
        }
        out.into_vec()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("settings", &self.settings)
            .field("reporter", &self.reporter)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
