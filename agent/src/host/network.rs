//! Traffic of network interfaces.

use std::time::Duration;

use procfs_core::{FromRead, net::InterfaceDeviceStatus};

use super::{Measurements, files::Files, rates::Rates};

/// The counters of each interface.
#[derive(Debug, Default)]
pub(super) struct Network {
    rates: Rates<8>,
}

const NAMES: [&str; 8] = [
    "network.received_bytes",
    "network.sent_bytes",
    "network.received_packets",
    "network.sent_packets",
    "network.receive_errors",
    "network.send_errors",
    "network.receive_drops",
    "network.send_drops",
];

impl Network {
    pub(super) fn measure(&mut self, files: &mut Files, now: Duration, out: &mut Measurements) {
        let parse = |text: &str| InterfaceDeviceStatus::from_read(text.as_bytes());
        // That of the process: `net` is a link to it.
        let Some(InterfaceDeviceStatus(interfaces)) = files.read("net/dev", parse) else { return };
        self.rates.begin(now);
        let mut interfaces = interfaces.into_iter().collect::<Vec<_>>();
        interfaces.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, counters) in &interfaces {
            let name = name.trim_end_matches(':');
            // Of the interfaces that the kernel creates most are never used.
            if counters.recv_packets + counters.sent_packets == 0 {
                continue;
            }
            let rates = self.rates.rates(
                name,
                [
                    counters.recv_bytes,
                    counters.sent_bytes,
                    counters.recv_packets,
                    counters.sent_packets,
                    counters.recv_errs,
                    counters.sent_errs,
                    counters.recv_drop,
                    counters.sent_drop,
                ],
            );
            for (measured, rate) in NAMES.into_iter().zip(rates) {
                if let Some(rate) = rate {
                    out.push_of(measured, "interface", name, rate);
                }
            }
        }
        self.rates.end();
    }
}
