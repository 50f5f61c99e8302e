//! What this host's cpu, memory, disks and network are doing.

use metrics_client::{Sample, error::InvalidKey};
use sysinfo::{Disk, Disks, Networks, System};

/// What is measured, and its state when it was last looked at.
pub(crate) struct Host {
    name: String,
    system: System,
    disks: Disks,
    networks: Networks,
}

impl Host {
    pub(crate) fn new() -> Self {
        let name = System::host_name().unwrap_or_else(|| "localhost".into());
        // A host may have any name; a key may not.
        let name = name.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self {
            name,
            system,
            disks: Disks::new_with_refreshed_list(),
            networks: Networks::new_with_refreshed_list(),
        }
    }

    /// Returns one sample of everything, at the current second.
    ///
    /// # Errors
    ///
    /// Returns an error if the host's name is too long for a key.
    pub(crate) fn sample(&mut self) -> Result<Vec<Sample>, InvalidKey> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.disks.refresh(true);
        self.networks.refresh(true);
        let (space, free) =
            (self.disk_bytes(Disk::total_space), self.disk_bytes(Disk::available_space));
        let (received, sent) = self.networks.iter().fold((0, 0), |(received, sent), (_, data)| {
            (received + data.received(), sent + data.transmitted())
        });
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        [
            ("cpu_percent", f64::from(self.system.global_cpu_usage())),
            ("memory_percent", percent(self.system.used_memory(), self.system.total_memory())),
            ("disk_percent", percent(space - free.min(space), space)),
            ("network_received_bytes", received as f64),
            ("network_sent_bytes", sent as f64),
        ]
        .into_iter()
        .map(|(what, value)| {
            Sample::now(format!("{}.{what}", self.name), (value * 100.0).round() / 100.0)
        })
        .collect()
    }

    /// Returns the sum over all disks. The same disk may be mounted in several places.
    fn disk_bytes(&self, bytes: impl Fn(&Disk) -> u64) -> u64 {
        let mut disks = self.disks.list().iter().collect::<Vec<_>>();
        disks.sort_by_key(|disk| disk.name());
        disks.dedup_by_key(|disk| disk.name());
        disks.into_iter().map(bytes).sum()
    }
}
