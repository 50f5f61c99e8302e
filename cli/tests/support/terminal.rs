//! A terminal of a test's own, in which the program runs.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    process::{Child, ExitStatus},
};

use pty_process::{
    Size,
    blocking::{Command, Pty},
};

use super::metrics;

/// How large the terminal is.
pub const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// A terminal in which a command runs.
pub struct Terminal {
    pub pty: Pty,
    pub process: Child,
    /// What it has printed, with its control sequences.
    raw: Vec<u8>,
    /// What it shows now.
    parser: vt100::Parser,
}

impl Terminal {
    /// Runs the program in a terminal of 80 columns. `change` can redirect its output.
    pub fn start(args: &[&str], change: impl FnOnce(Command) -> Command) -> Self {
        Self::start_program(metrics().get_program(), args, change)
    }

    /// Runs another program.
    pub fn start_program(
        program: impl AsRef<OsStr>,
        args: &[&str],
        change: impl FnOnce(Command) -> Command,
    ) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(ROWS, COLUMNS)).unwrap();
        // Without the variables of this process.
        let command = Command::new(program.as_ref()).args(args).env_clear();
        let process = change(command.env("TERM", "xterm-256color")).spawn(pts).unwrap();
        Self {
            pty,
            process,
            raw: Vec::new(),
            parser: vt100::Parser::new(ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap(), 0),
        }
    }

    /// Reads until the terminal has shown `text`.
    pub fn read_until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.raw).contains(text) {
            assert!(self.read(), "{text} is not in: {}", String::from_utf8_lossy(&self.raw));
        }
    }

    /// Reads until the command has ended.
    pub fn read_to_end(&mut self) -> ExitStatus {
        while self.read() {}
        self.process.wait().unwrap()
    }

    /// Reads something. Returns false if the command has ended: Linux then fails with EIO.
    pub fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let len = self.pty.read(&mut bytes).unwrap_or_default();
        self.raw.extend_from_slice(&bytes[..len]);
        self.parser.process(&bytes[..len]);
        len > 0
    }

    pub fn press_ctrl_c(&mut self) {
        self.pty.write_all(b"\x03").unwrap();
    }

    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// What the screen shows now: without what was drawn over.
    pub fn screen(&self) -> String {
        self.parser.screen().contents()
    }

    /// Returns true if a character on the screen has a colour.
    pub fn has_colour(&self) -> bool {
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        let mut cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        cells.any(|(row, column)| {
            screen.cell(row, column).is_some_and(|cell| cell.fgcolor() != vt100::Color::Default)
        })
    }

    /// Returns true if what is shown will be gone when the program ends.
    pub fn is_alternate(&self) -> bool {
        self.parser.screen().alternate_screen()
    }

    /// Returns true if the cursor cannot be seen.
    pub fn hides_cursor(&self) -> bool {
        self.parser.screen().hide_cursor()
    }

    /// Reads until the screen is as `is_so` says.
    pub fn read_until_screen(&mut self, is_so: impl Fn(&str) -> bool) {
        while !is_so(&self.screen()) {
            assert!(self.read(), "the program ended: {}", self.raw());
        }
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.parser.screen_mut().set_size(rows.try_into().unwrap(), columns.try_into().unwrap());
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    pub fn press(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a command to its end.
pub fn run(args: &[&str], change: impl FnOnce(Command) -> Command) -> (Terminal, ExitStatus) {
    let mut terminal = Terminal::start(args, change);
    let status = terminal.read_to_end();
    (terminal, status)
}
