//! Reads series from a store: which keys a path or tags select, and their points at the native step.

use metrics_client::{Key, Point, Selector};

use super::{
    RenderError,
    limits::Budget,
    path::PathPattern,
    series::Series,
    step::{DEFAULT_STEP, Interval, native_step},
    tags::TagQuery,
};
use crate::store::{KeyPattern, Snapshot, Store};

/// The range of time of a request: the points after `from`, up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRange {
    pub(super) from: i64,
    pub(super) until: i64,
    /// No point after this second is shown.
    pub(super) now: i64,
}

impl TimeRange {
    /// Returns the range moved by some seconds.
    pub(super) fn shifted(self, seconds: i64) -> Self {
        let Self { from, until, now } = self;
        Self { from: from.saturating_add(seconds), until: until.saturating_add(seconds), now }
    }
}

/// Reads the series whose paths match, sorted by name.
pub(super) async fn fetch_path<S: Store>(
    store: &S,
    path: &str,
    range: TimeRange,
    budget: &Budget,
) -> Result<Vec<Series>, RenderError> {
    let keys = if path.contains(';') {
        // A tagged series; its name is no pattern.
        Key::new(path).into_iter().collect()
    } else {
        let pattern = PathPattern::new(path)?;
        match pattern.literal() {
            Some(literal) => Key::new(literal).into_iter().collect(),
            None => {
                let mut keys = store.keys(&pattern.key_pattern()).await?;
                keys.retain(|key| !key.as_str().contains(';') && pattern.matches(key.as_str()));
                keys
            }
        }
    };
    fetch_keys(store, keys, path, range, budget).await
}

/// Reads the series with these tags, sorted by name; `call` is the expression that selects them.
pub(super) async fn fetch_tagged<S: Store>(
    store: &S,
    query: &TagQuery,
    call: &str,
    range: TimeRange,
    budget: &Budget,
) -> Result<Vec<Series>, RenderError> {
    let mut keys = store.keys(&KeyPattern::new("*;*")).await?;
    keys.retain(|key| query.matches(key));
    fetch_keys(store, keys, call, range, budget).await
}

async fn fetch_keys<S: Store>(
    store: &S,
    mut keys: Vec<Key>,
    path: &str,
    range: TimeRange,
    budget: &Budget,
) -> Result<Vec<Series>, RenderError> {
    let until = range.until.min(range.now);
    if range.from > until {
        return Ok(Vec::new());
    }
    budget.charge_series(keys.len())?;
    keys.sort_unstable();
    let mut series = Vec::with_capacity(keys.len());
    let mut points = Vec::new();
    for key in keys {
        if let Some(mut read) =
            fetch_key(store, key, range.from, until, &mut points, budget).await?
        {
            path.clone_into(&mut read.path);
            series.push(read);
        }
    }
    Ok(series)
}

/// Reads the series of one key. `None` if the key has no points at all.
async fn fetch_key<S: Store>(
    store: &S,
    key: Key,
    from: i64,
    until: i64,
    points: &mut Vec<Point>,
    budget: &Budget,
) -> Result<Option<Series>, RenderError> {
    let name = key.as_str().to_owned();
    let selector = Selector::Key(key);
    points.clear();
    // The interval of the last point may reach beyond `until`.
    let mut end = until.saturating_add(DEFAULT_STEP);
    read_range(store, &selector, from.saturating_add(1), end, points, budget).await?;
    let step = if points.len() > MIN_POINTS {
        native_step(points)
    } else {
        step_of_others(store, &selector, from, until, budget).await?
    };
    let Some(step) = step else { return Ok(None) };
    let interval = Interval::new(from, until, step);
    if interval.end - 1 > end {
        let begin = end + 1;
        end = interval.end - 1;
        read_range(store, &selector, begin, end, points, budget).await?;
    }
    budget.charge_points(interval.len())?;
    let mut values = vec![f64::NAN; interval.len()];
    for point in &*points {
        // The last point of an interval counts.
        if let Some(index) = interval.index(point.timestamp) {
            values[index] = point.value;
        }
    }
    Ok(Some(Series::new(name, interval.start, interval.end, step, values)))
}

/// Returns the step as the points around a range show it, of which there are few or none. `None` if there is no
/// point at all.
async fn step_of_others<S: Store>(
    store: &S,
    selector: &Selector,
    from: i64,
    until: i64,
    budget: &Budget,
) -> Result<Option<i64>, RenderError> {
    let mut points = Vec::new();
    let (begin, end) = (from.saturating_sub(NEIGHBOURHOOD), until.saturating_add(NEIGHBOURHOOD));
    read_range(store, selector, begin, end, &mut points, budget).await?;
    if points.len() < 2 {
        points.clear();
        let mut snapshot = store.get(selector).await?;
        while points.len() < 2
            && let Some(block) = snapshot.next_block().await?
        {
            points.extend_from_slice(block.points);
        }
    }
    let step = native_step(&points);
    Ok(step.or_else(|| (!points.is_empty()).then_some(DEFAULT_STEP)))
}

async fn read_range<S: Store>(
    store: &S,
    selector: &Selector,
    begin: i64,
    end: i64,
    points: &mut Vec<Point>,
    budget: &Budget,
) -> Result<(), RenderError> {
    let mut snapshot = store.get_range(selector, begin..=end).await?;
    while let Some(block) = snapshot.next_block().await? {
        budget.charge_points(block.points.len())?;
        points.extend_from_slice(block.points);
    }
    Ok(())
}

/// With fewer points in a range, its surroundings are looked at to find the step.
const MIN_POINTS: usize = 8;

/// How far around a range points are looked for: an hour has enough points of a usual series.
const NEIGHBOURHOOD: i64 = 60 * 60;
