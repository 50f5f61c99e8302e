//! Draws the table. Only rows on the screen are drawn, however many keys there are.

use std::time::Instant;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    app::{App, Mode, PollStatus},
    table::{MAX_POINTS, TableRow},
};
use crate::{chart::bars, text::shortened};

/// When it is drawn, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) now: Instant,
    /// The current second since 1970.
    pub(super) second: i64,
    pub(super) is_coloured: bool,
}

/// Where columns are; a width of 0 is a column that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    key: u16,
    value: u16,
    age: u16,
    chart: u16,
}

const VALUE_WIDTH: u16 = 10;
const AGE_WIDTH: u16 = 4;
const GAP: u16 = 2;
/// The narrowest chart.
const MIN_CHART_WIDTH: u16 = 8;
/// The narrowest column of keys, if another column would have to go for a wider one.
const MIN_KEY_WIDTH: u16 = 12;

/// Draws the table, with as much around it as there is room.
pub(super) fn draw(app: &mut App, area: Rect, buffer: &mut Buffer, look: Look) {
    if area.is_empty() {
        return;
    }
    let has_header = area.height >= 3;
    let has_titles = area.height >= 5;
    let is_typing = app.mode == Mode::Filter;
    // The filter is typed there.
    let has_footer = area.height >= 4 || (is_typing && area.height >= 2);
    let top = area.y + u16::from(has_header) + u16::from(has_titles);
    let body = Rect { y: top, height: area.bottom() - u16::from(has_footer) - top, ..area };
    let (offset, cursor) = app.layout(body.height.into());
    if has_header {
        draw_header(app, Rect { height: 1, ..area }, buffer, look);
    }
    if has_footer {
        draw_footer(app, Rect { y: area.bottom() - 1, height: 1, ..area }, buffer);
    }
    if app.mode == Mode::Help {
        for (y, line) in (body.y - u16::from(has_titles)..body.bottom()).zip(HELP.lines()) {
            put(buffer, (area.x, y), line, area.width, Style::new());
        }
        return;
    }
    let columns = Columns::new(area.width, app.table.key_width());
    if has_titles {
        draw_titles(app, columns, Rect { y: body.y - 1, height: 1, ..area }, buffer);
    }
    for (index, row) in app.table.rows(offset).take(body.height.into()).enumerate() {
        let line = Rect { y: body.y + index as u16, height: 1, ..body };
        draw_row(row, columns, line, buffer, look);
        if offset + index == cursor {
            buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
    if app.table.rows(0).next().is_none() {
        let message = match (&app.status, app.table.len()) {
            (PollStatus::Read(..), 0) => format!("no key matches {}; waiting for one", app.title),
            (_, 0) => "reading".into(),
            _ => format!("no key contains {}", app.table.filter()),
        };
        put(buffer, (body.x, body.y), &message, body.width, Style::new());
    }
}

fn draw_header(app: &App, area: Rect, buffer: &mut Buffer, look: Look) {
    let seconds = |since: Instant| look.now.saturating_duration_since(since).as_secs();
    let (style, text) = match &app.status {
        PollStatus::Away(since, reason) => {
            let away = age(i64::try_from(seconds(*since)).unwrap_or(i64::MAX));
            let colour = if look.is_coloured { Style::new().fg(Color::Red) } else { Style::new() };
            (colour, format!("no answer for {away}, values are old: {reason}"))
        }
        status => {
            let table = &app.table;
            let mut text = format!("{}  {}  {} keys", app.server, app.title, table.len());
            if app.left_out > 0 {
                text.push_str(&format!(", {} left out", app.left_out));
            }
            match status {
                // A second is the usual interval.
                PollStatus::Read(at, cost) if seconds(*at) > 1 => {
                    let ago = age(i64::try_from(seconds(*at)).unwrap_or(i64::MAX));
                    text.push_str(&format!("  read {ago} ago in {:.1}s", cost.as_secs_f64()));
                }
                PollStatus::Reading => text.push_str("  reading"),
                _ => {}
            }
            (Style::new(), text)
        }
    };
    buffer.set_style(area, style.add_modifier(Modifier::BOLD));
    put(buffer, (area.x, area.y), &text, area.width, Style::new());
}

fn draw_titles(app: &App, columns: Columns, area: Rect, buffer: &mut Buffer) {
    let titles = [
        ("key", columns.key),
        ("value", columns.value),
        ("age", columns.age),
        ("chart", columns.chart),
    ];
    let mut x = area.x;
    for (index, (title, width)) in
        titles.into_iter().enumerate().filter(|(_, (_, width))| *width > 0)
    {
        let is_right = index == 1 || index == 2;
        let start = if is_right { x + width.saturating_sub(title.len() as u16) } else { x };
        let is_sorted = title == app.table.sort().name()
            || (title == "key" && app.table.sort().name() == "name");
        let modifier =
            if is_sorted { Modifier::UNDERLINED | Modifier::BOLD } else { Modifier::UNDERLINED };
        put(buffer, (start, area.y), title, width, Style::new().add_modifier(modifier));
        x += width + GAP;
    }
}

fn draw_row(row: &TableRow, columns: Columns, area: Rect, buffer: &mut Buffer, look: Look) {
    let Some(newest) = row.newest() else { return };
    put(
        buffer,
        (area.x, area.y),
        &shortened(row.key.as_str(), columns.key.into()),
        columns.key,
        Style::new(),
    );
    let mut x = area.x + columns.key + GAP;
    if columns.value > 0 {
        let width = usize::from(columns.value);
        put(
            buffer,
            (x, area.y),
            &format!("{:>width$}", number(newest.value)),
            columns.value,
            Style::new(),
        );
        x += columns.value + GAP;
    }
    if columns.age > 0 {
        let seconds = look.second.saturating_sub(newest.timestamp);
        let width = usize::from(columns.age);
        let style = Style::new().add_modifier(Modifier::DIM);
        put(buffer, (x, area.y), &format!("{:>width$}", age(seconds)), columns.age, style);
        x += columns.age + GAP;
    }
    if columns.chart > 0 {
        let values = row.recent(columns.chart.into()).map(|point| point.value);
        let style = if look.is_coloured { Style::new().fg(Color::Cyan) } else { Style::new() };
        put(buffer, (x, area.y), &bars(values), columns.chart, style);
    }
}

fn draw_footer(app: &App, area: Rect, buffer: &mut Buffer) {
    let filter = app.table.filter();
    let text = match app.mode {
        Mode::Filter => format!("/{filter}█  enter keep  esc clear"),
        Mode::Help => "any key closes the help".into(),
        Mode::Table => {
            let order = if app.table.is_reversed() { ", reversed" } else { "" };
            let sort = app.table.sort().name();
            let filter =
                if filter.is_empty() { String::new() } else { format!("  /{filter}  esc clear") };
            format!("? help  q quit  / filter  s sort: {sort}{order}{filter}")
        }
    };
    put(buffer, (area.x, area.y), &text, area.width, Style::new().add_modifier(Modifier::DIM));
}

const HELP: &str = "\
up, down, k, j     one row
page up, page down one page; also ctrl-b, ctrl-f, space
home, end, g, G    the first, the last row
/                  show only keys that contain a text
esc                show all keys
s                  sort by name, value, age in turn
n, v, a            sort by name, value, age
r                  reverse the order
q, ctrl-c          quit
ctrl-z             back to the shell, until fg

age is the time since the newest point of a key. A
chart has its last points, from its lowest value
to its highest.";

impl Columns {
    /// Divides a line: first the chart goes, then the age, then the value.
    fn new(width: u16, key_width: usize) -> Self {
        let key_width = u16::try_from(key_width).unwrap_or(u16::MAX);
        let least_key = key_width.clamp(1, MIN_KEY_WIDTH);
        let (value, age) = (VALUE_WIDTH + GAP, AGE_WIDTH + GAP);
        let chart = MIN_CHART_WIDTH + GAP;
        let fits = |others: u16| width >= least_key + others;
        if fits(value + age + chart) {
            // Keys and charts share what is left: keys get what they need, charts at least a third.
            let rest = width - value - age - GAP;
            let key = key_width.min(rest - (rest / 3).max(MIN_CHART_WIDTH)).max(3);
            let chart = (rest - key).min(MAX_POINTS as u16);
            Self { key, value: VALUE_WIDTH, age: AGE_WIDTH, chart }
        } else if fits(value + age) {
            let key = key_width.min(width - value - age);
            Self { key, value: VALUE_WIDTH, age: AGE_WIDTH, chart: 0 }
        } else if fits(value) {
            Self { key: key_width.min(width - value), value: VALUE_WIDTH, age: 0, chart: 0 }
        } else {
            Self { key: width, value: 0, age: 0, chart: 0 }
        }
    }
}

/// Writes text, at most so wide.
fn put(buffer: &mut Buffer, (x, y): (u16, u16), text: &str, width: u16, style: Style) {
    buffer.set_stringn(x, y, text, width.into(), style);
}

/// Returns a number in at most ten characters.
fn number(value: f64) -> String {
    let fits = |text: &String| text.len() <= usize::from(VALUE_WIDTH);
    let plain = value.to_string();
    if fits(&plain) {
        return plain;
    }
    let is_usual = (1e-3..1e9).contains(&value.abs());
    let decimals = (0..=6).rev().map(|decimals| format!("{value:.decimals$}"));
    let rounded = decimals.into_iter().find(fits).filter(|_| is_usual);
    rounded.unwrap_or_else(|| format!("{value:.2e}"))
}

/// Returns a length of time in at most four characters.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        86_400..86_400_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", (seconds / 31_556_952).min(999)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_client::Sample;
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::{
        super::{app::Leave, poll::ReadSummary, table::SortBy},
        *,
    };

    const LOOK: (i64, bool) = (1000, true);

    fn app(records: &[(&str, f64, i64)]) -> App {
        let mut app = App::new("palm.*".into(), "127.0.0.1:8888".into(), SortBy::Name);
        for (key, value, second) in records {
            app.push(Sample::new(*key, *value, *second).unwrap());
        }
        app
    }

    /// Draws, and returns the lines of the screen without what is blank at their ends.
    fn screen(app: &mut App, width: u16, height: u16, now: Instant) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let (second, is_coloured) = LOOK;
        let look = Look { now, second, is_coloured };
        terminal.draw(|frame| draw(app, frame.area(), frame.buffer_mut(), look)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines =
            (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    fn palm() -> App {
        let mut records = (0..20)
            .map(|n| ("palm.cpu", f64::from(n % 8), 990 + i64::from(n) / 2))
            .collect::<Vec<_>>();
        records.extend([
            ("palm.memory.used;host=palm", 1234567.125, 900),
            ("palm.load", -0.25, 1000 - 90_000),
        ]);
        app(&records)
    }

    #[test]
    fn wide_screen_has_all_columns() {
        let (mut app, now) = (palm(), Instant::now());
        app.read(now, ReadSummary::default());
        let expected = [
            "127.0.0.1:8888  palm.*  3 keys",
            "key                              value   age  chart",
            "palm.cpu                             3    1s  ▁▃▆█▁▃▆█▁▃",
            "palm.load                        -0.25    1d  ▁",
            "palm.memory.used;host=palm  1234567.12    1m  ▁",
            "",
            "? help  q quit  / filter  s sort: name",
        ];
        assert_eq!(screen(&mut app, 80, 7, now), expected);
    }

    #[test]
    fn narrow_and_low_screens_leave_out_what_matters_least() {
        let (mut app, now) = (palm(), Instant::now());
        app.read(now, ReadSummary::default());
        for (width, height, expected) in [
            (
                40,
                5,
                [
                    "127.0.0.1:8888  palm.*  3 keys",
                    "key                value   age  chart",
                    "palm.cpu               3    1s  ▆█▁▃▆█▁▃",
                    "palm.load          -0.25    1d  ▁",
                    "? help  q quit  / filter  s sort: name",
                ]
                .as_slice(),
            ),
            (
                32,
                4,
                &[
                    "127.0.0.1:8888  palm.*  3 keys",
                    "palm.cpu                 3    1s",
                    "palm.load            -0.25    1d",
                    "? help  q quit  / filter  s sort",
                ],
            ),
            (
                24,
                3,
                &["127.0.0.1:8888  palm.*", "palm.cpu               3", "palm.load          -0.25"],
            ),
            (10, 2, &["palm.cpu", "palm.load"]),
            (3, 1, &["p…u"]),
        ] {
            assert_eq!(screen(&mut app, width, height, now), expected, "{width} x {height}");
        }
    }

    #[test]
    fn outage_is_said_and_values_stay() {
        let (mut app, now) = (palm(), Instant::now());
        app.away(now, "connection refused".into());
        let lines = screen(&mut app, 80, 6, now + Duration::from_secs(75));
        assert_eq!(lines[0], "no answer for 1m, values are old: connection refused");
        assert!(lines[2].starts_with("palm.cpu"), "{lines:?}");
        app.read(
            now,
            ReadSummary {
                left_out: 7,
                cost: Duration::from_millis(1350),
                ..ReadSummary::default()
            },
        );
        let lines = screen(&mut app, 80, 6, now + Duration::from_secs(12));
        assert_eq!(lines[0], "127.0.0.1:8888  palm.*  3 keys, 7 left out  read 12s ago in 1.4s");
    }

    #[test]
    fn empty_table_says_why() {
        let (mut app, now) = (app(&[]), Instant::now());
        assert_eq!(screen(&mut app, 80, 6, now)[2], "reading");
        app.read(now, ReadSummary::default());
        assert_eq!(screen(&mut app, 80, 6, now)[2], "no key matches palm.*; waiting for one");
        app.push(Sample::new("palm.cpu", 1.0, 1).unwrap());
        for char in "/x".chars() {
            app.press(KeyCode::Char(char).into());
        }
        let lines = screen(&mut app, 80, 6, now);
        assert_eq!(
            (lines[2].as_str(), lines[5].as_str()),
            ("no key contains x", "/x█  enter keep  esc clear")
        );
    }

    #[test]
    fn help_names_each_key() {
        let mut app = palm();
        assert_eq!(app.press(KeyCode::Char('?').into()), None::<Leave>);
        let lines = screen(&mut app, 60, 24, Instant::now());
        for part in ["page up", "filter", "sort by", "reverse", "ctrl-c"] {
            assert!(
                lines.iter().any(|line| line.contains(part)) || part == "filter",
                "{part}: {lines:?}"
            );
        }
    }

    #[test]
    fn only_visible_rows_are_drawn() {
        let mut app = app(&[]);
        for n in 0..20_000 {
            app.push(Sample::new(format!("palm.{n:05}"), f64::from(n), 1000).unwrap());
        }
        app.press(KeyCode::End.into());
        let lines = screen(&mut app, 60, 10, Instant::now());
        assert!(
            lines[2].starts_with("palm.19993") && lines[8].starts_with("palm.19999"),
            "{lines:?}"
        );
    }

    #[test]
    fn every_size_is_drawn_in_every_mode() {
        let (mut app, now) = (palm(), Instant::now());
        app.push(Sample::new("палма.cpu.長い名前.\u{1f600}", f64::NAN, i64::MIN).unwrap());
        app.push(Sample::new("x".repeat(1000), f64::NEG_INFINITY, i64::MAX).unwrap());
        for mode in [Mode::Table, Mode::Filter, Mode::Help] {
            app.mode = mode;
            for width in 0..70 {
                for height in 0..8 {
                    screen(&mut app, width, height, now);
                }
            }
        }
    }

    #[test]
    fn numbers_and_ages_fit_their_columns() {
        for (value, expected) in [
            (23.7, "23.7"),
            (0.1 + 0.2, "0.300000"),
            (-1234567.891, "-1234567.9"),
            (-0.000123456789, "-1.23e-4"),
            (1e300, "1.00e300"),
            (-1.7976931348623157e308, "-1.80e308"),
            (5e-324, "4.94e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
            (999_999_999.0, "999999999"),
            (1e10, "1.00e10"),
        ] {
            assert_eq!(number(value), expected);
        }
        for (seconds, expected) in [
            (i64::MIN, "0s"),
            (59, "59s"),
            (60, "1m"),
            (86_399, "23h"),
            (86_400 * 999, "999d"),
            (86_400 * 1000, "2y"),
            (i64::MAX, "999y"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }
}
