//! [`Host`] on Linux.

use std::{path::PathBuf, time::Duration};

use super::{
    Measurement, Measurements, cpu::Cpu, disks, disks::DiskIo, files::Files, memory::Memory,
    network::Network, processes::Processes, temperatures,
};

/// Measures this host.
///
/// Rates and the use of cores need two measurements: the first has none. What cannot be read is left out, counted in
/// `agent.failures`, and logged once until it can be read again.
#[derive(Debug)]
pub struct Host {
    files: Files,
    page_bytes: u64,
    cpu: Cpu,
    memory: Memory,
    disk_io: DiskIo,
    network: Network,
    processes: Processes,
}

impl Host {
    /// Returns the host that this process runs on.
    #[must_use]
    pub fn new() -> Self {
        Self::with_roots("/proc", "/sys")
    }

    /// Returns a host whose `/proc` and `/sys` are elsewhere: those of the host itself in a container, for example, or
    /// those of a test.
    #[must_use]
    pub fn with_roots(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self {
            files: Files::new(proc.into(), sys.into()),
            page_bytes: rustix::param::page_size() as u64,
            cpu: Cpu::default(),
            memory: Memory::default(),
            disk_io: DiskIo::default(),
            network: Network::default(),
            processes: Processes::default(),
        }
    }

    /// Returns the name of the host that this process runs on.
    #[must_use]
    pub fn name() -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    /// Measures everything. `now` is the time of a clock that is never set, since any moment.
    ///
    /// Reads files and blocks, for a long time if a disk hangs.
    pub fn measure(&mut self, now: Duration) -> Vec<Measurement> {
        let mut out = Measurements::default();
        let Self { files, page_bytes, .. } = self;
        self.cpu.measure(files, &mut out);
        self.memory.measure(files, *page_bytes, now, &mut out);
        disks::measure_space(files, &mut out);
        self.disk_io.measure(files, now, &mut out);
        self.network.measure(files, now, &mut out);
        self.processes.measure(files, now, &mut out);
        temperatures::measure(files, &mut out);
        self.processes.measure_own(files, *page_bytes, now, &mut out);
        out.into_vec()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}
