//! Results as a table and as a picture.

use std::{error::Error, fmt, ops::Range, path::Path};

use plotters::prelude::*;

use crate::scenario::interleave::Quartiles;

/// How one cost grows: some lines over the same values of `x`, on logarithmic axes.
#[derive(Debug)]
pub(super) struct Chart {
    /// The picture's name, without its ending.
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    /// What the lines measure, with its unit.
    pub(super) y: &'static str,
    pub(super) lines: Vec<Line>,
}

/// A name, and what was measured for each value of x.
#[derive(Debug)]
pub(super) struct Line {
    name: &'static str,
    measurements: Vec<(usize, Vec<f64>)>,
}

impl Line {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, measurements: Vec::new() }
    }

    /// Adds a measurement to those for `x`.
    pub(super) fn push(&mut self, x: usize, y: f64) {
        match self.measurements.iter_mut().find(|(at, _)| *at == x) {
            Some((_, measurements)) => measurements.push(y),
            None => self.measurements.push((x, vec![y])),
        }
    }

    /// For each value of x, what counts.
    fn medians(&self) -> impl Iterator<Item = (f64, f64)> {
        self.measurements.iter().map(|(x, measurements)| {
            (*x as f64, Quartiles::of(measurements.iter().copied()).median)
        })
    }
}

/// A Markdown table with a heading.
impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        write!(f, "| {} |", self.x)?;
        for line in &self.lines {
            write!(f, " {}, {} |", line.name, self.y)?;
        }
        writeln!(f, "\n|--:|{}", "--:|".repeat(self.lines.len()))?;
        let lines: Vec<Vec<_>> = self.lines.iter().map(|line| line.medians().collect()).collect();
        for (row, (x, _)) in lines.iter().take(1).flatten().enumerate() {
            write!(f, "| {} |", scaled(*x))?;
            for line in &lines {
                write!(f, " {} |", digits(line[row].1))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Chart {
    /// Draws an SVG into `folder`.
    pub(super) fn draw(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let points = || self.lines.iter().flat_map(Line::medians);
        if points().next().is_none() {
            return Ok(());
        }
        let path = folder.join(self.file).with_extension("svg");
        let picture = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        // Without it black letters would stand on whatever page shows the picture.
        picture.fill(&WHITE)?;
        let (left, legend) = picture.split_horizontally(WIDTH - LEGEND_WIDTH);
        let mut plot = ChartBuilder::on(&left)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                decades(points().map(|point| point.0)).log_scale(),
                decades(points().map(|point| point.1)).log_scale(),
            )?;
        plot.configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|&x| scaled(x))
            .y_label_formatter(&|&y| scaled(y))
            .label_style(("sans-serif", 13))
            .bold_line_style(BLACK.mix(0.25))
            .light_line_style(BLACK.mix(0.08))
            .draw()?;
        for ((line, color), at) in self.lines.iter().zip(COLORS).zip(1..) {
            let style = color.stroke_width(2);
            plot.draw_series(LineSeries::new(line.medians(), style))?;
            let dots = line.medians().map(|point| Circle::new(point, 4, color.filled()));
            plot.draw_series(dots)?;
            let y = at * LEGEND_LINE + 24;
            legend.draw(&PathElement::new([(0, y), (24, y)], style))?;
            legend.draw(&Circle::new((12, y), 4, color.filled()))?;
            legend.draw(&Text::new(line.name, (32, y - 7), ("sans-serif", 14)))?;
        }
        picture.present()?;
        Ok(())
    }
}

const WIDTH: u32 = 820;
const HEIGHT: u32 = 420;
const LEGEND_WIDTH: u32 = 220;
const LEGEND_LINE: i32 = 24;

/// Colours that the colour-blind can tell apart (Okabe and Ito, 2008).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// The powers of ten around `values`, two at least: a flat line looks flat whatever it measures.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values
        .fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    let first = least.log10().floor();
    let last = most.log10().ceil().max(first + 2.0);
    10f64.powf(first)..10f64.powf(last)
}

/// A round number, short: `500`, `10 k`, `1 M`.
fn scaled(number: f64) -> String {
    match number {
        1e6.. => format!("{} M", number / 1e6),
        1e3.. => format!("{} k", number / 1e3),
        _ => format!("{number}"),
    }
}

/// A measurement with three digits.
pub(super) fn digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}
