//! What processes hold, and what they may.

use std::{fmt, fs, io};

use super::chart::digits;

/// How much memory a process holds, and the most that it ever did, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) peak: u64,
}

impl Memory {
    /// Of the process with this number.
    pub(super) fn of(process: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        // Lines such as `VmRSS:     4092 kB`; see proc_pid_status(5).
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        };
        field("VmRSS:")
            .zip(field("VmHWM:"))
            .map(|(resident, peak)| Self { resident, peak })
            .ok_or_else(|| io::Error::other(format!("the memory of {process} cannot be read")))
    }

    /// How much more a process holds than it did `before`, in bytes.
    pub(super) fn growth(self, before: Self) -> f64 {
        self.resident.saturating_sub(before.resident) as f64
    }
}

/// An amount of memory that a bar may have been set for.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) measured: f64,
    pub(super) unit: &'static str,
    pub(super) bar: Option<f64>,
}

/// A line of a Markdown table under [`Row::HEAD`].
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, unit, bar } = self;
        write!(f, "| {what} | {} {unit} |", digits(*measured))?;
        match bar {
            Some(bar) => {
                write!(f, " {bar} {unit} | {} |", if measured <= bar { "yes" } else { "no" })
            }
            None => f.write_str(" – | – |"),
        }
    }
}

impl Row {
    pub(super) const HEAD: &str = "| what | memory | at most | met |\n|---|--:|--:|---|";
}
