//! A relay to influxd 1.6 (Debian's package), which the tests start on loopback.

use std::{fmt::Write as _, net::SocketAddr, path::Path, process::Command};

use metrics_client::{Key, Point, Sample};
use metrics_server::relay::Destination;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    program::{Program, free_addr},
    *,
};

const PROGRAM: &str = "/usr/bin/influxd";

struct Influxd {
    program: Program,
    addr: SocketAddr,
    dir: tempfile::TempDir,
    /// With what its requests are authorized.
    authorization: &'static str,
}

impl Influxd {
    /// Starts it with some settings of its sections. Returns `None` if it is not installed.
    async fn start(data: &str, http: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("SKIPPED: influxd is not installed: `apt-get install influxdb`");
            return None;
        }
        let (addr, rpc) = (free_addr(), free_addr());
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display();
        let mut config = format!("reporting-disabled = true\nbind-address = \"{rpc}\"\n");
        write!(
            config,
            "[meta]\n  dir = \"{folder}/meta\"\n\
             [data]\n  dir = \"{folder}/data\"\n  wal-dir = \"{folder}/wal\"\n  wal-fsync-delay = \"0s\"\n  \
             query-log-enabled = false\n{data}\n\
             [http]\n  bind-address = \"{addr}\"\n  log-enabled = false\n{http}\n\
             [monitor]\n  store-enabled = false\n"
        )
        .unwrap();
        std::fs::write(dir.path().join("influxdb.conf"), config).unwrap();
        let program = Self::program(dir.path(), addr);
        let influxd = Self { program, addr, dir, authorization: "" };
        if !http.contains("auth-enabled") {
            influxd.query("POST", "CREATE DATABASE m").await;
        }
        Some(influxd)
    }

    fn program(dir: &Path, addr: SocketAddr) -> Program {
        let mut command = Command::new(PROGRAM);
        command.arg("-config").arg(dir.join("influxdb.conf"));
        Program::start(&mut command, addr, &dir.join("log"))
    }

    fn restart(&mut self) {
        self.program = Self::program(self.dir.path(), self.addr);
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> String {
        let mut io = TcpStream::connect(self.addr).await.unwrap();
        let (len, authorization) = (body.len(), self.authorization);
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len}\r\n{authorization}\r\n{body}"
        );
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn query(&self, method: &str, query: &str) -> Value {
        let encoded: String = query.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let path = format!("/query?db=m&epoch=s&q={encoded}");
        let answer = self.request(method, &path, "").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 OK"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    fn relay(&self, options: &str) -> RelayBuilder {
        let destination: Destination =
            format!("influx+http://{}/m?{options}", self.addr).parse().unwrap();
        Relay::builder(destination)
    }

    /// Returns everything that is stored.
    async fn points(&self) -> Points {
        let answer = self.query("GET", "SELECT value FROM /.*/ GROUP BY *").await;
        let mut points = Points::new();
        let series = answer["results"][0]["series"].as_array().cloned().unwrap_or_default();
        for series in series {
            let name = series["name"].as_str().unwrap();
            let tags = series["tags"].as_object().cloned().unwrap_or_default();
            // A tag that this series has not is shown as empty.
            let tags = tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str().unwrap()));
            let key = Key::with_labels(name, tags.filter(|(_, value)| !value.is_empty())).unwrap();
            for row in series["values"].as_array().unwrap() {
                let (second, value) = (row[0].as_i64().unwrap(), row[1].as_f64().unwrap());
                points.insert((key.as_str().to_owned(), second), value);
            }
        }
        points
    }
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn influxd_gets_every_point() {
    let Some(influxd) = Influxd::start("", "").await else { return };
    let source = Source::start(influxd.relay("")).await;
    source.put(0..2000).await;
    // Names and values of all kinds.
    let mut rng = fastrand::Rng::with_seed(7);
    let names = ["a b", "a,b=c", "a=b", r"a\b", "ключ", "\"q\"", "a.b-c/d", "x;y%", "'"];
    let samples: Vec<_> = (0..3000)
        .map(|_| {
            let mut text = || rng.usize(0..names.len());
            // One set of tags for each measurement: `GROUP BY *` confuses series that lack one of them.
            let name = text();
            let labels =
                [(names[(name + 1) % names.len()], names[text()]), ("host", names[text()])];
            let key = Key::with_labels(names[name], labels).unwrap();
            let value = loop {
                let value = f64::from_bits(rng.u64(..));
                if value.is_finite() {
                    break value;
                }
            };
            Sample { key, point: Point::new(value, FIRST + rng.i64(-1000..1000)) }
        })
        .collect();
    source.client.put_all(samples).await.unwrap();
    let unrepresentable = ["#a", "a;b=", "a%0Ab"];
    for key in unrepresentable {
        source.client.put_at(key, 1.0, FIRST).await.unwrap();
    }
    source.client.put_at("too.late", 1.0, i64::MAX).await.unwrap();
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.dropped.unrepresentable), (9000, 4));
    let mut expected = source.points().await;
    expected.retain(|(key, _), _| !unrepresentable.contains(&key.as_str()) && key != "too.late");
    assert_same(&influxd.points().await, &expected);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn later_values_win_in_influxd() {
    let Some(mut influxd) = Influxd::start("", "").await else { return };
    let source = Source::start(influxd.relay("request_timeout=1s")).await;
    for version in 0..300 {
        source
            .client
            .put_at("palm.cpu", f64::from(version), FIRST + version as i64 % 3)
            .await
            .unwrap();
        if version == 100 {
            influxd.program.kill();
        }
        if version == 200 {
            influxd.restart();
        }
    }
    source.until_settled().await;
    assert_same(&influxd.points().await, &source.points().await);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn killed_influxd_gets_what_it_missed() {
    let Some(mut influxd) = Influxd::start("", "").await else { return };
    let source = Source::start(influxd.relay("request_timeout=2s")).await;
    for round in 0..4 {
        source.put(round * 2000..(round + 1) * 2000).await;
        influxd.program.kill();
        source.put((round + 10) * 2000..(round + 11) * 2000).await;
        source.until("spooled", |stats| stats.spooled > 0).await;
        influxd.restart();
    }
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.dropped.total()), (48_000, 0));
    assert!(stats.failures > 0);
    assert_same(&influxd.points().await, &source.points().await);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn stopped_influxd_delays_no_put() {
    let Some(influxd) = Influxd::start("", "").await else { return };
    let source =
        Source::start(influxd.relay("request_timeout=1s").max_queue_bytes(256 * 1024)).await;
    influxd.program.signal("-STOP");
    for round in 0..10 {
        source.put(round * 1000..(round + 1) * 1000).await;
        source.until("spooled", |stats| stats.queue_bytes < 128 * 1024).await;
    }
    let stats = source.until("failed", |stats| stats.failures > 0).await;
    assert_eq!((stats.delivered, stats.dropped.total()), (0, 0));
    influxd.program.signal("-CONT");
    let stats = source.until_settled().await;
    assert_eq!(stats.delivered, 30_000);
    assert_same(&influxd.points().await, &source.points().await);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn full_influxd_gets_points_once_it_has_room() {
    // It answers 500 while its cache is full, which it writes out when it is cold.
    let data = "  cache-max-memory-size = 1000000\n  cache-snapshot-write-cold-duration = \"1s\"\n  cache-snapshot-memory-size = 100000000\n";
    let Some(influxd) = Influxd::start(data, "").await else { return };
    let source = Source::start(influxd.relay("")).await;
    for round in 0..10 {
        source.put(round * 4000..(round + 1) * 4000).await;
    }
    let stats = source.until_settled().await;
    assert!(stats.failures > 0, "{stats:?}");
    assert_eq!((stats.delivered, stats.rejected), (120_000, 0));
    assert_same(&influxd.points().await, &source.points().await);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn requests_too_large_for_influxd_are_split() {
    let Some(influxd) = Influxd::start("", "  max-body-size = 10000\n").await else { return };
    let source = Source::start(influxd.relay("gzip=off")).await;
    source.put(0..2000).await;
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.failures), (6000, 0));
    assert_same(&influxd.points().await, &source.points().await);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn points_that_influxd_refuses_are_counted() {
    let Some(influxd) = Influxd::start("", "").await else { return };
    // From now on the field is an integer.
    let line = format!("eardrum.cpu value=1i {}", FIRST - 1);
    let answer = influxd.request("POST", "/write?db=m&precision=s", &line).await;
    assert!(answer.contains(" 204 "), "{answer}");
    let source = Source::start(influxd.relay("")).await;
    source.put(0..2000).await;
    let stats = source.until_settled().await;
    assert_eq!((stats.delivered, stats.rejected, stats.failures), (4000, 2000, 0));
    let mut expected = source.points().await;
    expected.retain(|(key, _), _| key != "eardrum.cpu");
    expected.insert(("eardrum.cpu".into(), FIRST - 1), 1.0);
    assert_same(&influxd.points().await, &expected);
}

#[tokio::test]
#[ignore = "starts influxd"]
async fn access_that_influxd_denies_loses_nothing() {
    let Some(mut influxd) = Influxd::start("", "  auth-enabled = true\n").await else { return };
    influxd.query("POST", "CREATE USER u WITH PASSWORD 'p:w' WITH ALL PRIVILEGES").await;
    influxd.authorization = "Authorization: Basic dTpwOnc=\r\n";
    influxd.query("POST", "CREATE DATABASE m").await;
    let source = Source::start(influxd.relay("")).await;
    source.put(0..100).await;
    let stats = source.until("denied", |stats| stats.failures > 0).await;
    assert_eq!((stats.delivered, stats.rejected), (0, 0));
    let (spool, store) = source.stop().await;
    let url = format!("influx+http://u:p%3Aw@{}/m", influxd.addr);
    let relay = Relay::builder(url.parse().unwrap());
    let source = Source::with(relay, spool, store).await;
    let stats = source.until_settled().await;
    assert_eq!((stats.recovered, stats.delivered), (300, 300));
    assert_same(&influxd.points().await, &source.points().await);
}
