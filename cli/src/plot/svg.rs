//! A chart as SVG, readable on a light and on a dark page.

use std::fmt::Write;

use super::{Plot, PlotSize};
use crate::{chart::ValueAxis, output::Columned, times};

/// Colours that also colour-blind readers can tell apart, and that are readable on white and on black.
const COLOURS: [&str; 8] =
    ["#2b7fd4", "#d55e00", "#009e73", "#c4699a", "#b8860b", "#4aa3df", "#8f6bd1", "#8a8a8a"];

/// How lines are dashed once all colours are used.
const DASHES: [&str; 3] = ["", " stroke-dasharray=\"6 3\"", " stroke-dasharray=\"2 2\""];

/// Grey with the same contrast on white and on black.
const INK: &str = "#767676";

/// What is around the lines, in pixels.
const TOP: f64 = 10.0;
const RIGHT: f64 = 20.0;
const AXIS_HEIGHT: f64 = 40.0;
const LEGEND_ROW: f64 = 18.0;
/// The width of a digit of the axes.
const DIGIT: f64 = 6.7;

/// Draws a chart with a legend below it.
pub(super) fn draw(plot: &Plot, size: PlotSize) -> String {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let summaries = || plot.series.iter().filter_map(|(_, series)| series.summary());
    let min = summaries().map(|summary| summary.min.value).fold(f64::INFINITY, f64::min);
    let max = summaries().map(|summary| summary.max.value).fold(f64::NEG_INFINITY, f64::max);
    let bottom = height - AXIS_HEIGHT;
    let values = ValueAxis::new(min, max, ((bottom - TOP) / 40.0) as usize);
    let value_ticks = values.ticks();
    let digits = value_ticks.iter().map(|tick| tick.label.len()).max().unwrap_or_default();
    let left = (digits as f64 * DIGIT + 14.0).min(width / 2.0);
    let right = width - RIGHT;
    let x = |fraction: f64| left + fraction * (right - left);
    let y = |fraction: f64| bottom - fraction * (bottom - TOP);
    let total = height + LEGEND_ROW * plot.series.len() as f64 + 6.0;

    let mut svg = Svg(String::new());
    svg.push(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{total}\" viewBox=\"0 0 {width} {total}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{INK}\" role=\"img\">"
    ));
    let names = plot.series.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", ");
    svg.push(format_args!("<title>{}</title>", escaped(&names)));
    svg.push(format_args!(
        "<g stroke=\"{INK}\" stroke-opacity=\"0.3\" shape-rendering=\"crispEdges\">"
    ));
    let time_ticks = plot.time.ticks(((right - left) / 90.0) as usize);
    for tick in &value_ticks {
        let y = y(tick.at);
        svg.push(format_args!("<path d=\"M{left:.1} {y:.1}H{right:.1}\"/>"));
    }
    for tick in &time_ticks {
        let x = x(tick.at);
        svg.push(format_args!("<path d=\"M{x:.1} {TOP}V{:.1}\"/>", bottom + 4.0));
    }
    svg.push(format_args!("</g>"));
    svg.push(format_args!("<g text-anchor=\"end\">"));
    for tick in &value_ticks {
        let (x, y) = (left - 6.0, y(tick.at) + 4.0);
        svg.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", tick.label));
    }
    svg.push(format_args!("</g>"));
    svg.push(format_args!("<g text-anchor=\"middle\">"));
    for tick in &time_ticks {
        // Not beyond the edges.
        let half = tick.label.len() as f64 * DIGIT / 2.0;
        let (x, y) = (x(tick.at).min(width - half).max(half), bottom + 17.0);
        svg.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", tick.label));
    }
    let (start, end) = plot.time.ends();
    svg.push(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\">{} to {}</text>",
        x(0.5),
        bottom + 34.0,
        times::show(start),
        times::show(end)
    ));
    svg.push(format_args!("</g>"));

    for (index, (key, series)) in plot.series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = DASHES[index / COLOURS.len() % DASHES.len()];
        svg.push(format_args!(
            "<g fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-linejoin=\"round\" stroke-linecap=\"round\">"
        ));
        let (mut path, mut dots) = (Path::default(), Path::default());
        for line in series.lines(&plot.time, (right - left) as usize) {
            let points = line.iter().map(|point| {
                (x(plot.time.fraction(point.timestamp)), y(values.fraction(point.value)))
            });
            if line.len() == 1 {
                points.for_each(|point| dots.dot(point));
            } else {
                path.line(points);
            }
        }
        svg.push(format_args!("<path{dash} d=\"{}\"/>", path.0));
        if !dots.0.is_empty() {
            svg.push(format_args!("<path stroke-width=\"5\" d=\"{}\"/>", dots.0));
        }
        let middle = height + LEGEND_ROW * (index as f64 + 0.5);
        svg.push(format_args!("<path{dash} stroke-width=\"3\" stroke-linecap=\"butt\" d=\"M{left:.1} {middle:.1}h24\"/>"));
        svg.push(format_args!("</g>"));
        let Some(summary) = series.summary() else { continue };
        let [min, max, last] =
            [summary.min, summary.max, summary.last].map(|point| Columned(point.value));
        let figures = format!("min {min}  max {max}  last {last}");
        let room = (right - left - 40.0) / DIGIT - figures.len() as f64;
        let name = shortened(key.as_str(), room.max(8.0) as usize);
        svg.push(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" xml:space=\"preserve\">{}  {figures}</text>",
            left + 32.0,
            middle + 4.0,
            escaped(&name)
        ));
    }
    svg.push(format_args!("</svg>"));
    svg.0
}

/// What a path draws.
#[derive(Default)]
struct Path(String);

impl Path {
    /// Draws a line.
    fn line(&mut self, points: impl Iterator<Item = (f64, f64)>) {
        // In tenths of a pixel, so that what rounds does not add up.
        let tenths = points.map(|(x, y)| ((x * 10.0).round(), (y * 10.0).round()));
        let mut last = None;
        for (x, y) in tenths {
            let (command, from) = last.map_or(('M', (0.0, 0.0)), |last| ('l', last));
            self.push(command, (x - from.0, y - from.1));
            last = Some((x, y));
        }
    }

    /// Draws a line without length, which is a dot for its round ends.
    fn dot(&mut self, (x, y): (f64, f64)) {
        self.push('M', ((x * 10.0).round(), (y * 10.0).round()));
        self.0.push_str("h0");
    }

    fn push(&mut self, command: char, (x, y): (f64, f64)) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "{command}{} {}", x / 10.0, y / 10.0);
    }
}

struct Svg(String);

impl Svg {
    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{element}");
    }
}

/// Returns at most `len` characters: the middle of a longer text is left out.
fn shortened(text: &str, len: usize) -> String {
    let chars = text.chars().collect::<Vec<_>>();
    if chars.len() <= len {
        return text.into();
    }
    let (head, tail) = (len / 2, len.saturating_sub(len / 2 + 1));
    let ends = [&chars[..head], &['…'], &chars[chars.len() - tail..]];
    ends.concat().into_iter().collect()
}

/// Escapes text for XML, which has no place for two characters of Unicode.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use metrics_client::{Key, Point};

    use super::*;
    use crate::chart::{BinnedSeries, TimeAxis};

    fn drawn(key: &str, points: &[(i64, f64)]) -> String {
        let mut series = BinnedSeries::new();
        points.iter().for_each(|(second, value)| series.push(Point::new(*value, *second)));
        let ends = series.summary().unwrap();
        let time = TimeAxis::new(ends.first.timestamp, ends.last.timestamp);
        let plot = Plot { series: vec![(Key::new(key).unwrap(), series)], time };
        draw(&plot, PlotSize { width: 800, height: 320 })
    }

    #[test]
    fn line_goes_from_corner_to_corner() {
        // The axis of values has three digits: 3 * 6.7 + 14 = 34.1 pixels.
        let svg = drawn("a", &[(0, 0.0), (100, 100.0)]);
        assert!(svg.contains("<path d=\"M34.1 280l745.9 -270\"/>"), "{svg}");
        assert!(svg.contains("a  min 0  max 100  last 100"), "{svg}");
        assert!(svg.contains("1970-01-01T00:00:00Z to 1970-01-01T00:01:40Z"), "{svg}");
    }

    #[test]
    fn gap_begins_a_line_and_one_point_is_a_dot() {
        let seconds = (0..10).chain(50..60).chain([90]);
        let svg = drawn("a", &seconds.map(|second| (second, 1.0)).collect::<Vec<_>>());
        let path =
            svg.lines().find(|line| line.starts_with("<path d=\"M") && line.contains('l')).unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(svg.matches("h0").count(), 1, "{svg}");
    }

    #[test]
    fn key_is_escaped_and_shortened() {
        let svg = drawn("<&\">\u{ffff}", &[(0, 0.0)]);
        assert!(svg.contains("<title>&lt;&amp;&quot;&gt;\u{fffd}</title>"), "{svg}");
        let long = format!("begin{}end", "x".repeat(1000));
        let svg = drawn(&long, &[(0, 0.0)]);
        let legend = svg.lines().find(|line| line.contains("…")).unwrap();
        assert!(legend.contains(">begin") && legend.contains("end  min"), "{legend}");
        assert!(legend.len() < 250, "{legend}");
    }

    #[test]
    fn size_does_not_grow_with_the_points() {
        let points = (0..500_000).map(|n| (n, f64::from(n as i32 % 1000))).collect::<Vec<_>>();
        let svg = drawn("a", &points);
        assert!(svg.len() < 50_000, "{}", svg.len());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
