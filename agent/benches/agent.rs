//! What the agent costs, against its bars.
//!
//!     cargo bench -p metrics-agent --bench agent -- collect    one measurement of this host
//!     cargo bench -p metrics-agent --bench agent -- statsd     100,000 lines of StatsD a second, from another process
//!     cargo bench -p metrics-agent --bench agent -- send ADDRESS RATE SECONDS LINES   sends that, LINES in a packet
//!
//! `--quick` takes a second for each. What a whole `metrics agent` costs is measured from outside: see BENCHMARKS.md.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic")]

use std::{
    env, fs,
    net::UdpSocket,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use metrics_agent::{Host, Statsd, StatsdSettings};

fn main() {
    let args = env::args().skip(1).collect::<Vec<_>>();
    let args =
        args.as_slice().strip_suffix(&["--bench".to_owned()]).map_or(args.as_slice(), |args| args);
    let is_bench = env::args().any(|arg| arg == "--bench");
    let has = |name: &str| args.iter().any(|arg| arg == name);
    if let [command, address, rate, seconds, lines] = args
        && command == "send"
    {
        return send(
            address,
            rate.parse().unwrap(),
            seconds.parse().unwrap(),
            lines.parse().unwrap(),
        );
    }
    // What `cargo test --benches` asks for.
    let is_quick = has("--quick") || has("--test") || !is_bench;
    let all = !has("collect") && !has("statsd");
    if all || has("collect") {
        collect(if is_quick { 100 } else { 10_000 });
    }
    if all || has("statsd") {
        for lines in [1, 10, 25] {
            statsd(100_000, if is_quick { 1 } else { 10 }, lines);
        }
    }
}

/// Measures this host many times.
fn collect(times: u32) {
    let mut host = Host::new();
    let begin = Instant::now();
    let mut measurements = 0;
    for _ in 0..times {
        measurements = host.measure(begin.elapsed()).len();
    }
    let each = begin.elapsed() / times;
    let at_10_seconds = 100.0 * each.as_secs_f64() / 10.0;
    println!(
        "collect: {each:.1?} for {measurements} measurements, {at_10_seconds:.4} % of a core at 10 s"
    );
}

/// Receives what another process sends.
fn statsd(rate: u64, seconds: u64, lines: u64) {
    let settings =
        StatsdSettings { udp: Some(([127, 0, 0, 1], 0).into()), ..StatsdSettings::default() };
    let statsd = Statsd::start(settings).unwrap();
    let address = statsd.udp_addr().unwrap().to_string();
    let numbers = [rate, seconds, lines].map(|number| number.to_string());
    let before = cpu_seconds();
    let begin = Instant::now();
    let sender = env::current_exe().unwrap();
    let status = Command::new(sender).args(["send", &address]).args(&numbers).status().unwrap();
    assert!(status.success());
    let took = begin.elapsed().as_secs_f64();
    let sent = rate * seconds / lines * lines;
    let limit = Instant::now() + Duration::from_secs(10);
    let mut stats = statsd.stats();
    while stats.lines < sent && stats.dropped == 0 && Instant::now() < limit {
        thread::sleep(Duration::from_millis(10));
        stats = statsd.stats();
    }
    println!(
        "statsd: {lines} lines a packet: {sent} sent in {took:.1} s, {} received, {} packets dropped, {:.1} % of a core",
        stats.lines,
        stats.dropped,
        100.0 * (cpu_seconds() - before) / took
    );
}

/// Sends lines at a rate, as a program with many counters and timers does.
fn send(address: &str, rate: u64, seconds: u64, lines: u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    let packets = rate * seconds / lines;
    let begin = Instant::now();
    let mut packet = String::new();
    for number in 0..packets {
        packet.clear();
        for line in 0..lines {
            let n = number * lines + line;
            let (series, value) = (n % 500, n % 997);
            packet += &match n % 3 {
                0 => format!("web.requests:1|c|#route:r{series},method:GET\n"),
                1 => format!("web.time:{value}.5|ms|#route:r{series}\n"),
                _ => format!("web.open.{series}:{value}|g\n"),
            };
        }
        socket.send(packet.as_bytes()).unwrap();
        let due = begin + Duration::from_secs(1).mul_f64((number * lines) as f64 / rate as f64);
        let now = Instant::now();
        if due > now + Duration::from_millis(1) {
            thread::sleep(due - now);
        }
    }
}

/// Returns the processor time of this process, without its children.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
