//! Memory, descriptors, tasks and threads of this process.

use std::{fmt, fs, io};

use tokio::runtime::Handle;

/// Counted at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) fds: usize,
    pub(crate) tasks: usize,
    pub(crate) threads: usize,
    /// Memory that is resident, in KiB.
    pub(crate) resident: usize,
}

impl Usage {
    /// Counts now; the tasks are those of this runtime.
    pub(crate) fn now(runtime: &Handle) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let resident = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok()
            })
            .ok_or_else(|| io::Error::other("/proc/self/status has no VmRSS"))?;
        Ok(Self {
            // One of them is that of the folder itself.
            fds: fs::read_dir("/proc/self/fd")?.count() - 1,
            tasks: runtime.metrics().num_alive_tasks(),
            threads: fs::read_dir("/proc/self/task")?.count(),
            resident,
        })
    }

    /// Whether it is the same but for the memory.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        Self { resident: 0, ..*self } == Self { resident: 0, ..*other }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fds, tasks, threads, resident } = self;
        let resident = *resident as f64 / 1024.0;
        write!(f, "{fds} fds, {tasks} tasks, {threads} threads, {resident:.1} MiB resident")
    }
}
