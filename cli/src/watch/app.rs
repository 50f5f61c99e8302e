//! What the table shows, and what keys do. Pure state: draws nothing, reads nothing.

use std::time::{Duration, Instant};

use metrics_client::Sample;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    poll::ReadSummary,
    table::{SortBy, Table},
};

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) table: Table,
    pub(super) mode: Mode,
    pub(super) status: PollStatus,
    /// What was asked for.
    pub(super) title: String,
    pub(super) server: String,
    /// Selected keys that are not in the table, because there are too many.
    pub(super) left_out: usize,
    /// The row with the cursor, and the first one on the screen.
    cursor: usize,
    offset: usize,
    /// How many rows the screen has.
    page: usize,
}

/// What keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    /// They are the filter's text.
    Filter,
    Help,
}

/// How the server is.
#[derive(Clone, Debug)]
pub(super) enum PollStatus {
    /// Nothing was read to the end yet.
    Reading,
    /// Everything was read then, in this time.
    Read(Instant, Duration),
    /// It does not answer since then, for this reason.
    Away(Instant, String),
}

/// Why the table is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Quit,
    Interrupt,
    /// For as long as the program is stopped.
    Suspend,
}

impl App {
    pub(super) fn new(title: String, server: String, sort: SortBy) -> Self {
        Self {
            table: Table::new(sort),
            mode: Mode::Table,
            status: PollStatus::Reading,
            title,
            server,
            left_out: 0,
            cursor: 0,
            offset: 0,
            page: 1,
        }
    }

    pub(super) fn push(&mut self, sample: Sample) {
        self.table.push(sample);
    }

    /// Notes that everything was read.
    pub(super) fn read(&mut self, now: Instant, read: ReadSummary) {
        self.left_out = read.left_out;
        self.status = PollStatus::Read(now, read.cost);
    }

    /// Notes that the server failed.
    pub(super) fn away(&mut self, now: Instant, reason: String) {
        let since = if let PollStatus::Away(since, _) = self.status { since } else { now };
        self.status = PollStatus::Away(since, reason);
    }

    /// Arranges the table for a screen of `page` rows. Returns the first of them and the one with the cursor.
    pub(super) fn layout(&mut self, page: usize) -> (usize, usize) {
        let count = self.table.arrange();
        self.page = page.max(1);
        self.cursor = self.cursor.min(count.saturating_sub(1));
        let last_offset = count.saturating_sub(self.page);
        let offset = self.offset.clamp((self.cursor + 1).saturating_sub(self.page), self.cursor);
        self.offset = offset.min(last_offset);
        (self.offset, self.cursor)
    }

    /// Does what a key is for. Returns why the table is left, if it is.
    pub(super) fn press(&mut self, event: KeyEvent) -> Option<Leave> {
        if event.kind == KeyEventKind::Release {
            return None;
        }
        let is_control = event.modifiers.contains(KeyModifiers::CONTROL);
        match event.code {
            KeyCode::Char('c') if is_control => return Some(Leave::Interrupt),
            KeyCode::Char('z') if is_control && cfg!(unix) => return Some(Leave::Suspend),
            _ if self.mode == Mode::Filter => self.edit(event.code, is_control),
            _ if self.mode == Mode::Help => {
                self.mode = Mode::Table;
                // It closes the help, and not the program.
                return None;
            }
            KeyCode::Char('q') => return Some(Leave::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.table.set_filter(""),
            KeyCode::Char('s') => self.table.sort_by(self.table.sort().next()),
            KeyCode::Char('n') => self.table.sort_by(SortBy::Name),
            KeyCode::Char('v') => self.table.sort_by(SortBy::Value),
            KeyCode::Char('a') => self.table.sort_by(SortBy::Age),
            KeyCode::Char('r') => self.table.reverse(),
            code => self.go(code, is_control),
        }
        None
    }

    /// Moves the cursor.
    fn go(&mut self, code: KeyCode, is_control: bool) {
        let page = self.page;
        let back = |from: &mut usize, by: usize| *from = from.saturating_sub(by);
        let cursor = &mut self.cursor;
        match code {
            KeyCode::Up | KeyCode::Char('k') => back(cursor, 1),
            KeyCode::Down | KeyCode::Char('j') => *cursor += 1,
            KeyCode::PageUp => back(cursor, page),
            KeyCode::Char('b') if is_control => back(cursor, page),
            KeyCode::PageDown | KeyCode::Char(' ') => *cursor += page,
            KeyCode::Char('f') if is_control => *cursor += page,
            KeyCode::Home | KeyCode::Char('g') => *cursor = 0,
            KeyCode::End | KeyCode::Char('G') => *cursor = usize::MAX - 1,
            _ => {}
        }
        // So that the next step up is seen, however far it went beyond the end.
        let count = self.table.arrange();
        self.cursor = self.cursor.min(count.saturating_sub(1));
    }

    /// Changes the filter.
    fn edit(&mut self, code: KeyCode, is_control: bool) {
        let mut filter = self.table.filter().to_owned();
        match code {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace if filter.pop().is_none() => self.mode = Mode::Table,
            KeyCode::Backspace => {}
            KeyCode::Char('u') if is_control => filter.clear(),
            KeyCode::Char(char) if !is_control => filter.push(char),
            code => return self.go(code, false),
        }
        self.table.set_filter(&filter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(count: usize) -> App {
        let mut app = App::new("*".into(), "server".into(), SortBy::Name);
        for n in 0..count {
            app.push(Sample::new(format!("key{n:03}"), n as f64, 1).unwrap());
        }
        app
    }

    fn press(app: &mut App, code: KeyCode) -> Option<Leave> {
        app.press(code.into())
    }

    #[test]
    fn cursor_stays_on_the_screen_and_in_the_table() {
        let mut app = app(100);
        assert_eq!(app.layout(10), (0, 0));
        for (code, expected) in [
            (KeyCode::Down, (0, 1)),
            (KeyCode::PageDown, (2, 11)),
            (KeyCode::End, (90, 99)),
            (KeyCode::Down, (90, 99)),
            (KeyCode::Up, (90, 98)),
            (KeyCode::PageUp, (88, 88)),
            (KeyCode::Home, (0, 0)),
            (KeyCode::Up, (0, 0)),
        ] {
            press(&mut app, code);
            assert_eq!(app.layout(10), expected, "{code:?}");
        }
        press(&mut app, KeyCode::End);
        // A taller screen, then a filter that leaves ten.
        assert_eq!(app.layout(40), (60, 99));
        for char in "/key00".chars() {
            press(&mut app, KeyCode::Char(char));
        }
        assert_eq!(app.layout(40), (0, 9));
        assert_eq!(app.layout(0), (9, 9));
    }

    #[test]
    fn filter_is_typed_kept_and_cleared() {
        let mut app = app(30);
        for char in "/1q".chars() {
            assert_eq!(press(&mut app, KeyCode::Char(char)), None);
        }
        assert_eq!((app.table.arrange(), app.table.filter()), (0, "1q"));
        press(&mut app, KeyCode::Backspace);
        press(&mut app, KeyCode::Enter);
        assert_eq!((app.mode, app.table.arrange()), (Mode::Table, 12));
        press(&mut app, KeyCode::Esc);
        assert_eq!((app.table.arrange(), app.table.filter()), (30, ""));
        press(&mut app, KeyCode::Char('/'));
        press(&mut app, KeyCode::Backspace);
        assert_eq!(app.mode, Mode::Table);
    }

    #[test]
    fn q_leaves_and_ctrl_c_interrupts_anywhere() {
        let mut app = app(1);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut app, KeyCode::Char('?')), None);
        assert_eq!(press(&mut app, KeyCode::Char('q')), None);
        assert_eq!(app.mode, Mode::Table);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Leave::Quit));
        for mode in [Mode::Table, Mode::Filter, Mode::Help] {
            app.mode = mode;
            assert_eq!(app.press(ctrl_c), Some(Leave::Interrupt));
        }
    }

    #[test]
    fn outage_begins_once() {
        let mut app = app(1);
        let (first, second) = (Instant::now(), Instant::now());
        app.away(first, "one".into());
        app.away(second, "other".into());
        assert!(
            matches!(&app.status, PollStatus::Away(since, reason) if *since == first && reason == "other")
        );
        app.read(second, ReadSummary::default());
        assert!(matches!(app.status, PollStatus::Read(..)));
    }
}
