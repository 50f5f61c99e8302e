//! The keys under which series are reported, and conflicts between them.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt, mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use indexmap::IndexMap;
use metrics::KeyName;

use super::{
    histogram::HistogramKeys,
    series::{Quantile, SeriesKind},
};
use crate::{
    log_limit::LogLimiter,
    metric::{InvalidKey, Key},
};

/// The settings that all keys of a recorder share.
#[derive(Clone, Debug)]
pub(super) struct NameSettings {
    pub(super) prefix: Option<Key>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) quantiles: Vec<Quantile>,
}

/// Makes keys, and finds metrics that have the same key. Only [`log_new`](Self::log_new) and
/// [`log_due`](Self::log_due) log, because everything else runs under a lock.
pub(super) struct Names {
    /// Before a dot.
    prefix: String,
    /// A metric's own labels replace them.
    labels: Vec<(String, String)>,
    quantiles: Vec<Quantile>,
    state: Mutex<NameState>,
    /// Something is to be logged.
    is_news: AtomicBool,
    invalid_names: LogLimiter,
    shared: LogLimiter,
}

#[derive(Default)]
struct NameState {
    claims: HashMap<Key, Claim>,
    /// Pairs of metrics that have had the same key.
    pairs: HashSet<(MetricId, MetricId)>,
    unlogged_conflicts: Vec<KeyConflict>,
    unlogged_names: Vec<(KeyName, InvalidKey)>,
}

/// The metrics that have a key.
struct Claim {
    first: MetricId,
    owners: u32,
}

/// A metric with all its series.
#[derive(Clone, PartialEq, Eq, Hash)]
struct MetricId {
    kind: SeriesKind,
    name: KeyName,
}

struct KeyConflict {
    key: Key,
    first: MetricId,
    second: MetricId,
}

/// The most pairs of metrics that are remembered and logged. A program has a handful, unless it makes names of
/// metrics from data.
const MAX_PAIRS: usize = 1000;

impl Names {
    pub(super) fn new(settings: NameSettings) -> Self {
        let NameSettings { prefix, labels, quantiles } = settings;
        let (prefix, mut common) =
            prefix.map(|prefix| prefix.labels().into_parts()).unwrap_or_default();
        common.extend(labels);
        Self {
            prefix,
            labels: common,
            quantiles,
            state: Mutex::default(),
            is_news: AtomicBool::new(false),
            invalid_names: LogLimiter::new(),
            shared: LogLimiter::new(),
        }
    }

    /// Returns the key of a part of a metric. Of several labels with one name the last counts, and
    /// those of the metric come after those of the recorder.
    pub(super) fn key(&self, metric: &metrics::Key, part: Option<&str>) -> Result<Key, InvalidKey> {
        let prefix = Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let parts = prefix.into_iter().chain([metric.name()]).chain(part);
        let name = parts.collect::<Vec<_>>().join(".");
        let common = self.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
        let own = metric.labels().map(|label| (label.key(), label.value()));
        Key::with_labels(name, common.chain(own).collect::<IndexMap<_, _>>())
    }

    pub(super) fn histogram_keys(
        &self,
        metric: &metrics::Key,
    ) -> Result<HistogramKeys, InvalidKey> {
        let quantiles = self.quantiles.iter();
        let quantiles =
            quantiles.map(|quantile| Ok((quantile.value, self.key(metric, Some(&quantile.name))?)));
        Ok(HistogramKeys {
            count: self.key(metric, Some("count"))?,
            sum: self.key(metric, Some("sum"))?,
            quantiles: quantiles.collect::<Result<_, InvalidKey>>()?,
        })
    }

    /// Notes that a metric has this key.
    pub(super) fn claim(&self, key: &Key, kind: SeriesKind, metric: &metrics::Key) {
        let mut state = self.state();
        let NameState { claims, pairs, unlogged_conflicts, .. } = &mut *state;
        let owner = MetricId { kind, name: metric.name_shared() };
        match claims.entry(key.clone()) {
            Entry::Vacant(free) => {
                free.insert(Claim { first: owner, owners: 1 });
            }
            Entry::Occupied(taken) => {
                let claim = taken.into_mut();
                claim.owners += 1;
                let pair = (claim.first.clone(), owner);
                if pairs.len() < MAX_PAIRS && pairs.insert(pair.clone()) {
                    let (first, second) = pair;
                    unlogged_conflicts.push(KeyConflict { key: key.clone(), first, second });
                    self.is_news.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Notes that a series with this key is gone.
    pub(super) fn release(&self, key: &Key) {
        let mut state = self.state();
        if let Some(claim) = state.claims.get_mut(key) {
            claim.owners -= 1;
            if claim.owners == 0 {
                state.claims.remove(key);
            }
        }
    }

    /// Notes that a metric has no valid key.
    pub(super) fn note_invalid_name(&self, metric: &metrics::Key, fault: InvalidKey) {
        self.state().unlogged_names.push((metric.name_shared(), fault));
        self.is_news.store(true, Ordering::Relaxed);
    }

    /// Logs what has been noted since the last call. The caller holds no lock.
    #[inline]
    pub(super) fn log_new(&self) {
        if self.is_news.load(Ordering::Relaxed) {
            self.log_due();
        }
    }

    /// As [`log_new`](Self::log_new), and also what the rate limit has held back.
    #[cold]
    pub(super) fn log_due(&self) {
        self.is_news.store(false, Ordering::Relaxed);
        // The lock is released before the first line is logged.
        let invalid_names = mem::take(&mut self.state().unlogged_names);
        for (metric, error) in invalid_names {
            if self.invalid_names.should_log() {
                let suppressed = self.invalid_names.take_suppressed();
                tracing::warn!(?metric, %error, suppressed, "invalid key; series is not reported");
            }
        }
        // Each pair is logged eventually: there will be no other line about it.
        while let Some(KeyConflict { key, first, second }) = self.next_pair() {
            tracing::warn!(
                ?key, %first, %second,
                "two metrics have the same key; the second replaces the first"
            );
        }
    }

    fn next_pair(&self) -> Option<KeyConflict> {
        let mut state = self.state();
        let is_due = !state.unlogged_conflicts.is_empty() && self.shared.should_log();
        is_due.then(|| state.unlogged_conflicts.remove(0))
    }

    fn state(&self) -> MutexGuard<'_, NameState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MetricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SeriesKind::Counter => "counter",
            SeriesKind::Gauge => "gauge",
            SeriesKind::Histogram => "histogram",
        };
        write!(f, "{kind} {:?}", self.name.as_str())
    }
}
