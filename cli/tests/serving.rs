//! `metrics serve` as an operator runs it: where its options come from, systemd, memory.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use support::{DIST, Server, assert_status, assert_unit, metrics, stderr, stdout};

mod support;

#[test]
fn flag_wins_over_env_over_file_over_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.toml");
    // Ports that are taken.
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = ports.each_ref().map(|port| port.local_addr().unwrap().to_string());
    // No value can be used, so that the error names the one that was chosen.
    for (option, needs, [in_file, in_env, in_flag]) in [
        ("listen", "", taken.each_ref().map(String::as_str)),
        ("store", "", ["one:", "two:", "three:"]),
        ("keep", "d", ["1y", "2y", "3y"]),
        ("sync", "d", ["1x", "2x", "3x"]),
        ("tls-cert", "", ["/no/cert1", "/no/cert2", "/no/cert3"]),
        ("tls-key", "", ["/no/key1", "/no/key2", "/no/key3"]),
        ("tls-client-ca", "", ["/no/ca1", "/no/ca2", "/no/ca3"]),
        ("max-memory", "", ["1MiB", "2MiB", "3MiB"]),
    ] {
        let run = |text: String, env: Option<&str>, flag: Option<&str>| {
            fs::write(&file, text).unwrap();
            let mut command = metrics();
            command.args(["serve", "--config", file.to_str().unwrap()]);
            if option != "listen" {
                command.arg("--check-config");
            }
            // What else the option needs before its value is looked at.
            match option {
                "tls-cert" => command.args(["--tls-key", "/dev/null"]),
                "tls-key" => command.args(["--tls-cert", "/dev/null"]),
                "tls-client-ca" => {
                    command.args(["--tls-cert", "/dev/null", "--tls-key", "/dev/null"])
                }
                _ if needs == "d" => command.args(["--data", dir.path().to_str().unwrap()]),
                _ => &mut command,
            };
            if let Some(value) = env {
                let name = format!("METRICS_{}", option.replace('-', "_").to_uppercase());
                command.env(name, value);
            }
            if let Some(value) = flag {
                command.arg(format!("--{option}")).arg(value);
            }
            command.output().unwrap()
        };
        let text = format!("{option} = \"{in_file}\"\n");
        for (output, used) in [
            (run(text.clone(), None, None), in_file),
            (run(text.clone(), Some(in_env), None), in_env),
            (run(text, Some(in_env), Some(in_flag)), in_flag),
            (run(String::new(), Some(in_env), None), in_env),
            (run(String::new(), None, Some(in_flag)), in_flag),
        ] {
            assert_status(&output, 2);
            assert!(stderr(&output).contains(used), "{option} {used}: {}", stderr(&output));
        }
        if option != "listen" && !option.starts_with("tls") {
            assert_status(&run(String::new(), None, None), 0);
        }
    }
}

#[test]
fn store_and_data_of_different_levels_do_not_clash() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let check = |env: &[(&str, &str)], args: &[&str]| {
        let mut command = metrics();
        command.args(["serve", "--check-config"]).args(args).envs(env.iter().copied());
        command.output().unwrap()
    };
    assert_status(&check(&[("METRICS_DATA", data)], &["--store", "memory:"]), 0);
    // --keep needs a folder, so that this one is used.
    assert_status(&check(&[("METRICS_STORE", "memory:")], &["--data", data, "--keep", "1d"]), 0);
    for (env, args) in [
        ([("METRICS_DATA", data), ("METRICS_STORE", "memory:")].as_slice(), [].as_slice()),
        (&[], &["--data", data, "--store", "memory:"]),
    ] {
        let output = check(env, args);
        assert_status(&output, 2);
        assert!(stderr(&output).contains("choose one"), "{}", stderr(&output));
    }
}

#[test]
fn invalid_file_names_the_key_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.toml");
    for (text, key) in [
        ("# A comment.\n\nlistne = \"127.0.0.1:1\"\n", "listne"),
        ("\n\nlisten = \"localhost\"\n", "listen"),
        ("\n\nmax-memory = \"1GB\"\n", "max-memory"),
        ("\n\nmax-memory = -1\n", "max-memory"),
        ("\n\nmax_connections = 1\n", "max_connections"),
        ("\n\nkeep = 30\n", "keep"),
        ("\n\n[serve]\nlisten = \"127.0.0.1:1\"\n", "serve"),
    ] {
        fs::write(&file, text).unwrap();
        let args = ["serve", "--check-config", "--config", file.to_str().unwrap()];
        let output = metrics().args(args).output().unwrap();
        assert_status(&output, 2);
        for part in ["line 3", key, "metrics.toml"] {
            assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
        }
    }
}

#[test]
fn list_of_servers_goes_on_to_the_next() {
    let server = Server::start();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let list = format!("{free},{}", server.address);
    for _ in 0..4 {
        let put = metrics().args(["put", "a", "1", "10", "--server", &list]).output().unwrap();
        assert_status(&put, 0);
    }
    assert_eq!(stdout(&server.run(&["get", "a"])), "put a 1.0 10\n");
}

#[test]
fn sd_notify_says_ready_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut process = metrics()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut message = [0; 256];
    let mut next = || {
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..len]).into_owned()
    };
    assert!(next().contains("READY=1"));
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().nth(1).unwrap().trim_start_matches("metrics://");

    // A reader that does not read: its connection does not end by itself.
    let mut reader = TcpStream::connect(address).unwrap();
    let lines = (0..200_000).map(|second| format!("put a 1 {second}\n")).collect::<String>();
    reader.write_all(lines.as_bytes()).unwrap();
    let mut answers = vec![0; 200_000 * "ok\n\n".len()];
    reader.read_exact(&mut answers).unwrap();
    reader.write_all(&"get a\n".repeat(64).into_bytes()).unwrap();
    reader.read_exact(&mut [0; 2]).unwrap();

    let kill = || {
        let killed = Command::new("kill").arg(process.id().to_string()).status().unwrap();
        assert!(killed.success());
    };
    kill();
    assert!(next().contains("STOPPING=1"));
    kill();
    assert_eq!(process.wait().unwrap().code(), Some(143), "the second signal ends it at once");
}

#[test]
fn example_of_a_configuration_is_valid_and_complete() {
    let example = fs::read_to_string(Path::new(DIST).join("metrics.toml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let args = ["serve", "--check-config", "--config", file.to_str().unwrap()];
        metrics().args(args).output().unwrap()
    };
    assert_status(&check(&example), 0);
    let keys = example
        .lines()
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .filter(|line| !line.is_empty() && !line.starts_with(' '))
        .collect::<Vec<_>>();
    // The table of a relay comes last.
    let table = keys.iter().position(|line| *line == "[[relay]]").unwrap();
    let (keys, relay) = keys.split_at(table);
    let relay = relay.iter().filter(|line| !line.starts_with("token-file"));
    let relay = relay.copied().collect::<Vec<_>>().join("\n");
    assert_status(&check(&format!("data = \"d\"\n{relay}")), 0);
    for line in keys {
        // Keys that need each other.
        let (key, _) = line.split_once(" = ").unwrap();
        let text = match key {
            "keep" | "sync" | "max-disk" => format!("data = \"d\"\n{line}"),
            "relay-spool" => format!("{line}\n[[relay]]\nurl = \"metrics://palm:8888\""),
            "no-token" => format!("http = \"0.0.0.0:80\"\n{line}"),
            // The files are not there: the error is about the next step.
            _ if key.starts_with("tls") || key == "token-file" => continue,
            _ => (*line).to_owned(),
        };
        assert_status(&check(&text), 0);
    }
    // An error for an unknown key lists those that are known.
    let unknown = check("no-such-key = 1");
    let known = stderr(&unknown).split("expected one of").nth(1).unwrap().to_owned();
    for key in known.split('`').skip(1).step_by(2) {
        let is_line = |line: &&str| line.starts_with(&format!("{key} = "));
        let commented = keys.iter().any(is_line) || key == "relay";
        assert!(commented, "{key} is not in dist/metrics.toml");
    }
}

#[test]
fn unit_is_valid() {
    let command = "ExecStart=/usr/bin/metrics serve --config /etc/metrics/metrics.toml";
    assert_unit("metrics.service", &["StateDirectory=metrics", command]);
}

#[test]
fn manual_and_completions_of_the_package_are_current() {
    for (args, name) in [
        (["man"].as_slice(), "metrics.1"),
        (&["completions", "bash"], "completions/metrics.bash"),
        (&["completions", "zsh"], "completions/metrics.zsh"),
        (&["completions", "fish"], "completions/metrics.fish"),
    ] {
        let packaged = fs::read_to_string(Path::new(DIST).join(name)).unwrap();
        let output = metrics().args(args).output().unwrap();
        assert!(stdout(&output) == packaged, "{name} is old: run cli/dist/generate");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn max_memory_bounds_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_with(&["--data", data.to_str().unwrap(), "--max-memory", "32MiB"]);
    // Six times what the head may have. With the default, the head alone has all of them, and the process 20 MB.
    let lines =
        (0..1_000_000).map(|n| format!("key{} {n} {}\n", n % 100, n / 100)).collect::<String>();
    assert_status(&server.run_with(&["import"], lines.as_bytes()), 0);
    assert_eq!(stdout(&server.run(&["get", "key7"])).lines().count(), 10_000);
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let kib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    // Without the code of the program, which is 25 MB without optimizations.
    let peak_kib = kib("VmHWM:") - kib("RssFile:");
    assert!(peak_kib < 14 * 1024, "{peak_kib} KiB");
}
