//! `metrics agent` as an operator runs it: what it prints and sends, signals, its configuration, its unit.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use self::support::{DIST, Server, assert_status, assert_unit, metrics, stderr, stdout};

/// A `metrics agent` of its own, which ends with the test.
struct AgentProcess {
    process: Child,
    log: BufReader<ChildStderr>,
    /// What it says that it does.
    line: String,
}

impl AgentProcess {
    /// Starts it, and returns when it measures.
    fn start(args: &[&str]) -> Self {
        let mut process = metrics()
            .arg("agent")
            .args(args)
            .env("METRICS_INTERVAL", "1s")
            .env("RUST_LOG", "metrics=info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        assert!(line.starts_with("measuring every "), "{line}");
        Self { process, log, line }
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Returns the next line of its log with this text.
    fn logged(&mut self, text: &str) -> String {
        let mut lines = self.log.by_ref().lines().map_while(Result::ok);
        lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("not logged: {text}"))
    }

    fn stop(mut self) {
        self.signal("-TERM");
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the points of a key, when there are some.
fn points(server: &Server, key: &str) -> Vec<String> {
    let limit = Instant::now() + Duration::from_secs(60);
    while Instant::now() < limit {
        let output = server.run(&["get", key]);
        if !output.stdout.is_empty() {
            return stdout(&output).lines().map(Into::into).collect();
        }
    }
    panic!("there is no {key}");
}

fn file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().into();
    (dir, path)
}

#[test]
fn once_prints_what_would_be_sent_in_each_format() {
    let host = if cfg!(target_os = "linux") { "uptime" } else { "memory" };
    for (format, begins, contains) in [
        ("line", "put palm.", format!("put palm.{host} ")),
        ("json", "{\"key\":\"palm.", format!("\"palm.{host}\"")),
        ("csv", "key,value,timestamp", format!("palm.{host},")),
        ("table", "time ", format!("palm.{host}")),
    ] {
        let output =
            metrics().args(["agent", "--once", "--host", "palm", "-o", format]).output().unwrap();
        assert_status(&output, 0);
        assert!(stdout(&output).starts_with(begins), "{}", stdout(&output));
        assert!(stdout(&output).contains(&contains), "{}", stdout(&output));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn flag_comes_before_variable_before_file() {
    let (_dir, path) =
        file("host = \"a\"\nkeys = \"labels\"\ninclude = [\"memory\"]\nlabels = { dc = \"x\" }\n");
    let once = |args: &[&str], variables: &[(&str, &str)]| {
        let output = metrics()
            .args(["agent", "--once", "-o", "line", "--config", &path])
            .args(args)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert_status(&output, 0);
        stdout(&output).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(once(&[], &[]), "memory;dc=x;host=a");
    let variables = [("METRICS_HOST", "b"), ("METRICS_LABELS", "dc=y,rack=1")];
    assert_eq!(once(&[], &variables), "memory;dc=y;host=b;rack=1");
    let flags = ["--host", "c.example", "--keys", "dotted", "--label", "dc=z"];
    assert_eq!(once(&flags, &variables), "c_example.memory;dc=z");
}

#[test]
fn configuration_that_is_invalid_is_named() {
    for (text, fault) in [
        ("hots = \"a\"", "hots"),
        ("interval = \"0s\"", "--interval"),
        ("interval = \"10\"", "--interval"),
        ("server = \"\"", "invalid address"),
        ("server = \"metrics+tls://a:1?ca_file=/not/there\"", "ca_file"),
        ("include = [\"a[b\"]", "invalid glob"),
        ("max-spool = \"1GiB\"", "--spool"),
        ("keys = \"host\"", "keys"),
    ] {
        let (_dir, path) = file(text);
        let output =
            metrics().args(["agent", "--check-config", "--config", &path]).output().unwrap();
        assert_status(&output, 2);
        assert!(stderr(&output).contains(fault), "{text}: {}", stderr(&output));
    }
}

#[test]
fn packaged_configuration_has_every_key() {
    let text = fs::read_to_string(Path::new(DIST).join("agent.toml")).unwrap();
    let uncommented = text.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    });
    let (_dir, path) = file(&uncommented.collect::<Vec<_>>().join("\n"));
    let check = |path: &str| {
        metrics().args(["agent", "--check-config", "--config", path]).output().unwrap()
    };
    assert_status(&check(&path), 0);
    // An error for an unknown key lists those that are known.
    let (_dir, path) = file("no-such-key = 1");
    let unknown = check(&path);
    for key in
        stderr(&unknown).split("expected one of").nth(1).unwrap().split('`').skip(1).step_by(2)
    {
        let is_there =
            text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")));
        assert!(is_there, "{key} is not in dist/agent.toml");
    }
}

#[test]
fn reload_keeps_the_old_configuration_if_it_is_invalid() {
    let server = Server::start();
    let (_dir, path) = file("host = \"palm\"\ninclude = [\"memory\"]\n");
    let mut agent = AgentProcess::start(&["--server", &server.address, "--config", &path]);
    points(&server, "palm.memory");
    fs::write(&path, "hots = \"eardrum\"\n").unwrap();
    agent.signal("-HUP");
    let line = agent.logged("invalid configuration, the one before stays in use");
    assert!(line.contains("hots"), "{line}");
    fs::write(&path, "host = \"eardrum\"\ninclude = [\"memory\"]\n").unwrap();
    agent.signal("-HUP");
    agent.logged("reloaded the configuration");
    points(&server, "eardrum.memory");
    agent.stop();
}

#[test]
fn reload_sends_to_another_server() {
    let (one, other) = (Server::start(), Server::start());
    let spool = tempfile::tempdir().unwrap();
    let config = |server: &Server| {
        let spool = spool.path().display();
        format!("server = \"{}\"\nhost = \"palm\"\nspool = \"{spool}\"\n", server.address)
    };
    let (_dir, path) = file(&config(&one));
    let mut agent = AgentProcess::start(&["--config", &path]);
    points(&one, "palm.memory");
    fs::write(&path, config(&other)).unwrap();
    agent.signal("-HUP");
    agent.logged("reloaded the configuration");
    points(&other, "palm.memory");
    agent.stop();
}

#[test]
fn stopped_agent_keeps_its_samples_for_the_next_one() {
    let spool = tempfile::tempdir().unwrap();
    let dir = spool.path().to_str().unwrap();
    // Nothing listens there.
    let absent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = ["--spool", dir, "--stop-timeout", "1s"];
    let start = |server: &str, host: &str| {
        AgentProcess::start(&[&args[..], &["--server", server, "--host", host]].concat())
    };
    let agent = start(&absent.to_string(), "before");
    let limit = Instant::now() + Duration::from_secs(60);
    let is_spooled = || {
        let segments = fs::read_dir(dir).unwrap().flatten();
        segments.map(|segment| segment.metadata().map_or(0, |data| data.len())).sum::<u64>() > 2000
    };
    while !is_spooled() && Instant::now() < limit {
        std::thread::yield_now();
    }
    agent.stop();
    let server = Server::start();
    let agent = start(&server.address, "after");
    points(&server, "before.memory");
    agent.stop();
}

#[test]
fn what_programs_report_is_sent_also_at_the_end() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("statsd.sock");
    let agent = AgentProcess::start(&[
        "--interval=600s",
        "--server",
        &server.address,
        "--host=palm",
        "--statsd=127.0.0.1:0",
        "--statsd-socket",
        socket.to_str().unwrap(),
    ]);
    let address = agent.line.split("statsd://").nth(1).unwrap().trim();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"web.requests:1|c|#method:GET\nweb.requests:2|c|#method:GET", address).unwrap();
    let unix = UnixDatagram::unbound().unwrap();
    unix.send_to(b"web.time:320|ms", &socket).unwrap();
    // It receives both before it ends: they are in its sockets.
    agent.stop();
    let output = server.run(&["get", "palm.web.requests;method=GET"]);
    assert!(
        stdout(&output).starts_with("put palm.web.requests;method=GET 3.0 "),
        "{}",
        stdout(&output)
    );
    let output = server.run(&["get", "palm.web.time.max"]);
    assert!(stdout(&output).starts_with("put palm.web.time.max 320.0 "), "{}", stdout(&output));
    assert!(!socket.exists());
}

#[test]
fn reload_listens_elsewhere_or_as_before() {
    let server = Server::start();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = |statsd: &str| format!("host = \"palm\"\nstatsd = \"{statsd}\"\n");
    let (_dir, path) = file(&config("127.0.0.1:0"));
    let mut agent = AgentProcess::start(&["--server", &server.address, "--config", &path]);
    let address = agent.line.split("statsd://").nth(1).unwrap().trim().to_owned();
    fs::write(&path, config(&taken.local_addr().unwrap().to_string())).unwrap();
    agent.signal("-HUP");
    agent.logged("cannot listen with the new configuration, the one before stays in use");
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fs::write(&path, config(&free)).unwrap();
    agent.signal("-HUP");
    agent.logged("reloaded the configuration");
    assert_ne!(address, free);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"after:1|c", &free).unwrap();
    points(&server, "palm.after");
    agent.stop();
}

#[test]
fn agent_unit_is_valid() {
    let command = "ExecStart=/usr/bin/metrics agent --config /etc/metrics/agent.toml";
    assert_unit("metrics-agent.service", &["StateDirectory=metrics-agent", command]);
}
