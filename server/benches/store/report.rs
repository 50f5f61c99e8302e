//! Results: a Markdown table, and a picture of bars.

use std::{fmt::Write, fs, io, path::Path};

/// The results of a subcommand.
#[derive(Debug)]
pub(crate) struct Report {
    name: &'static str,
    /// Whether the bars count: they are for full runs.
    is_full: bool,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// A measurement, and what it is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    what: String,
    unit: Unit,
    measured: f64,
    /// What it is compared with, what that measured, and the ratio: by itself, or the median of rounds.
    against: Option<(String, f64, f64)>,
    bars: Vec<Bar>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A second.
    Rate,
    Seconds,
    BytesAPoint,
    MiB,
}

/// What the measurement, or its ratio to the reference, has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, measured: f64) -> Self {
        Self { what: what.into(), unit, measured, against: None, bars: Vec::new() }
    }

    /// Compares it with a reference.
    pub(crate) fn against(mut self, what: impl Into<String>, measured: f64) -> Self {
        self.against = Some((what.into(), measured, self.measured / measured));
        self
    }

    /// Compares the medians of interleaved rounds; the ratio is the median of the ratios.
    pub(crate) fn rounds(
        what: impl Into<String>,
        unit: Unit,
        ours: &[f64],
        against: &str,
        theirs: &[f64],
    ) -> Self {
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let mut row = Self::new(what, unit, median(ours));
        row.against = Some((against.into(), median(theirs), median(&ratios)));
        row
    }

    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bars.push(bar);
        self
    }

    fn is_met(&self, bar: Bar) -> bool {
        let ratio = self.against.as_ref().map_or(f64::NAN, |(_, _, ratio)| *ratio);
        match bar {
            Bar::AtLeast(bar) => self.measured >= bar,
            Bar::AtMost(bar) => self.measured <= bar,
            Bar::RatioAtLeast(bar) => ratio >= bar,
            Bar::RatioAtMost(bar) => ratio <= bar,
        }
    }

    fn line(&self) -> String {
        let mut line = format!("| {} | {} |", self.what, self.unit.shown(self.measured));
        match &self.against {
            Some((what, measured, ratio)) => {
                let _ = write!(line, " {what} | {} | {ratio:.2} |", self.unit.shown(*measured));
            }
            None => line.push_str(" – | – | – |"),
        }
        if self.bars.is_empty() {
            return line + " – | – |";
        }
        let bars: Vec<_> = self.bars.iter().map(|&bar| self.unit.bar(bar)).collect();
        let met: Vec<_> =
            self.bars.iter().map(|&bar| if self.is_met(bar) { "yes" } else { "no" }).collect();
        let _ = write!(line, " {} | {} |", bars.join(", "), met.join(", "));
        line
    }
}

impl Unit {
    fn shown(self, value: f64) -> String {
        match self {
            Self::Rate if value >= 1e6 => format!("{} M/s", digits(value / 1e6)),
            Self::Rate if value >= 1e3 => format!("{} k/s", digits(value / 1e3)),
            Self::Rate => format!("{} /s", digits(value)),
            Self::Seconds if value >= 1.0 => format!("{} s", digits(value)),
            Self::Seconds if value >= 1e-3 => format!("{} ms", digits(value * 1e3)),
            Self::Seconds => format!("{} µs", digits(value * 1e6)),
            Self::BytesAPoint => format!("{value:.2} B"),
            Self::MiB => format!("{value:.0} MiB"),
        }
    }

    fn bar(self, bar: Bar) -> String {
        match bar {
            Bar::AtLeast(bar) => format!("≥ {}", self.shown(bar)),
            Bar::AtMost(bar) => format!("≤ {}", self.shown(bar)),
            Bar::RatioAtLeast(bar) => format!("≥ {bar} ×"),
            Bar::RatioAtMost(bar) => format!("≤ {bar} ×"),
        }
    }
}

impl Report {
    pub(crate) fn new(name: &'static str, is_full: bool) -> Self {
        Self { name, is_full, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row, and shows at once that it was measured.
    pub(crate) fn push(&mut self, mut row: Row) {
        if !self.is_full {
            row.bars.clear();
        }
        eprintln!("{}: {}", self.name, row.line());
        self.rows.push(row);
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn print(&self) {
        println!("\n### {}\n", self.name);
        println!("| what | measured | against | its | ratio | bar | met |");
        println!("|---|--:|---|--:|--:|--:|---|");
        self.rows.iter().for_each(|row| println!("{}", row.line()));
        for note in &self.notes {
            println!("\n{note}");
        }
    }

    /// Draws a picture for each unit: two bars for each row, on a logarithmic axis if they differ much.
    pub(crate) fn draw(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        for (unit, suffix) in [
            (Unit::Rate, "rate"),
            (Unit::Seconds, "time"),
            (Unit::BytesAPoint, "bytes"),
            (Unit::MiB, "memory"),
        ] {
            let mut bars = Vec::new();
            for row in self.rows.iter().filter(|row| row.unit == unit) {
                bars.push((row.what.clone(), row.measured, true));
                if let Some((what, measured, _)) = &row.against {
                    bars.push((format!("    {what}"), *measured, false));
                }
            }
            if !bars.is_empty() {
                let file = folder.join(format!("store-{}-{suffix}.svg", self.name));
                fs::write(file, picture(unit, &bars))?;
            }
        }
        Ok(())
    }
}

/// Draws horizontal bars: a name, whose length is proportional to the value, and the value.
fn picture(unit: Unit, bars: &[(String, f64, bool)]) -> String {
    const LINE: usize = 24;
    const NAMES: f64 = 430.0;
    const LONGEST: f64 = 360.0;
    let most = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let height = bars.len() * LINE + 12;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, (name, value, is_ours)) in bars.iter().enumerate() {
        let y = index * LINE + 8;
        let text = y + 14;
        let length = (value / most * LONGEST).max(1.0);
        // Colours that the colour-blind can tell apart (Okabe and Ito, 2008).
        let color = if *is_ours { "#0072b2" } else { "#d55e00" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{}</text>",
            NAMES - 8.0,
            name.trim().replace('&', "&amp;").replace('<', "&lt;"),
            NAMES + length + 6.0,
            unit.shown(*value),
        );
    }
    svg + "</svg>\n"
}

/// Returns the median; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// Returns the value below which this part of the values is; NaN of nothing.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * part) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}
