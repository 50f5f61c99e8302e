//! Limits of memory, as rows of a table.

use std::fmt;

use super::chart::digits;

/// An amount of memory that a limit may have been set for.
#[derive(Debug)]
pub(super) struct MemoryRow {
    pub(super) what: String,
    pub(super) measured: f64,
    pub(super) unit: &'static str,
    pub(super) limit: Option<f64>,
}

/// A line of a Markdown table under [`MemoryRow::HEAD`].
impl fmt::Display for MemoryRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, unit, limit } = self;
        write!(f, "| {what} | {} {unit} |", digits(*measured))?;
        match limit {
            Some(limit) => {
                write!(f, " {limit} {unit} | {} |", if measured <= limit { "yes" } else { "no" })
            }
            None => f.write_str(" – | – |"),
        }
    }
}

impl MemoryRow {
    pub(super) const HEAD: &str = "| what | memory | at most | met |\n|---|--:|--:|---|";
}
