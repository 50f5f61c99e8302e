//! `Metrics`: the result of a `get`, grouped by key.

use std::{
    fmt,
    ops::{Bound, Index, RangeBounds},
    vec,
};

use indexmap::IndexMap;

use super::{InvalidKey, Key, Point, Sample, sort::Sort};

/// What a `get` returns: the points of each key, ascending by timestamp, at most one for each second.
///
/// Keys are in the order in which the server first listed them. If a server lists a second twice, or
/// seconds out of order, or a key in several places, the records are merged: the last one wins.
///
/// ```
/// use metrics_client::{Metrics, Point, Sample};
///
/// let metrics: Metrics = [
///     Sample::new("palm.cpu", 0.5, 1150864248)?,
///     Sample::new("palm.cpu", 2.0, 1150864247)?,
///     Sample::new("eardrum.cpu", 3.0, 1150864250)?,
/// ]
/// .into_iter()
/// .collect();
///
/// assert_eq!(
///     metrics.points("palm.cpu"),
///     [Point::new(2.0, 1150864247), Point::new(0.5, 1150864248)],
/// );
/// assert_eq!(metrics.latest("palm.cpu"), Some(Point::new(0.5, 1150864248)));
/// for (key, points) in &metrics {
///     println!("{key}: {} points", points.len());
/// }
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    series: IndexMap<Key, Vec<Point>>,
    /// What is left to sort, before the metrics leave this crate.
    unsorted: Option<Box<Unsorted>>,
}

/// Series that are not in ascending order.
#[derive(Clone)]
struct Unsorted {
    /// Their places in the map.
    places: Vec<usize>,
    /// The one that is being sorted.
    current: Option<(usize, Sort)>,
}

/// How many points are sorted at once where the rest is sorted in steps: some milliseconds' worth.
const SORTED_AT_ONCE: usize = 64 * 1024;

impl Metrics {
    /// Creates metrics without a key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the points of `key`, ascending by timestamp; an empty slice if the key is missing.
    #[must_use]
    pub fn points(&self, key: &(impl AsRef<str> + ?Sized)) -> &[Point] {
        self.get(key).unwrap_or_default()
    }

    /// Returns the points of `key`, ascending by timestamp; `None` if the key is missing.
    #[must_use]
    pub fn get(&self, key: &(impl AsRef<str> + ?Sized)) -> Option<&[Point]> {
        self.series.get(key.as_ref()).map(Vec::as_slice)
    }

    /// Returns the points of `key` whose timestamps are in `range`, by binary search.
    ///
    /// ```
    /// use metrics_client::{Metrics, Point, Sample};
    ///
    /// let metrics: Metrics = (0..10)
    ///     .map(|second| Sample::new("palm.cpu", second as f64, second))
    ///     .collect::<Result<_, _>>()?;
    /// assert_eq!(metrics.range("palm.cpu", 3..5), [Point::new(3.0, 3), Point::new(4.0, 4)]);
    /// assert_eq!(metrics.range("palm.cpu", 8..).len(), 2);
    /// # Ok::<(), metrics_client::error::InvalidKey>(())
    /// ```
    #[must_use]
    pub fn range(
        &self,
        key: &(impl AsRef<str> + ?Sized),
        range: impl RangeBounds<i64>,
    ) -> &[Point] {
        let points = self.points(key);
        let start = points.partition_point(|point| match range.start_bound() {
            Bound::Included(&start) => point.timestamp < start,
            Bound::Excluded(&start) => point.timestamp <= start,
            Bound::Unbounded => false,
        });
        let points = &points[start..];
        let end = points.partition_point(|point| match range.end_bound() {
            Bound::Included(&end) => point.timestamp <= end,
            Bound::Excluded(&end) => point.timestamp < end,
            Bound::Unbounded => true,
        });
        &points[..end]
    }

    /// Returns the most recent point of `key`.
    #[must_use]
    pub fn latest(&self, key: &(impl AsRef<str> + ?Sized)) -> Option<Point> {
        self.points(key).last().copied()
    }

    /// Returns true if `key` has points.
    #[must_use]
    pub fn contains_key(&self, key: &(impl AsRef<str> + ?Sized)) -> bool {
        self.series.contains_key(key.as_ref())
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Returns true if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Returns the number of points of all keys.
    #[must_use]
    pub fn point_count(&self) -> usize {
        self.series.values().map(Vec::len).sum()
    }

    /// Returns the keys, in the order in which the server first listed them.
    #[must_use]
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.series.keys()
    }

    /// Returns the points of each key, in the order of the [keys](Self::keys).
    #[must_use]
    pub fn values(&self) -> impl ExactSizeIterator<Item = &[Point]> {
        self.series.values().map(Vec::as_slice)
    }

    /// Returns each key with its points.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.series.iter())
    }

    /// Returns the points of `key` without copying them; none if the key is missing.
    #[must_use]
    pub fn into_points(mut self, key: &(impl AsRef<str> + ?Sized)) -> Vec<Point> {
        self.series.swap_remove(key.as_ref()).unwrap_or_default()
    }

    /// Returns all points as samples, key by key.
    #[must_use]
    pub fn into_samples(self) -> IntoSamples {
        IntoSamples { series: self.series.into_iter(), current: None }
    }
}

impl Metrics {
    /// Sorts for some milliseconds, and returns true if everything is sorted.
    pub(crate) fn sort_some(&mut self) -> bool {
        let mut budget = SORTED_AT_ONCE;
        while let Some(unsorted) = &mut self.unsorted {
            let next = unsorted.current.take().or_else(|| {
                let place = unsorted.places.pop()?;
                Some((place, Sort::new(std::mem::take(&mut self.series[place]))))
            });
            let Some((place, mut sort)) = next else {
                self.unsorted = None;
                break;
            };
            match sort.step(&mut budget) {
                Some(points) => self.series[place] = points,
                None => {
                    unsorted.current = Some((place, sort));
                    return false;
                }
            }
        }
        true
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("series", &self.series).finish()
    }
}

impl PartialEq for Metrics {
    fn eq(&self, other: &Self) -> bool {
        self.series == other.series
    }
}

impl FromIterator<Sample> for Metrics {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut builder = MetricsBuilder::default();
        builder.extend(samples);
        builder.finish()
    }
}

impl Extend<Sample> for Metrics {
    fn extend<I: IntoIterator<Item = Sample>>(&mut self, samples: I) {
        let mut builder = MetricsBuilder::from(std::mem::take(self));
        builder.extend(samples);
        *self = builder.finish();
    }
}

impl<'a> IntoIterator for &'a Metrics {
    type Item = (&'a Key, &'a [Point]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Metrics {
    type Item = (Key, Vec<Point>);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(self.series.into_iter())
    }
}

/// The keys of borrowed [`Metrics`] with their points.
#[derive(Clone, Debug)]
pub struct Iter<'a>(indexmap::map::Iter<'a, Key, Vec<Point>>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Key, &'a [Point]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, points)| (key, points.as_slice()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// The keys of owned [`Metrics`] with their points.
#[derive(Debug)]
pub struct IntoIter(indexmap::map::IntoIter<Key, Vec<Point>>);

impl Iterator for IntoIter {
    type Item = (Key, Vec<Point>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for IntoIter {}

/// The points of owned [`Metrics`] as samples.
#[derive(Debug)]
pub struct IntoSamples {
    series: indexmap::map::IntoIter<Key, Vec<Point>>,
    current: Option<(Key, vec::IntoIter<Point>)>,
}

impl Iterator for IntoSamples {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        loop {
            if let Some((key, points)) = &mut self.current
                && let Some(point) = points.next()
            {
                return Some(Sample { key: key.clone(), point });
            }
            let (key, points) = self.series.next()?;
            self.current = Some((key, points.into_iter()));
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let current = self.current.as_ref().map_or(0, |(_, points)| points.len());
        (current, (self.series.len() == 0).then_some(current))
    }
}

/// Returns the points of a key.
///
/// # Panics
///
/// If the key is missing; [`Metrics::get`] returns `None` then.
impl<K: AsRef<str> + ?Sized> Index<&K> for Metrics {
    type Output = [Point];

    fn index(&self, key: &K) -> &[Point] {
        self.get(key).expect("no points of this key")
    }
}

/// Groups records into [`Metrics`] as they come.
///
/// The series that is being filled is held apart from the map, so that a record of the key before
/// it costs no look-up.
#[derive(Debug, Default)]
pub(crate) struct MetricsBuilder {
    series: IndexMap<Key, Vec<Point>>,
    /// The series being filled, as its place in `series`; its points are in `points` until it is complete.
    current: Option<usize>,
    points: Vec<Point>,
    /// Whether the current series has had no points before: then `points` is a buffer that is used
    /// again, and the series gets a copy without room to spare.
    is_new: bool,
    /// That buffer, while an older series is being filled.
    buffer: Vec<Point>,
    /// How many bytes the keys and the points take that are in `series`.
    held: usize,
    /// The places of series that are not in ascending order, some of them more than once.
    unsorted: Vec<usize>,
}

/// How much of a series' points is copied to save room. More than this grows in place.
const MAX_COPIED_POINTS: usize = 1024;

/// What an allocation takes besides what is asked for, in bytes: glibc's malloc, rounded up.
const ALLOCATION_BYTES: usize = 16;

/// What a key takes in the map while that grows to twice its size, in bytes: three times an entry,
/// and three times its share of the index.
const ENTRY_BYTES: usize = 3 * (size_of::<(u64, Key, Vec<Point>)>() + 12);

/// What a point takes in a vector that grows to twice its size, in bytes.
const GROWING_POINT_BYTES: usize = 3 * size_of::<Point>();

impl MetricsBuilder {
    /// The points that follow are this key's.
    pub(crate) fn select(&mut self, key: &str) -> Result<(), InvalidKey> {
        match self.index_of(key) {
            Some(place) => self.switch_to(place),
            None => self.add(Key::new(key)?),
        }
        Ok(())
    }

    /// Adds a point to the key last selected.
    #[inline]
    pub(crate) fn push(&mut self, point: Point) {
        match self.points.last_mut() {
            Some(last) if point.timestamp == last.timestamp => *last = point,
            Some(last) if point.timestamp < last.timestamp => {
                if self.unsorted.last() != self.current.as_ref() {
                    self.unsorted.extend(self.current);
                }
                self.points.push(point);
            }
            _ => self.points.push(point),
        }
    }

    /// Returns the most that this takes in memory, in bytes, until one more record is added.
    pub(crate) fn memory(&self) -> usize {
        self.held
            + self.series.len() * ENTRY_BYTES
            + self.points.len() * GROWING_POINT_BYTES
            + self.unsorted.len() * 3 * size_of::<usize>()
    }

    pub(crate) fn finish(mut self) -> Metrics {
        self.store_current();
        self.unsorted.sort_unstable();
        self.unsorted.dedup();
        for place in self.unsorted {
            let points = &mut self.series[place];
            // Stable: of the rows of one second the last stays the last, and only it is kept.
            points.sort_by_key(|point| point.timestamp);
            points.dedup_by(|later, kept| {
                let same = later.timestamp == kept.timestamp;
                if same {
                    *kept = *later;
                }
                same
            });
        }
        Metrics { series: self.series, unsorted: None }
    }

    /// As [`finish`](Self::finish), but leaves it to [`Metrics::sort_some`] to sort more points than it
    /// takes some milliseconds to sort.
    pub(crate) fn finish_in_steps(mut self) -> Metrics {
        self.store_current();
        self.unsorted.sort_unstable();
        self.unsorted.dedup();
        let points = self.unsorted.iter().map(|&place| self.series[place].len());
        if points.sum::<usize>() <= SORTED_AT_ONCE {
            return self.finish();
        }
        let unsorted = Unsorted { places: self.unsorted, current: None };
        Metrics { series: self.series, unsorted: Some(Box::new(unsorted)) }
    }

    fn extend(&mut self, samples: impl IntoIterator<Item = Sample>) {
        for Sample { key, point } in samples {
            match self.index_of(key.as_str()) {
                Some(place) => self.switch_to(place),
                None => self.add(key),
            }
            self.push(point);
        }
    }

    /// The place of `key` in `series`. Records that are listed by time go through the keys in the
    /// same order again and again, so the one after the current is tried before a look-up.
    fn index_of(&self, key: &str) -> Option<usize> {
        let next = self.current.map_or(0, |place| place + 1);
        let next = if next < self.series.len() { next } else { 0 };
        match self.series.get_index(next) {
            Some((candidate, _)) if candidate.as_str() == key => Some(next),
            _ => self.series.get_index_of(key),
        }
    }

    fn add(&mut self, key: Key) {
        self.store_current();
        self.held += key.as_str().len() + ALLOCATION_BYTES;
        let (place, _) = self.series.insert_full(key, Vec::new());
        self.current = Some(place);
        self.is_new = true;
    }

    fn switch_to(&mut self, place: usize) {
        if self.current != Some(place) {
            self.store_current();
            let points = std::mem::take(&mut self.series[place]);
            self.held = self.held.saturating_sub(bytes(&points));
            self.buffer = std::mem::replace(&mut self.points, points);
            self.current = Some(place);
            self.is_new = false;
        }
    }

    fn store_current(&mut self) {
        if let Some(place) = self.current.take() {
            let points = if self.is_new && self.points.len() <= MAX_COPIED_POINTS {
                let copy = self.points.as_slice().into();
                self.points.clear();
                copy
            } else {
                let buffer = std::mem::take(&mut self.buffer);
                std::mem::replace(&mut self.points, buffer)
            };
            self.held += bytes(&points);
            self.series[place] = points;
        }
    }
}

/// What these points take in memory, in bytes.
fn bytes(points: &Vec<Point>) -> usize {
    points.capacity() * size_of::<Point>() + ALLOCATION_BYTES
}

impl From<Metrics> for MetricsBuilder {
    fn from(metrics: Metrics) -> Self {
        Self { series: metrics.series, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(rows: &[(&str, i64, f64)]) -> Metrics {
        rows.iter().map(|&(key, at, value)| Sample::new(key, value, at).unwrap()).collect()
    }

    #[test]
    fn the_last_row_of_a_second_wins() {
        let got = metrics(&[("a", 1, 1.0), ("a", 1, 2.0), ("b", 1, 9.0), ("a", 1, 3.0)]);
        assert_eq!(got.points("a"), [Point::new(3.0, 1)]);
        assert_eq!(got.points("b"), [Point::new(9.0, 1)]);
    }

    #[test]
    fn rows_in_any_order_come_out_ascending() {
        let got =
            metrics(&[("a", 5, 5.0), ("a", 1, 1.0), ("a", 3, 3.0), ("a", 1, 1.5), ("a", 5, 5.5)]);
        assert_eq!(got.points("a"), [Point::new(1.5, 1), Point::new(3.0, 3), Point::new(5.5, 5)]);
    }

    #[test]
    fn keys_keep_the_order_of_their_first_row() {
        let got = metrics(&[("b", 1, 1.0), ("a", 1, 1.0), ("b", 2, 2.0)]);
        assert_eq!(got.keys().map(Key::as_str).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((got.len(), got.point_count()), (2, 3));
    }

    #[test]
    fn keys_are_hashed_with_a_secret() {
        use std::hash::BuildHasher;
        let hash = || metrics(&[("a", 1, 1.0)]).series.hasher().hash_one("a");
        assert_ne!(hash(), hash(), "who knows the hashes can make all keys collide");
    }

    #[test]
    fn extending_merges_into_what_is_there() {
        let mut got = metrics(&[("a", 2, 2.0)]);
        got.extend([Sample::new("a", 1.0, 1).unwrap(), Sample::new("a", 2.5, 2).unwrap()]);
        assert_eq!(got.points("a"), [Point::new(1.0, 1), Point::new(2.5, 2)]);
        assert_eq!(got.latest("a"), Some(Point::new(2.5, 2)));
        assert_eq!(got.latest("b"), None);
    }
}
