//! A chart of characters.

use std::fmt::Write;

use metrics_client::Key;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Color,
    symbols::Marker,
    widgets::{
        Widget,
        canvas::{Canvas, Line, Points},
    },
};

use super::Plot;
use crate::{
    chart::{BinnedSeries, TimeAxis, ValueAxis},
    output::Columned,
    times,
};

/// The colours of the lines, and what selects them on a terminal.
const COLOURS: [(Color, u8); 6] = [
    (Color::Cyan, 36),
    (Color::Yellow, 33),
    (Color::Magenta, 35),
    (Color::Green, 32),
    (Color::Red, 31),
    (Color::Blue, 34),
];

/// The rows of a chart, and of one of several.
const HEIGHT: u16 = 20;
const PANEL_HEIGHT: u16 = 8;

/// Draws a chart with a legend. Without colours, or with more keys than colours, each key has a chart of its own.
pub(super) fn draw(plot: &Plot, width: u16, height: Option<u16>, is_coloured: bool) -> String {
    let series = plot.series.iter().collect::<Vec<_>>();
    let fits = series.len() == 1 || (is_coloured && series.len() <= COLOURS.len());
    let height = height.unwrap_or(if fits { HEIGHT } else { PANEL_HEIGHT });
    let mut text = String::new();
    if fits {
        draw_chart(&mut text, &series, &plot.time, (width, height), is_coloured);
    } else {
        for panel in series.chunks(1) {
            draw_chart(&mut text, panel, &plot.time, (width, height), is_coloured);
        }
    }
    let (start, end) = plot.time.ends();
    push_line(&mut text, format_args!("{} to {}", times::show(start), times::show(end)));
    text
}

fn draw_chart(
    text: &mut String,
    series: &[&(Key, BinnedSeries)],
    time: &TimeAxis,
    (width, height): (u16, u16),
    is_coloured: bool,
) {
    let buffer = chart(series, time, (width, height));
    for y in 0..height {
        let mut line = String::new();
        let mut current = Color::Reset;
        for x in 0..width {
            let cell = &buffer[(x, y)];
            if is_coloured && cell.fg != current && cell.symbol() != " " {
                current = cell.fg;
                push_colour(&mut line, current);
            }
            line.push_str(cell.symbol());
        }
        let trimmed = line.trim_end().len();
        line.truncate(trimmed);
        if current != Color::Reset {
            push_colour(&mut line, Color::Reset);
        }
        push_line(text, format_args!("{line}"));
    }
    for (index, (key, series)) in series.iter().enumerate() {
        let Some(summary) = series.summary() else { continue };
        let (colour, reset) = match COLOURS.get(index) {
            Some((_, code)) if is_coloured => (format!("\x1b[{code}m"), "\x1b[0m"),
            _ => (String::new(), ""),
        };
        let [min, max, last] =
            [summary.min, summary.max, summary.last].map(|point| Columned(point.value));
        push_line(text, format_args!("{colour}──{reset} {key}  min {min}  max {max}  last {last}"));
    }
}

/// Draws axes and lines.
fn chart(series: &[&(Key, BinnedSeries)], time: &TimeAxis, (width, height): (u16, u16)) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let summaries = || series.iter().filter_map(|(_, series)| series.summary());
    let min = summaries().map(|summary| summary.min.value).fold(f64::INFINITY, f64::min);
    let max = summaries().map(|summary| summary.max.value).fold(f64::NEG_INFINITY, f64::max);
    // The last two rows are the axis of time.
    let rows = height - 2;
    let values = ValueAxis::new(min, max, usize::from(rows / 3).max(2));
    let value_ticks = values.ticks();
    let label_width = value_ticks.iter().map(|tick| tick.label.len()).max().unwrap_or_default();
    let label_width = (label_width as u16).min(width / 3);

    let plot = Rect::new(label_width + 1, 0, width - label_width - 1, rows);
    for y in 0..rows {
        buffer.set_string(label_width, y, "│", Color::Reset);
    }
    buffer.set_string(label_width, rows, "└", Color::Reset);
    buffer.set_string(label_width + 1, rows, "─".repeat(plot.width.into()), Color::Reset);
    for tick in value_ticks {
        let y = ((1.0 - tick.at) * f64::from(rows - 1)).round() as u16;
        let label = &tick.label[..tick.label.len().min(label_width.into())];
        buffer.set_string(label_width - label.len() as u16, y, label, Color::Reset);
        buffer.set_string(label_width, y, "┤", Color::Reset);
    }
    let mut free = 0;
    for tick in time.ticks(usize::from(plot.width / 10).max(1)) {
        let x = plot.x + (tick.at * f64::from(plot.width - 1)).round() as u16;
        let len = tick.label.len() as u16;
        let start = x.saturating_sub(len / 2).min(width.saturating_sub(len));
        buffer.set_string(x, rows, "┬", Color::Reset);
        if start >= free && len <= width {
            buffer.set_string(start, rows + 1, &tick.label, Color::Reset);
            free = start + len + 1;
        }
    }

    // Two dots of a character are beside each other.
    let columns = usize::from(plot.width) * 2;
    let canvas =
        Canvas::default().marker(Marker::Braille).x_bounds([0.0, 1.0]).y_bounds([0.0, 1.0]);
    let canvas = canvas.paint(|canvas| {
        for (index, (_, series)) in series.iter().enumerate() {
            let (color, _) = COLOURS[index % COLOURS.len()];
            for line in series.lines(time, columns) {
                let points = line
                    .iter()
                    .map(|point| (time.fraction(point.timestamp), values.fraction(point.value)));
                let points = points.collect::<Vec<_>>();
                canvas.draw(&Points { coords: &points, color });
                for ends in points.windows(2) {
                    let [(x1, y1), (x2, y2)] = [ends[0], ends[1]];
                    canvas.draw(&Line { x1, y1, x2, y2, color });
                }
            }
        }
    });
    canvas.render(plot, &mut buffer);
    buffer
}

fn push_colour(text: &mut String, colour: Color) {
    let code = COLOURS.iter().find(|(known, _)| *known == colour).map_or(0, |(_, code)| *code);
    // Writing to a string does not fail.
    let _ = write!(text, "\x1b[{code}m");
}

fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use metrics_client::Point;

    use super::*;

    fn plot(keys: &[&str]) -> Plot {
        let series = keys.iter().map(|key| {
            let mut series = BinnedSeries::new();
            for second in (0..=40).chain(60..=100) {
                series.push(Point::new(second as f64, second));
            }
            (Key::new(*key).unwrap(), series)
        });
        Plot { series: series.collect(), time: TimeAxis::new(0, 100) }
    }

    #[test]
    fn chart_has_axes_gaps_and_a_legend() {
        let expected = "\
100┤                     ⢀⣀⠤⠒⠉
   │                 ⢀⡠⠴⠚⠉
   │               ⠐⠊⠁
 50┤        ⢀⡠⠄
   │    ⣀⡤⠖⠊⠁
  0┤⣀⠤⠒⠉⠁
   └┬──────────────┬──────────
  01-01          00:01
── a  min 0  max 100  last 100
1970-01-01T00:00:00Z to 1970-01-01T00:01:40Z
";
        assert_eq!(draw(&plot(&["a"]), 30, Some(8), false), expected);
    }

    #[test]
    fn keys_without_colours_have_a_chart_each() {
        let text = |is_coloured| draw(&plot(&["a", "b"]), 30, Some(6), is_coloured);
        assert_eq!(text(true).lines().count(), 6 + 2 + 1);
        assert!(
            text(true).contains("\x1b[36m──\x1b[0m a ")
                && text(true).contains("\x1b[33m──\x1b[0m b ")
        );
        assert_eq!(text(false).lines().count(), 2 * (6 + 1) + 1);
        assert!(!text(false).contains('\x1b'));
        let many = (0..7).map(|n| n.to_string()).collect::<Vec<_>>();
        let many = plot(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(draw(&many, 30, Some(6), true).lines().count(), 7 * (6 + 1) + 1);
    }

    #[test]
    fn smallest_and_largest_chart_are_drawn() {
        for width in [super::super::TERM_WIDTHS.0, super::super::TERM_WIDTHS.1] {
            for height in [super::super::TERM_HEIGHTS.0, super::super::TERM_HEIGHTS.1] {
                let text = draw(&plot(&["a"]), width, Some(height), false);
                let rows = text.lines().take(height.into()).collect::<Vec<_>>();
                assert!(rows.iter().all(|row| row.chars().count() <= width.into()), "{text}");
                assert_eq!(text.lines().count(), usize::from(height) + 2);
            }
        }
    }
}
