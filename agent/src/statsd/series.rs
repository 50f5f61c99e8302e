//! [`Aggregator`]: what programs report, aggregated over an interval within bounds.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use super::{
    StatsdSettings, StatsdStats,
    line::{InvalidLine, Line, Metric, MetricKind, parse_tags},
    timer::Timer,
};

/// Tags with their values, sorted.
type Tags = Arc<[(String, String)]>;

#[derive(Debug)]
pub(super) struct Aggregator {
    settings: StatsdSettings,
    series: Vec<Series>,
    /// Places of series, by name and tags as programs write them.
    spellings: HashMap<Box<str>, usize>,
    /// The same by sanitized name and sorted tags.
    identities: HashMap<Box<str>, usize>,
    /// Values with a timestamp of their own.
    timestamped: Vec<Timestamped>,
    stats: StatsdStats,
    hasher: RandomState,
    scratch: String,
}

#[derive(Debug)]
struct Series {
    name: Arc<str>,
    tags: Tags,
    identity: Box<str>,
    value: SeriesValue,
    /// When it was last reported.
    reported: Duration,
    /// For how many intervals it has not been reported.
    idle_intervals: u32,
}

#[derive(Debug)]
enum SeriesValue {
    Counter(f64),
    Gauge(f64),
    Timer(Box<Timer>),
    /// Hashes of members, with a random key.
    Set(HashSet<u64>),
}

#[derive(Debug)]
struct Timestamped {
    name: Arc<str>,
    tags: Tags,
    value: f64,
    timestamp: i64,
}

/// A line that is invalid: where it is in its packet, and why.
#[derive(Debug)]
pub(super) struct BadLine<'a> {
    pub(super) line: &'a [u8],
    pub(super) reason: InvalidLine,
}

/// What was reported in an interval.
#[derive(Debug)]
pub(crate) struct Aggregates {
    series: Vec<(Arc<str>, Tags, SeriesValue)>,
    timestamped: Vec<Timestamped>,
    /// Percentiles, with the last part of their names.
    percentiles: Vec<(f64, String)>,
}

impl Aggregator {
    pub(super) fn new(settings: StatsdSettings) -> Self {
        Self {
            settings,
            series: Vec::new(),
            spellings: HashMap::new(),
            identities: HashMap::new(),
            timestamped: Vec::new(),
            stats: StatsdStats::default(),
            hasher: RandomState::new(),
            scratch: String::new(),
        }
    }

    /// Aggregates the lines of a datagram. Returns the first one that is invalid.
    pub(super) fn receive<'a>(&mut self, packet: &'a [u8], now: Duration) -> Option<BadLine<'a>> {
        self.stats.packets += 1;
        let mut bad = None;
        for line in packet.split(|&byte| byte == b'\n') {
            match Line::parse(line) {
                Ok(Line::Metric(metric)) => match self.aggregate(&metric, now) {
                    Ok(()) => self.stats.lines += 1,
                    Err(Refused) => self.stats.refused += 1,
                },
                Ok(Line::Skipped) => self.stats.skipped += 1,
                Ok(Line::Empty) => {}
                Err(reason) => {
                    self.stats.invalid += 1;
                    bad.get_or_insert(BadLine { line, reason });
                }
            }
        }
        bad
    }

    pub(super) fn note_truncated(&mut self) {
        self.stats.truncated += 1;
    }

    pub(super) fn stats(&self) -> StatsdStats {
        StatsdStats { series: self.series.len() as u64, ..self.stats }
    }

    /// Takes what was reported since the last time.
    pub(super) fn take(&mut self, now: Duration) -> Aggregates {
        let keep_gauges = self.settings.keep_gauges;
        let mut taken = Vec::with_capacity(self.series.len());
        for series in &mut self.series {
            let value = match &mut series.value {
                SeriesValue::Gauge(value) => Some(SeriesValue::Gauge(*value)),
                _ if series.idle_intervals > 0 => None,
                SeriesValue::Counter(count) => Some(SeriesValue::Counter(std::mem::take(count))),
                SeriesValue::Timer(timer) => {
                    let timer = std::mem::replace(timer, Box::new(Timer::new()));
                    Some(SeriesValue::Timer(timer))
                }
                SeriesValue::Set(members) => Some(SeriesValue::Set(std::mem::take(members))),
            };
            if let Some(value) = value {
                taken.push((Arc::clone(&series.name), Arc::clone(&series.tags), value));
            }
            series.idle_intervals += 1;
        }
        let is_kept = |series: &Series| match series.value {
            SeriesValue::Gauge(_) => now.saturating_sub(series.reported) < keep_gauges,
            _ => series.idle_intervals <= IDLE_INTERVALS,
        };
        if !self.series.iter().all(is_kept) {
            self.series.retain(is_kept);
            self.spellings.clear();
            let identities = self.series.iter().enumerate();
            self.identities =
                identities.map(|(place, series)| (series.identity.clone(), place)).collect();
        }
        let percentiles = self
            .settings
            .percentiles
            .iter()
            .map(|&percent| (percent, format!("p{percent}").replace('.', "_")));
        Aggregates {
            series: taken,
            timestamped: std::mem::take(&mut self.timestamped),
            percentiles: percentiles.collect(),
        }
    }

    fn aggregate(&mut self, metric: &Metric<'_>, now: Duration) -> Result<(), Refused> {
        if metric.name.len() + metric.tags.len() > MAX_NAME_BYTES {
            return Err(Refused);
        }
        if let (Some(timestamp), MetricKind::Counter | MetricKind::Gauge) =
            (metric.timestamp, metric.kind)
        {
            return self.pass(metric, timestamp);
        }
        let place = self.place(metric)?;
        let series = &mut self.series[place];
        if !series.value.is(metric.kind) {
            // The program may have been replaced by one that gives the name another type.
            if series.idle_intervals == 0 {
                return Err(Refused);
            }
            series.value = SeriesValue::new(metric.kind);
        }
        series.idle_intervals = 0;
        series.reported = now;
        match &mut series.value {
            SeriesValue::Counter(count) => {
                for (number, _) in metric.numbers() {
                    *count = bounded(*count + number / metric.rate);
                }
            }
            SeriesValue::Gauge(value) => {
                for (number, is_signed) in metric.numbers() {
                    *value = if is_signed { bounded(*value + number) } else { number };
                }
            }
            SeriesValue::Timer(timer) => {
                for (number, _) in metric.numbers() {
                    timer.add(number, metric.rate);
                }
            }
            SeriesValue::Set(members) => {
                let member = self.hasher.hash_one(metric.member());
                if members.len() < self.settings.max_set_members {
                    members.insert(member);
                } else if !members.contains(&member) {
                    self.stats.refused_members += 1;
                }
            }
        }
        Ok(())
    }

    /// Keeps values with a timestamp as they are.
    fn pass(&mut self, metric: &Metric<'_>, timestamp: i64) -> Result<(), Refused> {
        let (name, tags) = (sanitized(metric.name).into(), owned_tags(metric.tags));
        let scale = if metric.kind == MetricKind::Counter { metric.rate } else { 1.0 };
        let mut sum = 0.0;
        for (number, _) in metric.numbers() {
            sum = if metric.kind == MetricKind::Counter { sum + number / scale } else { number };
        }
        if self.timestamped.len() >= self.settings.max_series {
            return Err(Refused);
        }
        self.timestamped.push(Timestamped { name, tags, value: bounded(sum), timestamp });
        Ok(())
    }

    /// Returns the place of the metric's series, which is created if there is room.
    fn place(&mut self, metric: &Metric<'_>) -> Result<usize, Refused> {
        self.scratch.clear();
        // Neither has a bar in it.
        let _ = write!(self.scratch, "{}|{}", metric.name, metric.tags);
        if let Some(&place) = self.spellings.get(self.scratch.as_str()) {
            return Ok(place);
        }
        let (name, tags) = (sanitized(metric.name), owned_tags(metric.tags));
        let mut identity = name.clone();
        for (tag, value) in tags.iter() {
            let _ = write!(identity, "|{tag}:{value}");
        }
        let place = match self.identities.get(identity.as_str()) {
            Some(&place) => place,
            None if self.series.len() >= self.settings.max_series => return Err(Refused),
            None => {
                let identity = identity.into_boxed_str();
                self.identities.insert(identity.clone(), self.series.len());
                self.series.push(Series {
                    name: name.into(),
                    tags,
                    identity,
                    value: SeriesValue::new(metric.kind),
                    reported: Duration::ZERO,
                    idle_intervals: 0,
                });
                self.series.len() - 1
            }
        };
        // A program may write the tags of one series in many orders.
        if self.spellings.len() >= 2 * self.settings.max_series {
            self.spellings.clear();
        }
        self.spellings.insert(self.scratch.as_str().into(), place);
        Ok(place)
    }
}

impl SeriesValue {
    fn new(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter(0.0),
            MetricKind::Gauge => Self::Gauge(0.0),
            MetricKind::Timer => Self::Timer(Box::new(Timer::new())),
            MetricKind::Set => Self::Set(HashSet::new()),
        }
    }

    fn is(&self, kind: MetricKind) -> bool {
        matches!(
            (self, kind),
            (Self::Counter(_), MetricKind::Counter)
                | (Self::Gauge(_), MetricKind::Gauge)
                | (Self::Timer(_), MetricKind::Timer)
                | (Self::Set(_), MetricKind::Set)
        )
    }
}

impl Aggregates {
    /// Returns each name with its tags and its value.
    pub(crate) fn values(&self) -> impl Iterator<Item = (String, &[(String, String)], f64)> {
        self.series.iter().flat_map(|(name, tags, value)| {
            let values = self.of_series(name, value);
            values.into_iter().map(move |(name, value)| (name, &**tags, value))
        })
    }

    /// Returns those that have a timestamp of their own, with it.
    pub(crate) fn timestamped(
        &self,
    ) -> impl Iterator<Item = (&str, &[(String, String)], f64, i64)> {
        self.timestamped.iter().map(|Timestamped { name, tags, value, timestamp }| {
            (&**name, &**tags, *value, *timestamp)
        })
    }

    fn of_series(&self, name: &str, value: &SeriesValue) -> Vec<(String, f64)> {
        match value {
            SeriesValue::Counter(value) | SeriesValue::Gauge(value) => vec![(name.into(), *value)],
            SeriesValue::Set(members) => vec![(name.into(), members.len() as f64)],
            SeriesValue::Timer(timer) if timer.is_empty() => Vec::new(),
            SeriesValue::Timer(timer) => {
                let part = |part: &str, value| (format!("{name}.{part}"), value);
                let mut values = vec![
                    part("count", timer.count),
                    part("min", timer.min),
                    part("max", timer.max),
                    part("mean", timer.mean()),
                ];
                let percentiles = self.percentiles.iter();
                values.extend(
                    percentiles.map(|(percent, name)| part(name, timer.percentile(*percent))),
                );
                values
            }
        }
    }
}

/// A line that would exceed a bound.
struct Refused;

/// Returns the name without what has a meaning in a key.
fn sanitized(name: &str) -> String {
    let is_special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '*');
    name.replace(is_special, "_")
}

fn owned_tags(tags: &str) -> Tags {
    parse_tags(tags).into_iter().map(|(tag, value)| (tag.into(), value.into())).collect()
}

/// Returns the value as a number that can be sent, also where a sum is too large for one.
fn bounded(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(f64::MIN, f64::MAX) }
}

/// For how many intervals a series is remembered that is not reported, other than a gauge.
const IDLE_INTERVALS: u32 = 6;

/// The longest name with its tags. A key has at most 1,024 bytes, and the host and global labels are in it, too.
const MAX_NAME_BYTES: usize = 800;

#[cfg(test)]
mod tests;
