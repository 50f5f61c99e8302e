//! The keys that are watched: their last points, sorted and filtered.

use std::{
    cmp::{Ordering, Reverse},
    collections::{HashMap, VecDeque},
};

use clap::ValueEnum;
use metrics_client::{Key, Point, Sample};

use crate::text;

/// How many points of a key are kept: as many as the widest chart draws.
pub(super) const MAX_POINTS: usize = 64;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortBy {
    Name,
    /// The highest first
    Value,
    /// The newest first
    Age,
}

/// A key with its last points.
#[derive(Debug)]
pub(super) struct TableRow {
    pub(super) key: Key,
    /// Ascending.
    points: VecDeque<Point>,
}

/// All keys, and which of them are shown in which order.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<TableRow>,
    index: HashMap<Key, usize>,
    /// The row of the last point: the next one is mostly for the same.
    last: usize,
    /// The widest key, in columns.
    key_width: usize,
    sort: SortBy,
    is_reversed: bool,
    /// Lower case.
    filter: String,
    /// The rows that are shown.
    order: Vec<usize>,
    is_sorted: bool,
}

impl SortBy {
    /// Returns the next one in turn.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Name => Self::Value,
            Self::Value => Self::Age,
            Self::Age => Self::Name,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Value => "value",
            Self::Age => "age",
        }
    }
}

impl TableRow {
    /// Returns the newest point.
    pub(super) fn newest(&self) -> Option<Point> {
        self.points.back().copied()
    }

    /// Returns the last points, at most `count`.
    pub(super) fn recent(&self, count: usize) -> impl Iterator<Item = Point> + Clone {
        self.points.iter().skip(self.points.len().saturating_sub(count)).copied()
    }

    /// Adds a point. Returns false if it is known, or too old.
    fn push(&mut self, point: Point) -> bool {
        let place = self.points.partition_point(|other| other.timestamp < point.timestamp);
        if let Some(known) = self.points.get_mut(place)
            && known.timestamp == point.timestamp
        {
            let is_new = known.value.to_bits() != point.value.to_bits();
            *known = point;
            return is_new;
        }
        if place == 0 && self.points.len() == MAX_POINTS {
            return false;
        }
        self.points.insert(place, point);
        if self.points.len() > MAX_POINTS {
            self.points.pop_front();
        }
        true
    }
}

impl Table {
    pub(super) fn new(sort: SortBy) -> Self {
        Self {
            rows: Vec::new(),
            index: HashMap::new(),
            last: 0,
            key_width: 0,
            sort,
            is_reversed: false,
            filter: String::new(),
            order: Vec::new(),
            is_sorted: true,
        }
    }

    /// Adds a point that was read, whether it is known or not.
    pub(super) fn push(&mut self, Sample { key, point }: Sample) {
        let row = match self.rows.get(self.last) {
            Some(row) if row.key == key => self.last,
            _ => *self.index.entry(key).or_insert_with_key(|key| {
                self.key_width = self.key_width.max(text::width(key.as_str()));
                self.rows.push(TableRow { key: key.clone(), points: VecDeque::new() });
                self.is_sorted = false;
                self.rows.len() - 1
            }),
        };
        self.last = row;
        if self.rows[row].push(point) && self.sort != SortBy::Name {
            self.is_sorted = false;
        }
    }

    /// Returns how many keys there are, shown or not.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn key_width(&self) -> usize {
        self.key_width
    }

    pub(super) fn sort(&self) -> SortBy {
        self.sort
    }

    pub(super) fn is_reversed(&self) -> bool {
        self.is_reversed
    }

    pub(super) fn sort_by(&mut self, sort: SortBy) {
        self.sort = sort;
        self.is_reversed = false;
        self.is_sorted = false;
    }

    pub(super) fn reverse(&mut self) {
        self.is_reversed = !self.is_reversed;
        self.is_sorted = false;
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Shows only keys that contain this, in upper or lower case.
    pub(super) fn set_filter(&mut self, filter: &str) {
        self.filter = filter.to_lowercase();
        self.is_sorted = false;
    }

    /// Sorts what is shown, if anything has changed. Returns how many rows are shown.
    pub(super) fn arrange(&mut self) -> usize {
        if std::mem::replace(&mut self.is_sorted, true) {
            return self.order.len();
        }
        let Self { rows, order, filter, .. } = self;
        let matches = |row: &TableRow| {
            filter.is_empty() || row.key.as_str().to_lowercase().contains(&*filter)
        };
        order.clear();
        order.extend(
            rows.iter().enumerate().filter(|(_, row)| matches(row)).map(|(index, _)| index),
        );
        let by_name = |a: &TableRow, b: &TableRow| a.key.cmp(&b.key);
        let compare = |a: &TableRow, b: &TableRow| match self.sort {
            SortBy::Name => by_name(a, b),
            SortBy::Value => by_value(a, b).then_with(|| by_name(a, b)),
            SortBy::Age => {
                let newest = |row: &TableRow| Reverse(row.newest().map(|point| point.timestamp));
                newest(a).cmp(&newest(b)).then_with(|| by_name(a, b))
            }
        };
        order.sort_unstable_by(|a, b| {
            let order = compare(&rows[*a], &rows[*b]);
            if self.is_reversed { order.reverse() } else { order }
        });
        order.len()
    }

    /// Returns the rows that are shown from one on, as they were arranged.
    pub(super) fn rows(&self, from: usize) -> impl Iterator<Item = &TableRow> {
        self.order.iter().skip(from).map(|index| &self.rows[*index])
    }
}

/// The highest first, and what is not a number last.
fn by_value(a: &TableRow, b: &TableRow) -> Ordering {
    let value =
        |row: &TableRow| row.newest().map(|point| point.value).filter(|value| !value.is_nan());
    match (value(a), value(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(records: &[(&str, f64, i64)]) -> Table {
        let mut table = Table::new(SortBy::Name);
        for (key, value, second) in records {
            table.push(Sample::new(*key, *value, *second).unwrap());
        }
        table
    }

    fn shown(table: &mut Table) -> Vec<&str> {
        table.arrange();
        table.rows(0).map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn rows_are_sorted_by_name_value_and_age() {
        let mut table =
            table(&[("b", 2.0, 30), ("a", 1.0, 20), ("c", f64::NAN, 10), ("d", 9.0, 20)]);
        assert_eq!(shown(&mut table), ["a", "b", "c", "d"]);
        table.sort_by(SortBy::Value);
        assert_eq!(shown(&mut table), ["d", "b", "a", "c"]);
        table.sort_by(SortBy::Age);
        assert_eq!(shown(&mut table), ["b", "a", "d", "c"]);
        table.reverse();
        assert_eq!(shown(&mut table), ["c", "d", "a", "b"]);
        table.push(Sample::new("c", 1.0, 40).unwrap());
        assert_eq!(shown(&mut table), ["d", "a", "b", "c"]);
    }

    #[test]
    fn filter_shows_keys_that_contain_it() {
        let mut table = table(&[("palm.CPU", 1.0, 1), ("palm.mem", 1.0, 1)]);
        table.set_filter("Cpu");
        assert_eq!(shown(&mut table), ["palm.CPU"]);
        table.push(Sample::new("eardrum.cpu", 1.0, 1).unwrap());
        assert_eq!(shown(&mut table), ["eardrum.cpu", "palm.CPU"]);
        table.set_filter("");
        assert_eq!(shown(&mut table).len(), 3);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn last_points_are_kept_in_order() {
        let mut table = table(&[("a", 1.0, 10), ("a", 3.0, 30), ("a", 2.0, 20), ("a", 9.0, 30)]);
        let points = |table: &mut Table| {
            table.arrange();
            table
                .rows(0)
                .next()
                .unwrap()
                .recent(99)
                .map(|point| (point.timestamp, point.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(points(&mut table), [(10, 1.0), (20, 2.0), (30, 9.0)]);
        for second in 0..1000 {
            table.push(Sample::new("a", 0.0, 100 + second).unwrap());
        }
        // Read again.
        table.push(Sample::new("a", 1.0, 10).unwrap());
        let points = points(&mut table);
        assert_eq!((points.len(), points[0].0, points[63].0), (MAX_POINTS, 1036, 1099));
        assert_eq!(table.rows(0).next().unwrap().recent(2).count(), 2);
    }
}
