//! What a command prints: samples as a table, JSON, CSV, or lines that `import` reads.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Stdout, StdoutLock, Write},
};

use clap::{Args, ValueEnum};
use metrics_client::{Key, Point};
use serde::Serialize;

use crate::{failure::Failure, times};

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Sets how samples are printed [default: table on a terminal, line elsewhere]
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people: time, value, key
    Table,
    /// One JSON object a line
    Json,
    /// Comma-separated values with a header
    Csv,
    /// `put` lines, as `import` and the server read them
    Line,
}

impl OutputArgs {
    /// Returns the format that was asked for, or the one that suits standard output.
    pub(crate) fn format(self) -> Format {
        self.format_or(if io::stdout().is_terminal() { Format::Table } else { Format::Line })
    }

    /// Returns true if a format was asked for.
    pub(crate) fn is_set(self) -> bool {
        self.format.is_some()
    }

    /// Returns the format that was asked for, or `other`.
    pub(crate) fn format_or(self, other: Format) -> Format {
        self.format.unwrap_or(other)
    }
}

/// Prints samples to standard output.
pub(crate) struct Printer {
    format: Format,
    out: BufWriter<StdoutLock<'static>>,
    has_begun: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: f64,
    timestamp: i64,
}

/// A number that fits into a column of a table: with an exponent where it would be too long without.
pub(crate) struct Columned(pub(crate) f64);

impl fmt::Display for Columned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = self;
        let plain = value.to_string();
        f.pad(&if plain.len() <= 16 { plain } else { format!("{value:e}") })
    }
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        let stdout: Stdout = io::stdout();
        Self { format, out: BufWriter::with_capacity(64 * 1024, stdout.lock()), has_begun: false }
    }

    /// Prints one sample.
    ///
    /// # Errors
    ///
    /// Returns an error if standard output cannot be written to.
    pub(crate) fn print(&mut self, key: &Key, point: Point) -> Result<(), Failure> {
        let begins = !std::mem::replace(&mut self.has_begun, true);
        let row = Row { key: key.as_str(), value: point.value, timestamp: point.timestamp };
        match self.format {
            Format::Table => {
                if begins {
                    writeln!(self.out, "{:<20}  {:>16}  key", "time", "value")?;
                }
                writeln!(
                    self.out,
                    "{:<20}  {:>16}  {}",
                    times::show(row.timestamp),
                    Columned(row.value),
                    row.key
                )?;
            }
            Format::Json => {
                serde_json::to_writer(&mut self.out, &row)?;
                writeln!(self.out)?;
            }
            Format::Csv => {
                let mut csv =
                    csv::WriterBuilder::new().has_headers(begins).from_writer(&mut self.out);
                csv.serialize(row)?;
                csv.flush()?;
            }
            Format::Line => {
                writeln!(self.out, "put {} {:?} {}", row.key, row.value, row.timestamp)?;
            }
        }
        Ok(())
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// Returns an error if standard output cannot be written to.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Writes what is buffered, and ends.
    ///
    /// # Errors
    ///
    /// Returns an error if standard output cannot be written to.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_have_exponents_in_columns() {
        for (value, expected) in [
            (23.7, "  23.7"),
            (-0.5, "  -0.5"),
            (1e300, " 1e300"),
            (5e-324, "5e-324"),
            (1e6, "1000000"),
            (123_456_789.123, "123456789.123"),
            (0.1 + 0.2, "3.0000000000000004e-1"),
        ] {
            assert_eq!(format!("{:>6}", Columned(value)), expected);
        }
    }
}
