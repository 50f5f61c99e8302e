//! [`Series`]: what functions take and return, and consolidation to fewer points.

use std::borrow::Cow;

use metrics_client::Key;

/// A series of values at a fixed step.
///
/// Functions compute with missing values, which are `NaN` here: a store keeps none.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name, which is shown as the `target`.
    pub name: String,
    /// The tags.
    pub tags: Tags,
    /// The second of the first value.
    pub start: i64,
    /// The end: the second behind the last value.
    pub end: i64,
    /// The seconds between two values, at least 1.
    pub step: i64,
    /// The values. `NaN` stands for a missing one.
    pub values: Vec<f64>,
    /// The expression from which the names of functions of several series are made.
    pub(super) path: String,
    pub(super) consolidation: Consolidation,
    /// Which part of the values must be present for a consolidated value, from 0 to 1.
    pub(super) x_files_factor: f64,
}

impl Series {
    /// Creates a series with the tags that its name says.
    pub(super) fn new(name: String, start: i64, end: i64, step: i64, values: Vec<f64>) -> Self {
        let tags = Tags::of_name(&name);
        Self {
            path: name.clone(),
            name,
            tags,
            start,
            end,
            step,
            values,
            consolidation: Consolidation::Average,
            x_files_factor: 0.0,
        }
    }

    /// Returns a series with other values, made by the function that is in its name.
    pub(super) fn derived(self, name: String, values: Vec<f64>) -> Self {
        Self { path: name.clone(), name, values, ..self }
    }

    /// Sets the name, also as the expression of the series.
    pub(super) fn rename(&mut self, name: String) {
        self.path.clone_from(&name);
        self.name = name;
    }

    /// Returns the values, `count` of them consolidated to each one.
    pub(super) fn consolidated(&self, count: usize) -> Cow<'_, [f64]> {
        if count <= 1 {
            return Cow::Borrowed(&self.values);
        }
        let chunks = self.values.chunks(count);
        let value = |chunk| self.consolidation.of(chunk, count, self.x_files_factor);
        Cow::Owned(chunks.map(value).collect())
    }
}

/// How values are consolidated when there are more than are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consolidation {
    Sum,
    Average,
    /// As if missing values were zero.
    AverageZero,
    Max,
    Min,
    First,
    Last,
}

impl Consolidation {
    pub(super) const NAMES: &[&str] =
        &["sum", "average", "avg", "avg_zero", "min", "max", "first", "last"];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "sum" => Self::Sum,
            "average" | "avg" => Self::Average,
            "avg_zero" => Self::AverageZero,
            "max" => Self::Max,
            "min" => Self::Min,
            "first" => Self::First,
            "last" => Self::Last,
            _ => return None,
        })
    }

    /// Returns one value for `values`, of which there would be `count` in a full interval.
    fn of(self, values: &[f64], count: usize, x_files_factor: f64) -> f64 {
        let mut present = values.iter().copied().filter(|value| !value.is_nan());
        let non_null = present.clone().count();
        if non_null == 0 || (non_null as f64 / count as f64) < x_files_factor {
            return f64::NAN;
        }
        match self {
            Self::Sum => sum(present),
            Self::Average => sum(present) / non_null as f64,
            Self::AverageZero => sum(present) / values.len() as f64,
            Self::Max => present.fold(f64::NEG_INFINITY, f64::max),
            Self::Min => present.fold(f64::INFINITY, f64::min),
            Self::First => present.next().unwrap_or(f64::NAN),
            Self::Last => present.next_back().unwrap_or(f64::NAN),
        }
    }
}

/// Adds values from positive zero on.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// The tags of a [`Series`], in the order in which they were set. Each has a name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

impl Tags {
    /// Returns the tags in a name, `name` among them: `cpu;host=palm` has two.
    pub(super) fn of_name(name: &str) -> Self {
        let whole = || Self(vec![("name".into(), name.into())]);
        // The name of a function's result is not taken apart.
        if !name.contains(';') || is_call(name) {
            return whole();
        }
        let Ok(key) = Key::new(name) else { return whole() };
        let (metric, labels) = key.labels().into_parts();
        let mut tags = Self::default();
        for (tag, value) in labels {
            if tag.is_empty() || value.is_empty() {
                return whole();
            }
            tags.set(tag, value);
        }
        tags.set("name", metric.trim_start_matches('~'));
        tags
    }

    /// Returns the value of a tag.
    #[must_use]
    pub fn get(&self, tag: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == tag).map(|(_, value)| value.as_str())
    }

    /// Iterates over tags and their values.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(tag, value)| (tag.as_str(), value.as_str()))
    }

    pub(super) fn set(&mut self, tag: impl Into<String>, value: impl Into<String>) {
        let (tag, value) = (tag.into(), value.into());
        match self.0.iter_mut().find(|(name, _)| *name == tag) {
            Some((_, old)) => *old = value,
            None => self.0.push((tag, value)),
        }
    }

    /// Keeps the tags that `other` has with the same value.
    pub(super) fn intersect(&mut self, other: &Self) {
        self.0.retain(|(tag, value)| other.get(tag) == Some(value));
    }
}

/// Returns true for `name(..)`, where the name consists of letters.
fn is_call(text: &str) -> bool {
    text.split_once('(').is_some_and(|(name, rest)| {
        !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphabetic())
            && rest.len() > 1
            && rest.ends_with(')')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: f64 = f64::NAN;

    fn series(values: &[f64]) -> Series {
        Series::new("a".into(), 0, values.len() as i64, 1, values.to_vec())
    }

    fn text(values: &[f64]) -> String {
        format!("{values:?}")
    }

    #[test]
    fn consolidation_skips_missing_values() {
        let mut series = series(&[1.0, N, 5.0, N, N, N, 7.0]);
        for (consolidation, expected) in [
            (Consolidation::Average, [3.0, N, 7.0]),
            (Consolidation::AverageZero, [2.0, N, 7.0]),
            (Consolidation::Sum, [6.0, N, 7.0]),
            (Consolidation::Max, [5.0, N, 7.0]),
            (Consolidation::Min, [1.0, N, 7.0]),
            (Consolidation::First, [1.0, N, 7.0]),
            (Consolidation::Last, [5.0, N, 7.0]),
        ] {
            series.consolidation = consolidation;
            assert_eq!(text(&series.consolidated(3)), text(&expected), "{consolidation:?}");
        }
        // The last interval has one of three values.
        series.x_files_factor = 0.5;
        assert_eq!(text(&series.consolidated(3)), text(&[5.0, N, N]));
        assert!(matches!(series.consolidated(1), Cow::Borrowed(_)));
    }

    #[test]
    fn tags_are_read_from_the_name() {
        let tags = |name| {
            let tags = Tags::of_name(name);
            tags.iter().map(|(tag, value)| format!("{tag}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(tags("palm.cpu"), "name=palm.cpu");
        assert_eq!(tags("cpu;host=palm;os=a%20b"), "host=palm os=a b name=cpu");
        assert_eq!(tags("cpu;host"), "name=cpu;host");
        assert_eq!(tags("sum(cpu;host=palm)"), "name=sum(cpu;host=palm)");
        assert_eq!(tags("not a key;x=y"), "name=not a key;x=y");
    }

    #[test]
    fn tags_that_differ_are_not_in_the_intersection() {
        let mut tags = Tags::of_name("cpu;dc=a;host=palm");
        tags.intersect(&Tags::of_name("cpu;dc=a;host=elm"));
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("dc", "a"), ("name", "cpu")]);
    }
}
