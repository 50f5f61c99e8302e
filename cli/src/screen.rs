//! The terminal: what it can do, and its whole screen.

use std::{env, io};

use ratatui::{DefaultTerminal, Frame};

/// Returns true unless `NO_COLOR` is set and not empty, or the terminal says that it has none.
pub(crate) fn has_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb()
}

/// Returns true if the terminal can place no cursor.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// The whole screen of the terminal, which is restored when this is dropped, and before a panic is printed.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Clears the screen, and reads keys as they are pressed.
    ///
    /// # Errors
    ///
    /// If standard output is no terminal.
    pub(crate) fn open() -> io::Result<Self> {
        // It restores the terminal in a panic hook, too.
        let terminal = ratatui::try_init().inspect_err(|_| restore())?;
        Ok(Self { terminal })
    }

    /// Draws what has changed.
    ///
    /// # Errors
    ///
    /// If the terminal has gone.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Gives the terminal back to the shell, and stops the program until the shell continues it.
    ///
    /// # Errors
    ///
    /// If the terminal has gone.
    #[cfg(unix)]
    pub(crate) fn suspend(&mut self) -> io::Result<()> {
        self.give_back();
        // The whole group, because the shell waits for that: a pipeline, or a script that runs this.
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        // Here it was continued.
        self.resume()
    }

    /// Takes the terminal again, as it is after the program was stopped.
    ///
    /// # Errors
    ///
    /// If the terminal has gone.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        // Whatever the shell has made of it.
        self.give_back();
        // A terminal that knows of nothing on the screen draws all of it.
        self.terminal = ratatui::try_init()?;
        Ok(())
    }
}

impl Screen {
    fn give_back(&mut self) {
        restore();
        // It may have gone.
        let _ = self.terminal.show_cursor();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn restore() {
    // It may have gone.
    let _ = ratatui::try_restore();
}

#[cfg(all(test, unix))]
mod tests {
    use std::{io::Read, process::ExitStatus};

    use super::*;

    /// Set in the process that [`panic_restores_the_terminal`] starts.
    const CHILD: &str = "METRICS_TEST_SCREEN_CHILD";

    /// Not a test but a program that panics while it has the screen.
    #[test]
    #[ignore = "a process that another test starts"]
    fn child_program() {
        if env::var_os(CHILD).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("the reason");
        }
    }

    #[test]
    fn panic_restores_the_terminal() {
        let (mut pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(24, 80)).unwrap();
        let mut child = pty_process::blocking::Command::new(env::current_exe().unwrap())
            .args(["screen::tests::child_program", "--exact", "--nocapture", "--ignored"])
            .env(CHILD, "1")
            .env("TERM", "xterm")
            .spawn(pts)
            .unwrap();
        let mut shown = Vec::new();
        let mut bytes = [0; 1024];
        // Linux fails with EIO when the program has ended.
        while let Ok(len @ 1..) = pty.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..len]);
        }
        let status: ExitStatus = child.wait().unwrap();
        let shown = String::from_utf8_lossy(&shown);
        assert!(!status.success(), "{shown}");
        let place =
            |text| shown.find(text).unwrap_or_else(|| panic!("{text:?} is not in {shown:?}"));
        assert!(
            place("\x1b[?1049h") < place("\x1b[?1049l")
                && place("\x1b[?1049l") < place("the reason"),
            "{shown:?}"
        );
        #[cfg(target_os = "linux")]
        {
            use nix::sys::termios::{LocalFlags, tcgetattr};
            let flags = tcgetattr(&pty).unwrap().local_flags;
            assert!(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON), "{flags:?}");
        }
    }
}
