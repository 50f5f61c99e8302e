//! Memory of processes.

use std::{fs, io};

/// How much memory a process holds, and the most that it ever did, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Memory {
    /// Of the process with this number.
    pub(crate) fn of(process: u32) -> io::Result<Self> {
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
    pub(crate) fn growth(self, before: Self) -> f64 {
        self.resident.saturating_sub(before.resident) as f64
    }
}
