//! Lines of InfluxDB and of Graphite, and puts, of the same points.

use std::{fmt::Write, ops::Range};

use crate::workload::{FIRST_SECOND, hundredths};

/// Returns what telegraf's plugins `cpu`, `mem`, `disk`, `net` and `system` send of some hosts in one second, in
/// nanoseconds, and how many points that is.
pub(crate) fn telegraf(hosts: Range<usize>, second: i64) -> (String, usize) {
    let (mut text, mut points) = (String::new(), 0);
    for host in hosts {
        let number = |index: usize| hundredths(host * 97 + index, second);
        let float = |index: usize| number(index) as f64 * 1.000_123_457;
        let mut line = |measurement: &str, tags: &str, fields: &[&str], is_integer: bool| {
            let _ =
                write!(text, "{measurement},{}", tags.replace('@', &format!("host=palm{host:04}")));
            for (index, field) in fields.iter().enumerate() {
                let separator = if index == 0 { ' ' } else { ',' };
                let _ = match is_integer {
                    true => write!(text, "{separator}{field}={}i", number(index) * 1_048_573),
                    false => write!(text, "{separator}{field}={}", float(index)),
                };
            }
            let _ = writeln!(text, " {second}000000000");
            points += fields.len();
        };
        const CPU: [&str; 10] = [
            "usage_user",
            "usage_system",
            "usage_idle",
            "usage_nice",
            "usage_iowait",
            "usage_irq",
            "usage_softirq",
            "usage_steal",
            "usage_guest",
            "usage_guest_nice",
        ];
        for cpu in ["cpu=cpu0,@", "cpu=cpu1,@", "cpu=cpu-total,@"] {
            line("cpu", cpu, &CPU, false);
        }
        const MEM: [&str; 12] = [
            "active",
            "available",
            "buffered",
            "cached",
            "dirty",
            "free",
            "inactive",
            "mapped",
            "shared",
            "slab",
            "total",
            "used",
        ];
        line("mem", "@", &MEM, true);
        line("mem", "@", &["available_percent", "used_percent"], false);
        const DISK: [&str; 6] =
            ["free", "inodes_free", "inodes_total", "inodes_used", "total", "used"];
        for disk in ["device=vda1,fstype=ext4,@", "device=vdb1,fstype=xfs,@"] {
            line("disk", disk, &DISK, true);
            line("disk", disk, &["used_percent"], false);
        }
        const NET: [&str; 8] = [
            "bytes_recv",
            "bytes_sent",
            "drop_in",
            "drop_out",
            "err_in",
            "err_out",
            "packets_recv",
            "packets_sent",
        ];
        line("net", "@,interface=eth0", &NET, true);
        line("system", "@", &["load1", "load15", "load5"], false);
    }
    (text, points)
}

/// Returns a line of InfluxDB with one point for each of some keys.
pub(crate) fn single(keys: Range<usize>, second: i64) -> String {
    lines(keys, second, |text, key, value| {
        _ = writeln!(text, "cpu,rack=r{key:05} user={value} {second}000000000");
    })
}

/// Returns the same points as puts.
pub(crate) fn puts(keys: Range<usize>, second: i64) -> String {
    lines(keys, second, |text, key, value| {
        _ = writeln!(text, "put cpu.user;rack=r{key:05} {value} {second}");
    })
}

/// Returns the same points as lines of Graphite.
pub(crate) fn graphite(keys: Range<usize>, second: i64) -> String {
    lines(keys, second, |text, key, value| {
        _ = writeln!(text, "cpu.user;rack=r{key:05} {value} {second}");
    })
}

fn lines(keys: Range<usize>, second: i64, print: impl Fn(&mut String, usize, f64)) -> String {
    let mut text = String::new();
    for key in keys {
        print(&mut text, key, hundredths(key, second) as f64 / 100.0);
    }
    text
}

/// Returns the seconds of a workload.
pub(crate) fn seconds(count: usize) -> impl Iterator<Item = i64> {
    (FIRST_SECOND..).take(count)
}
