//! Measuring a host whose `/proc` and `/sys` a test writes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::{Host, Measurement};

/// A tree of files.
struct Tree(TempDir);

impl Tree {
    /// Creates a host of two cores.
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.stat(
            &[
                "cpu  100 0 50 800 50 0 0 0 0 0",
                "cpu0 50 0 25 400 25 0 0 0 0 0",
                "cpu1 50 0 25 400 25 0 0 0 0 0",
            ],
            1000,
        );
        tree.write("proc/loadavg", "1.25 0.50 0.1 2/345 999\n");
        tree.write("proc/meminfo", MEMINFO);
        tree.write("proc/vmstat", "nr_free_pages 1\npswpin 10\npswpout 20\n");
        tree.write("proc/uptime", "5000.25 9000.00\n");
        tree.write("proc/self/statm", "1000 256 100 10 0 100 0\n");
        // A file system that is there wherever the test runs.
        tree.write("proc/self/mountinfo", "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n");
        tree.disk(1000, 2000, 100);
        tree.network("eth0", 1000, 500);
        for process in ["1", "2", "77"] {
            tree.write(&format!("proc/{process}/comm"), "x\n");
        }
        tree.write("sys/block/vda/size", "1\n");
        tree
    }

    fn host(&self) -> Host {
        Host::with_roots(self.path("proc"), self.path("sys"))
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).unwrap();
    }

    fn stat(&self, cores: &[&str], started: u64) {
        let text = format!(
            "{}\nintr 1 2 3\nctxt 5\nbtime 1\nprocesses {started}\nprocs_running 2\nprocs_blocked 1\n",
            cores.join("\n")
        );
        self.write("proc/stat", &text);
    }

    /// Writes the counters of a disk and of its partition.
    fn disk(&self, sectors_read: u64, sectors_written: u64, busy_millis: u64) {
        let line = |minor: u32, name: &str| {
            format!(
                " 254 {minor} {name} 10 0 {sectors_read} 1 20 0 {sectors_written} 1 0 {busy_millis} 5 0 0 0 0\n"
            )
        };
        self.write(
            "proc/diskstats",
            &(line(0, "vda") + &line(1, "vda1") + " 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n"),
        );
    }

    fn network(&self, interface: &str, received: u64, sent: u64) {
        let text = format!(
            "Inter-|   Receive |  Transmit\n face |bytes |bytes\n\
             {interface}: {received} 10 0 0 0 0 0 0 {sent} 5 0 0 0 0 0 0\n"
        );
        self.write("proc/net/dev", &text);
    }
}

const MEMINFO: &str = "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 600 kB\nBuffers: 10 kB\nCached: 200 kB\n\
    SwapCached: 0 kB\nActive: 1 kB\nInactive: 1 kB\nSwapTotal: 400 kB\nSwapFree: 300 kB\nDirty: 0 kB\nWriteback: 0 kB\n\
    AnonPages: 1 kB\nMapped: 1 kB\nSlab: 1 kB\nCommitted_AS: 1 kB\nPageTables: 1 kB\nVmallocTotal: 1 kB\n\
    VmallocUsed: 1 kB\nVmallocChunk: 1 kB\n";

/// Measures at this second. Names are those of dotted keys.
fn measure(host: &mut Host, second: u64) -> HashMap<String, f64> {
    let named = |Measurement { name, instance, value }| match instance {
        Some((_, instance)) => (format!("{name} {instance}"), value),
        None => (name.to_owned(), value),
    };
    host.measure(Duration::from_secs(second)).into_iter().map(named).collect()
}

#[test]
fn measurements_are_what_the_files_say() {
    let tree = Tree::new();
    let mut host = tree.host();
    let first = measure(&mut host, 0);
    assert!(
        !first.contains_key("cpu") && !first.contains_key("network.sent_bytes eth0"),
        "{first:?}"
    );
    tree.stat(
        &[
            "cpu  130 0 60 840 60 5 5 0 0 0",
            "cpu0 75 0 30 440 30 0 0 0 0 0",
            "cpu1 55 0 30 400 30 5 5 0 0 0",
        ],
        1050,
    );
    tree.disk(1100, 2020, 1100);
    tree.network("eth0", 11_000, 550);
    tree.write("proc/vmstat", "pswpin 10\npswpout 30\n");
    let measured = measure(&mut host, 10);
    let page_bytes = rustix::param::page_size() as f64;
    for (name, value) in [
        ("cpu", 50.0),
        ("cpu.user", 30.0),
        ("cpu.system", 10.0),
        ("cpu.iowait", 10.0),
        ("cpu.irq", 10.0),
        ("cpu.steal", 0.0),
        ("cpu.core 0", 40.0),
        ("cpu.core 1", 80.0),
        ("load.1", 1.25),
        ("load.5", 0.5),
        ("load.15", 0.1),
        ("memory", 40.0),
        ("memory.total", 1_024_000.0),
        ("memory.available", 614_400.0),
        ("swap", 25.0),
        ("swap.used", 102_400.0),
        ("swap.in_bytes", 0.0),
        ("swap.out_bytes", page_bytes),
        ("disk.read_bytes vda", 5120.0),
        ("disk.written_bytes vda", 1024.0),
        ("disk.reads vda", 0.0),
        ("disk.busy vda", 10.0),
        ("network.received_bytes eth0", 1000.0),
        ("network.sent_bytes eth0", 5.0),
        ("network.receive_errors eth0", 0.0),
        ("processes", 3.0),
        ("processes.threads", 345.0),
        ("processes.running", 2.0),
        ("processes.blocked", 1.0),
        ("processes.started", 5.0),
        ("uptime", 5000.0),
        ("agent.memory", 256.0 * page_bytes),
        ("agent.failures", 0.0),
    ] {
        assert_eq!(measured.get(name), Some(&value), "{name}");
    }
    assert!((0.0..=100.0).contains(&measured["disk.space /"]), "{measured:?}");
    assert!(measured["disk.space.total /"] > 0.0 && measured.contains_key("agent.cpu"));
    // A partition, and a device that was never used.
    for name in ["disk.reads vda1", "disk.reads loop0"] {
        assert!(!measured.contains_key(name), "{name}");
    }
}

#[test]
fn missing_file_is_counted_and_the_rest_goes_on() {
    let tree = Tree::new();
    let mut host = tree.host();
    measure(&mut host, 0);
    tree.remove("proc/net/dev");
    tree.write("proc/meminfo", "no memory\n");
    let measured = measure(&mut host, 10);
    assert_eq!(measured["agent.failures"], 2.0);
    assert!(measured.contains_key("uptime") && !measured.contains_key("memory"), "{measured:?}");
    tree.network("eth0", 3000, 500);
    tree.write("proc/meminfo", MEMINFO);
    let measured = measure(&mut host, 20);
    // Over the 20 seconds since it was last read.
    assert_eq!(measured["network.received_bytes eth0"], 100.0);
    assert_eq!((measured["agent.failures"], measured["memory"]), (2.0, 40.0));
}

/// Keeps the lines of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn failure_is_logged_once_until_it_is_over() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let tree = Tree::new();
    let mut host = tree.host();
    tracing::subscriber::with_default(subscriber, || {
        tree.remove("proc/uptime");
        for second in [0, 10, 20] {
            measure(&mut host, second);
        }
        tree.write("proc/uptime", "5000.25 9000.00\n");
        for second in [30, 40] {
            measure(&mut host, second);
        }
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("cannot measure a part of the host what=\"uptime\""), "{text}");
    assert!(lines[1].contains("measures a part of the host again what=\"uptime\""), "{text}");
}

#[test]
fn no_proc_at_all_measures_nothing_and_goes_on() {
    let tree = Tree(tempfile::tempdir().unwrap());
    let mut host = tree.host();
    measure(&mut host, 0);
    let measured = measure(&mut host, 10);
    assert!(measured["agent.failures"] > 10.0, "{measured:?}");
    assert!(measured.keys().all(|name| name.starts_with("agent.")), "{measured:?}");
}

#[test]
fn interface_that_comes_and_goes_has_no_negative_rate() {
    let tree = Tree::new();
    let mut host = tree.host();
    measure(&mut host, 0);
    tree.network("veth1", 5000, 5000);
    let measured = measure(&mut host, 10);
    assert!(measured.keys().all(|name| !name.starts_with("network.")), "{measured:?}");
    // The same name, another interface.
    tree.network("veth1", 100, 100);
    let measured = measure(&mut host, 20);
    assert!(!measured.contains_key("network.received_bytes veth1"), "{measured:?}");
    tree.network("veth1", 200, 100);
    assert_eq!(measure(&mut host, 30)["network.received_bytes veth1"], 10.0);
}

#[test]
fn core_that_goes_offline_keeps_the_numbers_of_others() {
    let tree = Tree::new();
    let mut host = tree.host();
    measure(&mut host, 0);
    tree.stat(&["cpu  200 0 50 900 50 0 0 0", "cpu1 100 0 25 450 25 0 0 0"], 1000);
    let measured = measure(&mut host, 10);
    assert_eq!(measured.get("cpu.core 1"), Some(&50.0));
    assert!(!measured.contains_key("cpu.core 0"), "{measured:?}");
    // Its counters begin at zero.
    tree.stat(
        &["cpu  210 0 50 990 50 0 0 0", "cpu0 1 0 1 1 0 0 0 0", "cpu1 100 0 25 540 25 0 0 0"],
        1000,
    );
    let measured = measure(&mut host, 20);
    assert!(!measured.contains_key("cpu.core 0"), "{measured:?}");
    assert_eq!((measured["cpu"], measured["cpu.core 1"]), (10.0, 0.0));
}

#[test]
fn iowait_that_decreases_stays_a_percentage() {
    let tree = Tree::new();
    let mut host = tree.host();
    measure(&mut host, 0);
    tree.stat(&["cpu  100 0 50 900 40 0 0 0 0 0"], 1000);
    let measured = measure(&mut host, 10);
    assert_eq!((measured["cpu"], measured["cpu.iowait"]), (0.0, 0.0));
    // Nothing has passed: a clock that stands still has no use of a core.
    assert!(!measure(&mut host, 20).contains_key("cpu"));
}

#[test]
fn sensors_of_one_name_are_numbered() {
    let tree = Tree::new();
    for disk in 0..2 {
        tree.write(&format!("sys/class/hwmon/hwmon{disk}/name"), "nvme\n");
        tree.write(
            &format!("sys/class/hwmon/hwmon{disk}/temp1_input"),
            &format!("{}850\n", 38 + disk),
        );
        tree.write(&format!("sys/class/hwmon/hwmon{disk}/temp1_label"), "Composite\n");
    }
    tree.write("sys/class/thermal/thermal_zone0/type", "acpitz\n");
    tree.write("sys/class/thermal/thermal_zone0/temp", "27000\n");
    let measured = measure(&mut tree.host(), 0);
    assert_eq!(measured.get("temperature nvme_Composite"), Some(&38.85));
    assert_eq!(measured.get("temperature nvme_Composite_2"), Some(&39.85));
    assert!(!measured.contains_key("temperature acpitz"), "{measured:?}");
}

#[test]
fn sensor_that_sleeps_is_left_out() {
    let tree = Tree::new();
    for (zone, text) in [("0", "27000\n"), ("1", "asleep\n")] {
        tree.write(&format!("sys/class/thermal/thermal_zone{zone}/type"), &format!("zone{zone}\n"));
        tree.write(&format!("sys/class/thermal/thermal_zone{zone}/temp"), text);
    }
    let measured = measure(&mut tree.host(), 0);
    assert_eq!(measured.get("temperature zone0"), Some(&27.0));
    assert_eq!(measured["agent.failures"], 1.0);
}

#[test]
fn name_that_is_not_utf8_hides_no_other() {
    let tree = Tree::new();
    let mut mounts = b"28 1 8:1 / /media/caf\xe9 rw - vfat /dev/sdb1 rw\n".to_vec();
    mounts.extend(
        b"27 1 254:0 / / rw - ext4 /dev/vda rw\n29 1 254:0 /x /mnt rw - ext4 /dev/vda rw\n",
    );
    fs::write(tree.path("proc/self/mountinfo"), mounts).unwrap();
    let measured = measure(&mut tree.host(), 0);
    let spaces = measured.keys().filter(|name| name.starts_with("disk.space ")).collect::<Vec<_>>();
    assert_eq!(spaces, ["disk.space /"]);
}

#[test]
fn this_host_is_measured() {
    let mut host = Host::new();
    measure(&mut host, 0);
    let measured = measure(&mut host, 1);
    for name in ["load.1", "memory", "processes", "uptime", "agent.cpu", "agent.memory"] {
        assert!(measured.contains_key(name), "{name}");
    }
    assert!(measured.values().all(|value| *value >= 0.0 && value.is_finite()), "{measured:?}");
    assert!(!Host::name().is_empty());
}
