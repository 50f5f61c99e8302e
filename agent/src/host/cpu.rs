//! What cores do, by `/proc/stat`, and load averages.
//!
//! procfs-core leaves out the numbers of cores, which do not follow each other where one is offline.

use std::collections::HashMap;

use procfs_core::{FromRead, LoadAverage};

use super::{Measurements, files::Files, percent, rounded};

/// Ticks of one core, or of all, as they were last read.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    last: HashMap<Box<str>, Ticks>,
}

/// user, nice, system, idle, iowait, irq, softirq, steal. What follows is counted in user and nice, too.
const FIELDS: usize = 8;

type Ticks = [u64; FIELDS];

/// Measurements of all cores, and the fields that each adds up.
const MODES: [(&str, &[usize]); 6] = [
    ("cpu.user", &[0]),
    ("cpu.nice", &[1]),
    ("cpu.system", &[2]),
    ("cpu.iowait", &[4]),
    ("cpu.irq", &[5, 6]),
    ("cpu.steal", &[7]),
];

impl Cpu {
    pub(super) fn measure(&mut self, files: &mut Files, out: &mut Measurements) {
        if let Some(cores) = files.read("stat", parse) {
            let last = std::mem::take(&mut self.last);
            for (core, ticks) in cores {
                if let Some(before) = last.get(&core) {
                    measure_core(&core, before, &ticks, out);
                }
                self.last.insert(core, ticks);
            }
        }
        let load = files.read("loadavg", |text| LoadAverage::from_read(text.as_bytes()));
        if let Some(load) = load {
            for (name, value) in
                [("load.1", load.one), ("load.5", load.five), ("load.15", load.fifteen)]
            {
                out.push(name, rounded(f64::from(value)));
            }
            out.push("processes.threads", f64::from(load.max));
        }
    }
}

fn measure_core(core: &str, before: &Ticks, now: &Ticks, out: &mut Measurements) {
    // A field can decrease: that of iowait does, and all do when a core comes again.
    let spent: Ticks = std::array::from_fn(|n| now[n].saturating_sub(before[n]));
    let all = spent.iter().sum::<u64>() as f64;
    if all == 0.0 {
        return;
    }
    let busy = all - (spent[3] + spent[4]) as f64;
    if !core.is_empty() {
        out.push_of("cpu.core", "core", core, percent(busy, all));
        return;
    }
    out.push("cpu", percent(busy, all));
    for (name, fields) in MODES {
        let part = fields.iter().map(|&field| spent[field]).sum::<u64>();
        out.push(name, percent(part as f64, all));
    }
}

/// Returns the ticks of each core by its number, those of all under an empty text.
fn parse(text: &str) -> Result<Vec<(Box<str>, Ticks)>, &'static str> {
    let mut cores = Vec::new();
    for line in text.lines() {
        // They come first.
        let Some(line) = line.strip_prefix("cpu") else { break };
        let (core, fields) = line.split_once(' ').ok_or("a cpu has no ticks")?;
        let mut ticks = [0; FIELDS];
        // Old kernels have fewer fields.
        for (tick, field) in ticks.iter_mut().zip(fields.split_whitespace()) {
            *tick = field.parse().map_err(|_| "ticks are not a number")?;
        }
        cores.push((core.into(), ticks));
    }
    if cores.is_empty() { Err("there is no cpu") } else { Ok(cores) }
}
