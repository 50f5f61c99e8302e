//! Processes, uptime, and what this process costs.

use std::{fs, time::Duration};

use procfs_core::{FromRead, Uptime};
use rustix::time::{ClockId, clock_gettime};

use super::{Measurements, files::Files, percent, rates::Rates};

/// The processes that were started.
#[derive(Debug, Default)]
pub(super) struct Processes {
    started: Rates<1>,
    /// Nanoseconds of processor time of this process.
    own_cpu: Rates<1>,
}

impl Processes {
    pub(super) fn measure(&mut self, files: &mut Files, now: Duration, out: &mut Measurements) {
        let proc = files.proc("");
        match fs::read_dir(proc) {
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                let count =
                    names.filter(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
                out.push("processes", count.count() as f64);
                files.succeeded("processes");
            }
            Err(error) => files.failed("processes", &error),
        }
        if let Some([started, running, blocked]) = files.read("stat", parse) {
            self.started.begin(now);
            if let [Some(rate)] = self.started.rates("", [started]) {
                out.push("processes.started", rate);
            }
            out.push("processes.running", running as f64);
            out.push("processes.blocked", blocked as f64);
        }
        if let Some(uptime) = files.read("uptime", |text| Uptime::from_read(text.as_bytes())) {
            out.push("uptime", uptime.uptime.floor());
        }
    }

    pub(super) fn measure_own(
        &mut self,
        files: &mut Files,
        page_bytes: u64,
        now: Duration,
        out: &mut Measurements,
    ) {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(spent.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(spent.tv_nsec).unwrap_or_default();
        self.own_cpu.begin(now);
        if let [Some(rate)] = self.own_cpu.rates("", [seconds * 1_000_000_000 + nanos]) {
            out.push("agent.cpu", percent(rate, 1e9));
        }
        let resident_pages = |text: &str| {
            let field = text.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
            field.ok_or("there is no size")
        };
        if let Some(pages) = files.read("self/statm", resident_pages) {
            out.push("agent.memory", pages.saturating_mul(page_bytes) as f64);
        }
        out.push("agent.failures", files.failures() as f64);
    }
}

/// Returns the processes that were started since boot, those that can run, and those that wait for IO.
fn parse(text: &str) -> Result<[u64; 3], &'static str> {
    let mut found = [None; 3];
    for line in text.lines().rev() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let field = ["processes", "procs_running", "procs_blocked"].iter().position(|&n| n == name);
        if let Some(field) = field {
            found[field] = value.trim().parse().ok();
        }
    }
    match found {
        [Some(started), Some(running), Some(blocked)] => Ok([started, running, blocked]),
        _ => Err("missing number of processes"),
    }
}
