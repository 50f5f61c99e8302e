//! `metrics serve --relay`: what any listener stores arrives at the destination, also after an outage.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{Server, assert_status, metrics, stderr, stdout};

mod support;

/// Asks a server for everything until its answer has these lines, in any order.
fn wait_for(address: &str, lines: &[&str]) {
    wait_until(|| {
        let output = metrics().args(["get", "*"]).env("METRICS_SERVER", address).output().unwrap();
        let text = stdout(&output);
        output.status.success() && lines.iter().all(|line| text.contains(&format!("put {line}\n")))
    });
}

/// Asks again and again until the answer is true. Fails after a minute.
#[track_caller]
fn wait_until(mut is_reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_reached() {
        assert!(begin.elapsed() < Duration::from_secs(60), "not reached within a minute");
        thread::sleep(Duration::from_millis(20));
    }
}

fn request(server: &Server, head: &str, body: &str) -> String {
    let mut peer = TcpStream::connect(server.address_of("http://")).unwrap();
    let len = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}"
    );
    peer.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    answer
}

/// Returns the value of a figure of a relay.
fn figure(text: &str, name: &str, labels: &str) -> u64 {
    let line = format!("metrics_relay_{name}{{{labels}}} ");
    let found = text.lines().find_map(|found| found.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

/// Checks that the figures of a relay add up, and returns them.
fn balanced(server: &Server, relay: &str) -> String {
    let text = request(server, "GET /metrics", "");
    let label = format!("relay=\"{relay}\"");
    let of = |name| figure(&text, name, &label);
    let reasons =
        ["queue_full", "spool_full", "spool_damaged", "closed", "invalid_key", "unrepresentable"];
    let dropped = reasons
        .map(|reason| figure(&text, "dropped_total", &format!("{label},reason=\"{reason}\"")));
    let settled = of("delivered_total") + of("filtered_total") + of("rejected_total");
    let left = of("waiting") + of("spooled");
    assert_eq!(
        of("applied_total") + of("recovered_total"),
        settled + dropped.iter().sum::<u64>() + left,
        "{text}"
    );
    text
}

#[test]
fn points_of_every_listener_are_relayed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().to_str().unwrap();
    let other = Server::start();
    for data in [&["--data", spool][..], &["--relay-spool", spool]] {
        let relay = format!("metrics://{}", other.address);
        let args = ["--http", "127.0.0.1:0", "--graphite", "127.0.0.1:0", "--relay", &relay];
        let server = Server::start_with(&[data, &args].concat());
        let name = relay.replace([':', '/'], "-").replace("---", "-");
        balanced(&server, &name);
        assert_status(&server.run(&["put", "palm.cpu", "23.7", "1150864247"]), 0);
        let mut graphite = TcpStream::connect(server.address_of("graphite://")).unwrap();
        graphite.write_all(b"palm.mem;core=0 5 1150864247\n").unwrap();
        drop(graphite);
        let answer =
            request(&server, "POST /write?db=d&precision=s", "disk,host=palm free=7 1150864247");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        wait_for(
            &other.address,
            &[
                "palm.cpu 23.7 1150864247",
                "palm.mem;core=0 5.0 1150864247",
                "disk.free;host=palm 7.0 1150864247",
            ],
        );
        let label = format!("relay=\"{name}\"");
        wait_until(|| figure(&balanced(&server, &name), "delivered_total", &label) == 3);
        let status = request(&server, "GET /api/v1/status", "");
        assert!(status.contains("metrics_relay_up{relay="), "{status}");
    }
}

/// A server on a known port.
struct Other(Child);

impl Other {
    fn start(address: &str) -> Self {
        let mut process = metrics()
            .args(["serve", "--listen", address])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(address), "{line}");
        Self(process)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn points_survive_an_outage_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.toml");
    // The port of a server that has ended.
    let address = {
        let mut gone = Server::start();
        gone.process.kill().unwrap();
        gone.process.wait().unwrap();
        gone.address.clone()
    };
    let data = dir.path().join("data");
    let config = format!(
        "data = {data:?}\nhttp = \"127.0.0.1:0\"\n[[relay]]\nname = \"other\"\nurl = \"metrics://{address}\"\n\
         only = [\"palm.*\", \"olive\"]\nexcept = [\"*.debug\"]\n\
         rename = [{{ from = \"palm.*\", to = \"site1.$1\" }}]\nspill-after = \"0s\"\n"
    );
    fs::write(&file, config).unwrap();
    let start = || Server::start_with(&["--config", file.to_str().unwrap()]);
    let lines: String = (0..1000).map(|second| format!("palm.cpu {second}.5 {second}\n")).collect();
    for signal in ["-TERM", "-KILL"] {
        let mut server = start();
        assert_status(&server.run_with(&["import"], lines.as_bytes()), 0);
        assert_status(&server.run(&["put", "palm.debug", "1", "1"]), 0);
        assert_status(&server.run(&["put", "eardrum.cpu", "1", "1"]), 0);
        let label = "relay=\"other\"";
        wait_until(|| {
            let text = balanced(&server, "other");
            let of = |name| figure(&text, name, label);
            of("filtered_total") == 2 && of("waiting") == 0 && of("spooled") >= 1000
        });
        server.signal(signal);
        server.process.wait().unwrap();
    }
    let other = Other::start(&address);
    let server = start();
    assert_status(&server.run(&["put", "palm.cpu", "7", "999"]), 0);
    // The newest value of the second.
    wait_for(&address, &["site1.cpu 0.5 0", "site1.cpu 998.5 998", "site1.cpu 7.0 999"]);
    let stored = metrics().args(["get", "*"]).env("METRICS_SERVER", &address).output().unwrap();
    assert_eq!(stdout(&stored).lines().count(), 1000);
    balanced(&server, "other");
    drop(other);
}

#[test]
fn invalid_relays_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let file = dir.path().join("metrics.toml");
    let check = |args: &[&str], text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = metrics();
        command.args(["serve", "--check-config", "--config", file.to_str().unwrap()]).args(args);
        command.output().unwrap()
    };
    let relay = "[[relay]]\nurl = \"metrics://palm:1\"\n";
    for (args, text, reason) in [
        (&["--relay", "metrics://palm:1"][..], "", "set --data DIR or --relay-spool DIR"),
        (&["--relay-spool", data], "", "set --relay URL"),
        (&["--data", data, "--relay", "http://palm:1"], "", "unknown scheme"),
        (&["--data", data, "--relay", "metrics://palm"], "", "port"),
        (&["--data", data], "[[relay]]\nname = \"a\"\n", "url"),
        (&["--data", data], &format!("{relay}token-file = \"/no/file\"\n"), "cannot read /no/file"),
        (&["--data", data, "--relay", "influx+http://u:p@palm"], "", "name a database"),
        (&["--data", data], &format!("{relay}patterns = []\n"), "patterns"),
        (&["--data", data], &format!("{relay}{relay}"), "two relays are named"),
        (&["--data", data], &format!("{relay}spill-after = \"1\"\n"), "spill-after"),
        (
            &["--data", data],
            &format!("{relay}rename = [{{ from = \"a\", to = \"$1\" }}]\n"),
            "has 0 wildcards",
        ),
    ] {
        let output = check(args, text);
        assert_status(&output, 2);
        assert!(stderr(&output).contains(reason), "{args:?} {text}: {}", stderr(&output));
    }
    let two = ["--data", data, "--relay", "metrics://palm:1", "--relay", "metrics://palm:2"];
    assert_status(&check(&two, ""), 0);
    // The command line comes before the file.
    assert_status(&check(&two, &format!("{relay}{relay}")), 0);
}
