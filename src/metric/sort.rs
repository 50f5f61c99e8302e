//! Sorting a series in steps, so that no poll of a task takes long, however long the series is.

use std::{collections::VecDeque, iter::Peekable, vec};

use super::Point;

/// How many points are sorted as one: some 100 microseconds.
const CHUNK: usize = 4096;

/// Sorts points by timestamp. Of the points of one second only the last stays.
///
/// A merge sort, for which chunks of the points are sorted as they are and merged by twos, in rounds. It is
/// stable, as the last of a second has to be known.
#[derive(Clone, Debug)]
pub(super) struct Sort {
    /// What is not in a run yet.
    rest: vec::IntoIter<Point>,
    /// Sorted, in the order of their chunks: at the front those of this round, behind them what it has
    /// made of others.
    runs: VecDeque<Vec<Point>>,
    /// How many runs are left in this round.
    left: usize,
    merge: Option<Merge>,
}

#[derive(Clone, Debug)]
struct Merge {
    first: Peekable<vec::IntoIter<Point>>,
    second: Peekable<vec::IntoIter<Point>>,
    merged: Vec<Point>,
}

impl Sort {
    pub(super) fn new(points: Vec<Point>) -> Self {
        Self { rest: points.into_iter(), runs: VecDeque::new(), left: 0, merge: None }
    }

    /// Goes on, and takes what it does from the budget of points. Returns the points once they are
    /// sorted.
    pub(super) fn step(&mut self, budget: &mut usize) -> Option<Vec<Point>> {
        while *budget > 0 {
            if self.rest.len() > 0 {
                self.sort_chunk(budget);
            } else if let Some(merge) = &mut self.merge {
                if let Some(merged) = merge.step(budget) {
                    self.merge = None;
                    self.runs.push_back(merged);
                }
            } else if self.runs.len() <= 1 {
                return Some(self.runs.pop_front().unwrap_or_default());
            } else {
                self.begin_merge();
            }
        }
        None
    }

    fn sort_chunk(&mut self, budget: &mut usize) {
        let mut chunk = self.rest.by_ref().take(CHUNK).collect::<Vec<_>>();
        *budget = budget.saturating_sub(chunk.len());
        chunk.sort_by_key(|point| point.timestamp);
        let mut run = Vec::with_capacity(chunk.len());
        chunk.into_iter().for_each(|point| push(&mut run, point));
        self.runs.push_back(run);
    }

    fn begin_merge(&mut self) {
        if self.left == 0 {
            self.left = self.runs.len();
        }
        let Some(first) = self.runs.pop_front() else { return };
        self.left -= 1;
        let second = if self.left > 0 { self.runs.pop_front() } else { None };
        match second {
            Some(second) => {
                self.left -= 1;
                let merged = Vec::with_capacity(first.len() + second.len());
                self.merge = Some(Merge {
                    first: first.into_iter().peekable(),
                    second: second.into_iter().peekable(),
                    merged,
                });
            }
            // The last of an odd number waits for the next round.
            None => self.runs.push_back(first),
        }
    }
}

impl Merge {
    fn step(&mut self, budget: &mut usize) -> Option<Vec<Point>> {
        while *budget > 0 {
            *budget -= 1;
            let next = match (self.first.peek(), self.second.peek()) {
                (Some(first), Some(second)) if second.timestamp < first.timestamp => {
                    self.second.next()
                }
                (Some(_), _) => self.first.next(),
                (None, _) => self.second.next(),
            };
            match next {
                Some(point) => push(&mut self.merged, point),
                None => return Some(std::mem::take(&mut self.merged)),
            }
        }
        None
    }
}

/// Adds a point that is not before the last one, which it replaces if both are of one second.
fn push(points: &mut Vec<Point>, point: Point) {
    match points.last_mut() {
        Some(last) if last.timestamp == point.timestamp => *last = point,
        _ => points.push(point),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sorted(points: &[Point], step: usize) -> Vec<Point> {
        let mut sort = Sort::new(points.to_vec());
        loop {
            let mut budget = step;
            if let Some(points) = sort.step(&mut budget) {
                return points;
            }
            assert_eq!(budget, 0);
        }
    }

    // FAULTS C14
    #[test]
    fn points_are_sorted_in_steps_and_the_last_of_a_second_stays() {
        let mut random = fastrand::Rng::with_seed(1);
        for len in [0, 1, 2, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 7, 8 * CHUNK] {
            let points = (0..len)
                .map(|place| Point::new(place as f64, random.i64(0..20_000)))
                .collect::<Vec<_>>();
            let last = points.iter().map(|point| (point.timestamp, point.value));
            let expected = last.collect::<BTreeMap<_, _>>();
            for step in [1, 1000, usize::MAX] {
                let got = sorted(&points, step);
                assert!(
                    got.iter().map(|point| (point.timestamp, point.value)).eq(expected.clone())
                );
            }
        }
    }
}
