//! A host without `/proc`: what sysinfo knows of it.

use std::{fmt, time::Duration};

use sysinfo::{Disks, Networks, System};

use super::{Measurement, Measurements, percent, rounded};

/// Measures this host.
///
/// Rates and the use of cores need two measurements: the first has none.
pub struct PortableHost {
    system: System,
    disks: Disks,
    networks: Networks,
    measured_at: Option<Duration>,
}

impl PortableHost {
    /// Returns the host that this process runs on.
    #[must_use]
    pub fn new() -> Self {
        Self {
            system: System::new(),
            disks: Disks::new_with_refreshed_list(),
            networks: Networks::new_with_refreshed_list(),
            measured_at: None,
        }
    }

    /// Returns the name of the host that this process runs on.
    #[must_use]
    pub fn name() -> String {
        System::host_name().unwrap_or_else(|| "localhost".into())
    }

    /// Measures everything. `now` is the time of a clock that is never set, since any moment.
    ///
    /// Asks the system and blocks, for a long time if a disk hangs.
    pub fn measure(&mut self, now: Duration) -> Vec<Measurement> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.disks.refresh(true);
        self.networks.refresh(true);
        let elapsed = self.measured_at.map(|before| now.saturating_sub(before).as_secs_f64());
        self.measured_at = Some(now);
        let mut out = Measurements::default();
        if elapsed.is_some() {
            out.push("cpu", rounded(f64::from(self.system.global_cpu_usage())));
            for (core, cpu) in self.system.cpus().iter().enumerate() {
                let busy = rounded(f64::from(cpu.cpu_usage()));
                out.push_of("cpu.core", "core", &core.to_string(), busy);
            }
        }
        let load = System::load_average();
        for (name, value) in
            [("load.1", load.one), ("load.5", load.five), ("load.15", load.fifteen)]
        {
            out.push(name, rounded(value));
        }
        let (total, used) = (self.system.total_memory(), self.system.used_memory());
        out.push("memory", percent(used as f64, total as f64));
        out.push("memory.total", total as f64);
        out.push("memory.used", used as f64);
        let (total, used) = (self.system.total_swap(), self.system.used_swap());
        out.push("swap", percent(used as f64, total as f64));
        out.push("swap.total", total as f64);
        out.push("swap.used", used as f64);
        self.measure_disks(&mut out);
        if let Some(elapsed) = elapsed.filter(|&elapsed| elapsed >= 0.01) {
            for (name, traffic) in &self.networks {
                let rate = |bytes: u64| rounded(bytes as f64 / elapsed);
                out.push_of("network.received_bytes", "interface", name, rate(traffic.received()));
                out.push_of("network.sent_bytes", "interface", name, rate(traffic.transmitted()));
            }
        }
        out.push("uptime", System::uptime() as f64);
        out.into_vec()
    }

    fn measure_disks(&self, out: &mut Measurements) {
        let mut disks = self.disks.list().iter().collect::<Vec<_>>();
        // The same disk may be mounted in several places.
        disks.sort_by_key(|disk| (disk.name(), disk.mount_point()));
        disks.dedup_by_key(|disk| disk.name());
        for disk in disks {
            let mount_point = disk.mount_point().to_string_lossy();
            let (total, available) = (disk.total_space(), disk.available_space());
            let used = total.saturating_sub(available);
            out.push_of("disk.space", "mount", &mount_point, percent(used as f64, total as f64));
            out.push_of("disk.space.total", "mount", &mount_point, total as f64);
            out.push_of("disk.space.used", "mount", &mount_point, used as f64);
            out.push_of("disk.space.available", "mount", &mount_point, available as f64);
        }
    }
}

impl Default for PortableHost {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PortableHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortableHost").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_host_on_linux() {
        assert!(!PortableHost::name().is_empty());
        let mut host = PortableHost::new();
        host.measure(Duration::ZERO);
        let measured = host.measure(Duration::from_secs(1));
        for name in ["cpu", "cpu.core", "load.1", "memory", "swap", "uptime"] {
            assert!(measured.iter().any(|measurement| measurement.name == name), "{name}");
        }
    }
}
