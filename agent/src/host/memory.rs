//! Memory and swap.

use std::time::Duration;

use procfs_core::{FromRead, Meminfo, VmStat};

use super::{Measurements, files::Files, percent, rates::Rates};

/// Pages that went from swap and to swap.
#[derive(Debug, Default)]
pub(super) struct Memory {
    swapped: Rates<2>,
}

impl Memory {
    pub(super) fn measure(
        &mut self,
        files: &mut Files,
        page_bytes: u64,
        now: Duration,
        out: &mut Measurements,
    ) {
        let Some(memory) = files.read("meminfo", |text| Meminfo::from_read(text.as_bytes())) else {
            return;
        };
        let total = memory.mem_total;
        // Kernels before 3.14 do not say what is available.
        let available = memory.mem_available.unwrap_or(
            memory.mem_free.saturating_add(memory.buffers).saturating_add(memory.cached),
        );
        let used = total.saturating_sub(available);
        out.push("memory", percent(used as f64, total as f64));
        for (name, bytes) in [
            ("memory.total", total),
            ("memory.used", used),
            ("memory.available", available),
            ("memory.buffers", memory.buffers),
            ("memory.cached", memory.cached),
        ] {
            out.push(name, bytes as f64);
        }
        let swap = memory.swap_total;
        let swap_used = swap.saturating_sub(memory.swap_free);
        out.push("swap", percent(swap_used as f64, swap as f64));
        out.push("swap.total", swap as f64);
        out.push("swap.used", swap_used as f64);
        if swap == 0 {
            return;
        }
        if let Some(VmStat(stat)) = files.read("vmstat", |text| VmStat::from_read(text.as_bytes()))
        {
            let bytes = |field| {
                let pages = stat.get(field).and_then(|&pages| u64::try_from(pages).ok());
                pages.unwrap_or_default().saturating_mul(page_bytes)
            };
            self.swapped.begin(now);
            let rates = self.swapped.rates("", [bytes("pswpin"), bytes("pswpout")]);
            for (name, rate) in ["swap.in_bytes", "swap.out_bytes"].into_iter().zip(rates) {
                if let Some(rate) = rate {
                    out.push(name, rate);
                }
            }
        }
    }
}
