//! Against graphite-web itself (Debian's package), which the test starts on loopback: the same points in whisper
//! files and in a store, the same targets, equal answers.

use std::{
    collections::HashSet,
    fmt::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use metrics_server::{
    MemoryStore,
    graphite::{TimeZone, functions, parse_time},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    answer, difference,
    random_targets::{EACH_FUNCTION, RandomTargets},
    store_of,
};

const DAY: i64 = 24 * 60 * 60;

/// A graphite-web that serves series on loopback.
struct Reference {
    process: Child,
    port: u16,
    store: MemoryStore,
    /// The second of the requests, on the hour.
    now: i64,
    _dir: tempfile::TempDir,
}

impl Reference {
    /// Starts it with the series of this test. `None` if it is not installed.
    async fn start() -> Option<Self> {
        let installed = Path::new("/usr/lib/python3/dist-packages/graphite/render/functions.py");
        if !installed.exists() {
            println!("SKIPPED: graphite-web is not installed: `apt-get install graphite-web`");
            return None;
        }
        let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        // Yesterday at noon, so that the intervals are the same whenever the test runs.
        let now = today - today % DAY - DAY / 2;
        let dir = tempfile::tempdir().unwrap();
        let series = series(now);
        let to_json = series
            .iter()
            .map(|(path, step, points)| json!({ "path": path, "step": step, "points": points }));
        let text = Value::Array(to_json.collect()).to_string();
        std::fs::write(dir.path().join("series.json"), text).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphite/reference.py");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let Ok(port) = line.trim().parse() else {
            panic!("graphite-web: {}", std::fs::read_to_string(dir.path().join("log")).unwrap())
        };
        let points = series.iter().map(|(path, _, points)| (path.as_str(), points.clone()));
        Some(Self { process, port, store: store_of(points).await, now, _dir: dir })
    }

    /// Returns the status and the body of an answer of graphite-web.
    async fn get(&self, path: &str, params: &[(&str, &str)]) -> (u16, Vec<u8>) {
        let mut body = String::new();
        for (name, value) in params {
            write!(body, "{name}=").unwrap();
            for byte in value.bytes() {
                write!(body, "%{byte:02X}").unwrap();
            }
            body.push('&');
        }
        let request = format!(
            "POST {path} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer.split_off(head + 4))
    }

    /// Returns how the answers differ, or `None` if they are equal.
    async fn compare(&self, target: &str, params: &[(&str, &str)]) -> Option<String> {
        let now = self.now.to_string();
        let common = [("target", target), ("now", &now), ("format", "json"), ("noCache", "1")];
        let params = [params, &common].concat();
        let (status, expected) = self.get("/render", &params).await;
        let got = answer(&self.store, &params, self.now).await;
        let shown =
            |text: &[u8]| String::from_utf8_lossy(text).chars().take(300).collect::<String>();
        match (status, got) {
            (200, Ok(got)) => {
                let expected: Value = serde_json::from_slice(&expected)
                    .unwrap_or_else(|error| panic!("{target}: {error}: {}", shown(&expected)));
                let got: Value = serde_json::from_slice(&got)
                    .unwrap_or_else(|error| panic!("{target}: {error}: {}", shown(&got)));
                difference(&expected, &got, "")
            }
            (400, Err(_)) => None,
            // An error of graphite-web itself.
            (500, _) => None,
            (status, Err(error)) => Some(format!("{status} {}; here {error}", shown(&expected))),
            (status, Ok(got)) => {
                Some(format!("{status} {}; here {}", shown(&expected), shown(&got)))
            }
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A series of the test: its path, its step, and its points.
type TestSeries = (String, i64, Vec<(i64, f64)>);

/// Three hours of points until `now`: gauges, counters that are reset, gaps, and one series that has ended.
fn series(now: i64) -> Vec<TestSeries> {
    let mut rng = fastrand::Rng::with_seed(14);
    let mut series = Vec::new();
    for (path, step) in [
        ("palm.a.cpu", 10),
        ("palm.b.cpu", 10),
        ("palm.c.cpu", 10),
        ("palm.a.mem", 60),
        ("palm.b.mem", 60),
        ("palm.a.net", 10),
        ("palm.b.net", 10),
        ("palm.c.net", 10),
        ("disk2", 30),
        ("disk10", 30),
        ("disk1", 30),
        ("cpu;dc=x;host=palm", 10),
        ("cpu;dc=y;host=elm", 10),
        ("cpu;dc=x;host=oak", 10),
        ("mem;host=palm", 60),
    ] {
        let (mut counter, mut gap) = (0.0, 0);
        let mut points = Vec::new();
        for second in (now - 3 * 60 * 60..=now).step_by(step) {
            counter += f64::from(rng.u16(..100));
            if rng.u16(..200) == 0 {
                counter = 0.0;
            }
            if gap == 0 && rng.u8(..20) == 0 {
                gap = rng.u8(1..6);
            }
            gap -= u8::from(gap > 0);
            // The first series has no gaps.
            if gap == 0 || path == "palm.a.cpu" {
                let value = if path.ends_with("net") { counter } else { rng.f64() * 100.0 };
                points.push((second, (value * 1000.0).round() / 1000.0));
            }
        }
        series.push((path.into(), i64::try_from(step).unwrap(), points));
    }
    let ended = (now - DAY..now - DAY + 600).step_by(10).map(|second| (second, 1.5));
    series.push(("palm.a.old".into(), 10, ended.collect()));
    // A hundred series for the comparison of rates.
    for index in 0..100 {
        let points = (0..1000).map(|at| (now - 10 * at, rng.f64()));
        series.push((format!("rate.s{index}"), 10, points.collect()));
    }
    series
}

/// The parameters with which each target is asked for.
const RANGES: &[&[(&str, &str)]] = &[
    &[("from", "-1h")],
    &[("from", "-47min"), ("until", "-13min"), ("maxDataPoints", "50")],
    &[("from", "-1h"), ("maxDataPoints", "7"), ("xFilesFactor", "0.6")],
];

fn assert_equal(differences: &[String], targets: usize) {
    println!("{} of {targets} answers differ", differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
#[ignore = "starts graphite-web"]
async fn each_function_answers_as_graphite_web() {
    let Some(reference) = Reference::start().await else { return };
    let tested: HashSet<&str> = EACH_FUNCTION
        .iter()
        .flat_map(|target| target.split(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    for function in functions().keys() {
        assert!(tested.contains(function), "{function} is not compared");
    }
    let mut differences = Vec::new();
    for target in EACH_FUNCTION {
        for params in RANGES {
            if let Some(difference) = reference.compare(target, params).await {
                differences.push(format!("{target} {params:?}: {difference}"));
            }
        }
    }
    assert_equal(&differences, EACH_FUNCTION.len() * RANGES.len());
}

#[tokio::test]
#[ignore = "starts graphite-web"]
async fn random_targets_answer_as_graphite_web() {
    let Some(reference) = Reference::start().await else { return };
    let mut targets = RandomTargets::with_seed(14);
    let mut differences = Vec::new();
    let mut with_values = 0;
    for index in 0..500 {
        let target = targets.target(1 + index % 4);
        let params = RANGES[index % RANGES.len()];
        let asked = [params, &[("target", &target)]].concat();
        let here = answer(&reference.store, &asked, reference.now).await.unwrap_or_default();
        with_values += usize::from(String::from_utf8_lossy(&here).contains("[["));
        if let Some(difference) = reference.compare(&target, params).await {
            differences.push(format!("{target} {params:?}: {difference}"));
        }
    }
    assert_equal(&differences, 500);
    println!("{with_values} answers have points");
    assert!(with_values > 400);
}

#[tokio::test]
#[ignore = "starts graphite-web"]
async fn other_formats_are_written_as_by_graphite_web() {
    let Some(reference) = Reference::start().await else { return };
    for (format, tz) in [("csv", "UTC"), ("csv", "Europe/Berlin"), ("raw", "UTC")] {
        for target in ["palm.*.cpu", r#"alias(palm.b.mem, 'a "b", c')"#, "palm.a.nothing"] {
            let now = reference.now.to_string();
            let params = [
                ("target", target),
                ("now", &now),
                ("from", "-5min"),
                ("format", format),
                ("tz", tz),
            ];
            let (status, expected) = reference.get("/render", &params).await;
            let got = answer(&reference.store, &params, reference.now).await.unwrap();
            assert_eq!(status, 200);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
        }
    }
}

#[tokio::test]
#[ignore = "starts graphite-web"]
async fn times_are_read_as_by_graphite_web() {
    let Some(reference) = Reference::start().await else { return };
    let now = reference.now.to_string();
    for from in [
        "-6h",
        "-1d",
        "-1d12h",
        "-2weeks",
        "-1mon",
        "-1y",
        "now-90s",
        "today",
        "yesterday",
        "midnight",
        "noon yesterday",
        "teatime",
        "6pm yesterday",
        "6:05am",
        "08:50_20200813",
        "20200813",
        "08/13/20",
        "8/13/1999",
        "17:04_08/13/20",
        "aug13",
        "August_3",
        "noon_jan_2",
        "monday",
        "wed",
        "8:00_thursday",
        "midnight-1h",
        "1600000000",
        "12am",
        "12pm",
    ] {
        for tz in ["UTC", "Europe/Berlin", "America/New_York"] {
            // The first point of a constant line is at `from`, if that is before `until`.
            let params = [
                ("target", "constantLine(1)"),
                ("now", &now),
                ("from", from),
                ("tz", tz),
                ("until", "20991231"),
                ("format", "json"),
            ];
            let (status, expected) = reference.get("/render", &params).await;
            assert_eq!(status, 200, "{from}");
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            let tz_here = metrics_server::graphite::time_zone(tz).unwrap_or(TimeZone::UTC);
            let got = parse_time(from, reference.now, &tz_here).unwrap();
            assert_eq!(expected[0]["datapoints"][0][1], got, "{from} {tz}");
        }
    }
}

/// Prints how many times as fast a hundred series of a thousand points are rendered here: in a development build,
/// and without HTTP on this side.
#[tokio::test]
#[ignore = "starts graphite-web"]
async fn rate_beside_graphite_web() {
    let Some(reference) = Reference::start().await else { return };
    let now = reference.now.to_string();
    let params = [
        ("target", "rate.*"),
        ("now", &now),
        ("from", "-10000s"),
        ("format", "json"),
        ("noCache", "1"),
    ];
    let begin = Instant::now();
    let (_, expected) = reference.get("/render", &params).await;
    let there = begin.elapsed();
    const ROUNDS: u32 = 20;
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        let got = answer(&reference.store, &params, reference.now).await.unwrap();
        assert_eq!(got.len(), expected.len());
    }
    let here = begin.elapsed() / ROUNDS;
    let times = there.as_secs_f64() / here.as_secs_f64();
    println!("graphite-web {there:?}, here {here:?}: {times:.0} times the rate");
}
