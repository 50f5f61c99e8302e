//! What processes may hold.

use std::fmt;

use super::chart::digits;

/// An amount of memory that a bar may have been set for.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) measured: f64,
    pub(super) unit: &'static str,
    pub(super) bar: Option<f64>,
}

/// A line of a Markdown table under [`Row::HEAD`].
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, unit, bar } = self;
        write!(f, "| {what} | {} {unit} |", digits(*measured))?;
        match bar {
            Some(bar) => {
                write!(f, " {bar} {unit} | {} |", if measured <= bar { "yes" } else { "no" })
            }
            None => f.write_str(" – | – |"),
        }
    }
}

impl Row {
    pub(super) const HEAD: &str = "| what | memory | at most | met |\n|---|--:|--:|---|";
}
