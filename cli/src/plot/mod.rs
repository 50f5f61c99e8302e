//! `metrics plot`: a chart of what is stored, for a terminal or as SVG.

mod read;
mod svg;
mod term;

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::ValueEnum;
use metrics_client::Key;

use crate::{
    bulk::RangeArgs,
    chart::{BinnedSeries, TimeAxis},
    connect::{ServerArgs, block_on},
    failure::{Failure, Status},
    screen,
    selection::Selection,
};

/// Draws what is stored for some keys
///
/// The lowest and the highest value are drawn however many points there are. A line breaks where points are further
/// apart than three times the usual. Times are in UTC. The chart begins at --from and ends at --until, or where the
/// points do.
#[derive(Debug, clap::Args)]
pub(crate) struct PlotArgs {
    /// A key or a pattern: * is any number of characters, ? is one. A pattern reads all keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    range: RangeArgs,
    /// Sets what is drawn [default: svg if the name of --file ends with .svg, term otherwise]
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    format: Option<Picture>,
    /// Writes the chart to this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Sets the width: columns [default: those of the terminal, or 80] or, of an SVG, pixels [default: 800]
    #[arg(long, value_name = "N")]
    width: Option<u16>,
    /// Sets the height without the legend: rows [default: 20, or 8 for each of several charts] or, of an SVG, pixels
    /// [default: 320]
    #[arg(long, value_name = "N")]
    height: Option<u16>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `plot` draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Picture {
    /// Characters
    Term,
    /// A vector graphic
    Svg,
}

/// What is drawn: keys with points, and the time that they share.
#[derive(Debug)]
struct Plot {
    series: Vec<(Key, BinnedSeries)>,
    time: TimeAxis,
}

/// How large it is drawn.
#[derive(Clone, Copy, Debug)]
struct PlotSize {
    width: u16,
    height: u16,
}

/// The smallest and the largest chart, in characters and in pixels. Points are kept for [4,096 columns](BinnedSeries).
const TERM_WIDTHS: (u16, u16) = (20, 1000);
const TERM_HEIGHTS: (u16, u16) = (4, 500);
const SVG_WIDTHS: (u16, u16) = (200, 4000);
const SVG_HEIGHTS: (u16, u16) = (100, 4000);

pub(crate) fn run(args: &PlotArgs) -> Result<(), Failure> {
    args.range.check()?;
    let picture = args.picture();
    let (widths, heights) = match picture {
        Picture::Term => (TERM_WIDTHS, TERM_HEIGHTS),
        Picture::Svg => (SVG_WIDTHS, SVG_HEIGHTS),
    };
    check("--width", args.width, widths)?;
    check("--height", args.height, heights)?;
    let selection = Selection::new(&args.keys)?;
    let series = block_on(read::read(&args.server, &selection, args.range))?;
    let plot = Plot::new(series, args)?;
    let is_coloured = args.file.is_none() && io::stdout().is_terminal() && screen::has_colours();
    let text = match picture {
        Picture::Term => {
            let width = args.width.unwrap_or_else(|| terminal_width(args.file.is_none()));
            term::draw(&plot, width, args.height, is_coloured)
        }
        Picture::Svg => {
            let (width, height) = (args.width.unwrap_or(800), args.height.unwrap_or(320));
            svg::draw(&plot, PlotSize { width, height })
        }
    };
    match &args.file {
        None => Ok(io::stdout().write_all(text.as_bytes())?),
        Some(file) => fs::write(file, text)
            .map_err(|error| Failure::usage(format!("cannot write {}: {error}", file.display()))),
    }
}

impl PlotArgs {
    fn picture(&self) -> Picture {
        let file = self.file.as_deref().and_then(|file| file.extension());
        let is_svg = file.is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        self.format.unwrap_or(if is_svg { Picture::Svg } else { Picture::Term })
    }
}

impl Plot {
    /// Takes what can be drawn, and says what cannot.
    ///
    /// # Errors
    ///
    /// Returns an error if there is nothing to draw.
    fn new(series: Vec<(Key, BinnedSeries)>, args: &PlotArgs) -> Result<Self, Failure> {
        let names = args.keys.join(" ");
        let (series, empty) =
            series.into_iter().partition::<Vec<_>, _>(|(_, series)| series.summary().is_some());
        let skipped = series.iter().chain(&empty).map(|(_, series)| series.skipped()).sum::<u64>();
        if skipped > 0 {
            eprintln!("values that are not finite are left out: {skipped}");
        }
        let ends = series.iter().filter_map(|(_, series)| series.summary());
        let start = ends.clone().map(|ends| ends.first.timestamp).min();
        let end = ends.map(|ends| ends.last.timestamp).max();
        let (Some(start), Some(end)) = (start, end) else {
            let message = format!("nothing is stored for {names} in this range");
            return Err(Failure::new(Status::NotFound, message));
        };
        for (key, _) in empty {
            eprintln!("nothing is stored for {key} in this range");
        }
        let (from, until) = args.range.bounds();
        let time = TimeAxis::new(from.unwrap_or(start), until.unwrap_or(end));
        Ok(Self { series, time })
    }
}

/// Checks a size.
fn check(option: &str, size: Option<u16>, (min, max): (u16, u16)) -> Result<(), Failure> {
    match size {
        Some(size) if !(min..=max).contains(&size) => {
            Err(Failure::usage(format!("invalid {option} {size}: use {min} to {max}")))
        }
        _ => Ok(()),
    }
}

/// Returns the columns of the terminal to draw on.
fn terminal_width(is_stdout: bool) -> u16 {
    let is_terminal = is_stdout && io::stdout().is_terminal();
    let size = is_terminal.then(|| ratatui::crossterm::terminal::size().ok()).flatten();
    // A terminal that does not know its size says 0.
    let width = size.map(|(width, _)| width).filter(|width| *width > 0).unwrap_or(80);
    width.clamp(TERM_WIDTHS.0, TERM_WIDTHS.1)
}
