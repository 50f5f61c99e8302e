//! What a host's cpu, memory, disks, network, processes and temperatures are now.
//!
//! On Linux all of it is read from `/proc` and `/sys`, by [`linux`]: `files` reads and logs what cannot be read,
//! `rates` makes rates of counters, and there is a file for each kind of measurement. Other systems have what
//! sysinfo knows of them, in `portable`.

#[cfg(target_os = "linux")]
mod cpu;
#[cfg(target_os = "linux")]
mod disks;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod network;
#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(target_os = "linux", allow(unreachable_pub, reason = "public where it is the host"))]
mod portable;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod rates;
#[cfg(target_os = "linux")]
mod temperatures;
#[cfg(all(test, target_os = "linux"))]
mod tests;

#[cfg(target_os = "linux")]
pub use linux::Host;
#[cfg(not(target_os = "linux"))]
pub use portable::PortableHost as Host;

/// One value of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What is measured, such as `cpu` or `network.sent_bytes`. Percentages and rates by second are rounded to two
    /// decimals.
    pub name: &'static str,
    /// Of which one, if there are several: the kind, such as `interface`, and its name.
    pub instance: Option<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// Collects measurements.
#[derive(Debug, Default)]
pub(crate) struct Measurements(Vec<Measurement>);

impl Measurements {
    pub(crate) fn push(&mut self, name: &'static str, value: f64) {
        self.0.push(Measurement { name, instance: None, value });
    }

    pub(crate) fn push_of(
        &mut self,
        name: &'static str,
        kind: &'static str,
        instance: &str,
        value: f64,
    ) {
        self.0.push(Measurement { name, instance: Some((kind, instance.into())), value });
    }

    pub(crate) fn into_vec(self) -> Vec<Measurement> {
        self.0
    }
}

/// Returns how many percent of `whole` `part` is, with two decimals; 0 of nothing.
fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { rounded(100.0 * part / whole) } else { 0.0 }
}

/// Returns the value with two decimals.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
