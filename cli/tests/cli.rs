//! The program as people run it: its commands, its exit status, what it prints, pipes and signals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::Stdio,
};

use support::{HalfImport, LINES, Server, assert_status, metrics, stderr, stdout};

mod support;

#[test]
fn put_then_get_prints_the_point() {
    let server = Server::start();
    let put = server.run(&["put", "palm.cpu", "23.7", "1150864247"]);
    assert_status(&put, 0);
    assert_eq!((stdout(&put), stderr(&put)), ("", ""));
    assert_status(&server.run(&["put", "palm.cpu", "-0.5", "1970-01-01T00:00:05Z"]), 0);
    let get = server.run(&["get", "palm.cpu"]);
    assert_status(&get, 0);
    assert_eq!(stdout(&get), "put palm.cpu -0.5 5\nput palm.cpu 23.7 1150864247\n");
}

#[test]
fn each_format_prints_the_same_points() {
    let server = Server::start();
    server.run(&["put", "a", "1.5", "0"]);
    server.run(&["put", "b", "1e300", "60"]);
    for (format, expected) in [
        ("line", "put a 1.5 0\nput b 1e300 60\n"),
        ("csv", "key,value,timestamp\na,1.5,0\nb,1e300,60\n"),
        (
            "json",
            "{\"key\":\"a\",\"value\":1.5,\"timestamp\":0}\n{\"key\":\"b\",\"value\":1e+300,\"timestamp\":60}\n",
        ),
    ] {
        for command in [["get", "*"].as_slice(), &["export"]] {
            let output = server.run(&[command, &["-o", format]].concat());
            assert_status(&output, 0);
            assert_eq!(stdout(&output), expected, "{command:?} {format}");
        }
    }
    let table = server.run(&["get", "a", "-o", "table"]);
    assert!(stdout(&table).contains("1970-01-01T00:00:00Z"), "{}", stdout(&table));
}

#[test]
fn get_and_export_take_patterns() {
    let server = Server::start();
    server.run_with(&["import"], b"palm.cpu 1 1\neardrum.cpu 2 1\npalm.mem 3 1\na* 4 1\n");
    for (pattern, expected) in [
        ("palm.*", "put palm.cpu 1.0 1\nput palm.mem 3.0 1\n"),
        ("*.cpu", "put palm.cpu 1.0 1\nput eardrum.cpu 2.0 1\n"),
        ("palm.?pu", "put palm.cpu 1.0 1\n"),
        ("a*", "put a* 4.0 1\n"),
        ("none.*", ""),
    ] {
        for command in ["get", "export"] {
            assert_eq!(stdout(&server.run(&[command, pattern])), expected, "{command} {pattern}");
        }
    }
    assert_status(&server.run(&["get", "none.*", "--fail"]), 4);
}

#[test]
fn a_range_keeps_both_its_ends() {
    let server = Server::start();
    for second in ["10", "20", "30", "40"] {
        server.run(&["put", "a", "1", second]);
    }
    let get = server.run(&["get", "a", "--from", "20", "--until", "30"]);
    assert_eq!(stdout(&get), "put a 1.0 20\nput a 1.0 30\n");
    let reversed = server.run(&["get", "a", "--from", "30", "--until", "20"]);
    assert_status(&reversed, 2);
    assert!(stderr(&reversed).contains("before"), "{}", stderr(&reversed));
}

#[test]
fn exit_status_says_what_went_wrong() {
    let server = Server::start();
    // 2: usage.
    for args in [
        ["get"].as_slice(),
        &["got", "a"],
        &["put", "a", "one"],
        &["put", "a", "1", "yesterday"],
        &["put", "a b", "1"],
        &["put", "a", "inf"],
        &["import", "no such file"],
        &["import", "--resume"],
        &["serve", "--store", "floppy:"],
        &["serve", "--store", "clickhouse://a/b?unknown=1"],
        &["serve", "--store", "clickhouse://a/b", "--sync", "1s"],
        &["get", "a", "--server", "no-port"],
    ] {
        let output = server.run(args);
        assert_status(&output, 2);
        assert!(!stderr(&output).is_empty(), "{args:?}");
    }
    // 4: nothing found.
    assert_status(&server.run(&["get", "no.such.key"]), 0);
    assert_status(&server.run(&["get", "no.such.key", "--fail"]), 4);
    // 3: not reachable.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = server.run(&["get", "a", "--server", &free]);
    assert_status(&output, 3);
    assert!(stderr(&output).contains(&free), "{}", stderr(&output));
}

#[test]
fn invalid_key_or_value_is_named_without_a_server() {
    for (args, named) in [
        (["put", "palm cpu", "1"].as_slice(), "white space"),
        (&["put", "palm.cpu", "nan"], "finite"),
        (&["put", "palm.cpu", "a lot"], "finite"),
        (&["get", "palm cpu"], "white space"),
        (&["export", "palm cpu"], "white space"),
    ] {
        let output = metrics().args(args).args(["--server", "127.0.0.1:1"]).output().unwrap();
        assert_status(&output, 2);
        assert!(stderr(&output).contains(named), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_server_that_refuses_is_status_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = std::thread::spawn(move || {
        let (mut io, _) = listener.accept().unwrap();
        let mut request = [0; 128];
        let _ = io.read(&mut request).unwrap();
        io.write_all(b"error\nolder than 30d\n\n").unwrap();
        // Until the client has gone.
        let _ = io.read(&mut request);
    });
    let output = metrics().args(["put", "a", "1", "--server", &address]).output().unwrap();
    assert_status(&output, 1);
    assert!(stderr(&output).contains("older than 30d"), "{}", stderr(&output));
    peer.join().unwrap();
}

#[test]
fn import_stores_lines_and_names_invalid_ones() {
    let server = Server::start();
    let input = b"put a 1 10\n\n# a comment\na 2 11\nnonsense\nb nan 12\nb 3 13";
    let import = server.run_with(&["import"], input);
    assert_status(&import, 1);
    let said = stderr(&import);
    for part in [
        "line 5: expected key, value and timestamp, found 1 field",
        "line 6: invalid value \"nan\"",
        "imported 3 points",
        "2 lines are invalid",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(stdout(&server.run(&["export"])), "put a 1.0 10\nput a 2.0 11\nput b 3.0 13\n");
}

#[test]
fn export_of_one_server_is_import_of_another() {
    let (one, other) = (Server::start(), Server::start());
    let lines = (0..50_000)
        .map(|n| format!("put host{}.cpu {}.25 {n}\n", n % 7, n % 100))
        .collect::<String>();
    assert_status(&one.run_with(&["import", "-"], lines.as_bytes()), 0);
    let export = one.run(&["export"]);
    assert_status(&export, 0);
    assert_status(&other.run_with(&["import"], &export.stdout), 0);
    assert_eq!(other.run(&["export"]).stdout, export.stdout);
    assert_eq!(stdout(&export).lines().count(), 50_000);
}

#[test]
fn import_resumes_where_the_server_went_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("points");
    let lines = (0..200_000).map(|n| format!("put a {n} {n}\n")).collect::<String>();
    fs::write(&file, &lines).unwrap();
    let path = file.to_str().unwrap();

    // A server that acknowledges some 100,000 lines, and goes away.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = std::thread::spawn(move || {
        let (io, _) = listener.accept().unwrap();
        drop(listener);
        let mut out = io.try_clone().unwrap();
        for line in BufReader::new(io).lines().take(100_000) {
            line.unwrap();
            if out.write_all(b"ok\n\n").is_err() {
                break;
            }
        }
    });
    let stopped =
        metrics().args(["import", path, "--server", &address, "--timeout", "2"]).output().unwrap();
    peer.join().unwrap();
    assert_status(&stopped, 3);
    assert!(stderr(&stopped).contains("--resume"), "{}", stderr(&stopped));

    let server = Server::start();
    let resumed = server.run(&["import", path, "--resume"]);
    assert_status(&resumed, 0);
    let stored = stdout(&server.run(&["get", "a"])).lines().count();
    // What was acknowledged is not sent again, and nothing else is missing.
    assert!((100_000..200_000).contains(&stored), "{stored}");
    assert!(stdout(&server.run(&["get", "a", "--from", "199999"])).contains("199999"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the checkpoint is removed");

    let again = server.run(&["import", path, "--resume"]);
    assert_status(&again, 2);
    assert!(stderr(&again).contains("without --resume"), "{}", stderr(&again));
}

#[test]
fn killed_import_resumes_without_a_gap() {
    let half = HalfImport::new();
    let (path, address) = (half.path.clone(), half.address.clone());
    let mut import = metrics()
        .args(["import", &path, "--server", &address, "--timeout", "600"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = half.dir.path().join("points.import");
    while !checkpoint.exists() {
        std::thread::yield_now();
    }
    import.kill().unwrap();
    import.wait().unwrap();
    let (_dir, acknowledged) = half.acknowledged();

    let server = Server::start();
    assert_status(&server.run(&["import", &path, "--resume"]), 0);
    let export = server.run(&["get", "a"]);
    let seconds =
        stdout(&export).lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap());
    let seconds = seconds.collect::<Vec<usize>>();
    // It begins after what was acknowledged, at most, and nothing behind that is missing.
    assert!((1..=acknowledged).contains(&seconds[0]), "{} of {acknowledged}", seconds[0]);
    assert!(seconds.iter().copied().eq(seconds[0]..LINES), "{}", seconds.len());
}

#[test]
fn silent_or_absent_server_is_status_3() {
    // The kernel accepts, and no server answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), absent] {
        let address = address.to_string();
        for args in [
            ["put", "a", "1"].as_slice(),
            &["get", "a"],
            &["get", "a", "--fail"],
            &["import"],
            &["export"],
            &["bench", "--seconds", "1"],
        ] {
            let mut command = metrics();
            command.args(args).args(["--server", &address, "--timeout", "0.3"]);
            let mut process = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // The reader of it may have ended already.
            let _ = process.stdin.take().unwrap().write_all(b"a 1 2\n");
            let output = process.wait_with_output().unwrap();
            assert_status(&output, 3);
            assert!(stderr(&output).contains(&address), "{args:?}: {}", stderr(&output));
            assert_eq!(stdout(&output), "", "{args:?}");
        }
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let server = Server::start();
    let lines = (0..100_000).map(|n| format!("put a {n} {n}\n")).collect::<String>();
    server.run_with(&["import"], lines.as_bytes());
    for args in [["export"].as_slice(), &["man"], &["completions", "bash"]] {
        let mut process = metrics()
            .args(args)
            .env("METRICS_SERVER", &server.address)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        process.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = process.wait_with_output().unwrap();
        assert_status(&output, 0);
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn sigterm_drains_and_ends_with_status_0() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start();
        assert_status(&server.run(&["put", "a", "1"]), 0);
        server.signal(signal);
        assert_eq!(server.process.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_data_folder_is_served_again_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = ["--data", data.to_str().unwrap()];
    let mut server = Server::start_with(&args);
    assert_status(&server.run(&["put", "a", "1.5", "10"]), 0);
    let second = metrics().args(["serve", "--listen", "127.0.0.1:0"]).args(args).output().unwrap();
    assert_status(&second, 2);
    let pid = server.process.id().to_string();
    assert!(stderr(&second).contains(&pid), "{pid} is not in: {}", stderr(&second));
    server.signal("-TERM");
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
    let server =
        Server::start_with(&["--store", &format!("disk:{}", data.display()), "--keep", "30d"]);
    assert_eq!(stdout(&server.run(&["get", "a"])), "", "older than what is kept");
    drop(server);
    let server = Server::start_with(&args);
    assert_eq!(stdout(&server.run(&["get", "a"])), "put a 1.5 10\n");
    let server = Server::start_with(&[
        "--data",
        dir.path().join("new").to_str().unwrap(),
        "--keep",
        "30d",
        "--sync",
        "1s",
    ]);
    let put = server.run(&["put", "a", "1", "10"]);
    assert_status(&put, 1);
    assert!(stderr(&put).contains("older than 30d"), "{}", stderr(&put));
    assert_status(&server.run(&["put", "a", "1"]), 0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start();
    let second = metrics().args(["serve", "--listen", &server.address]).output().unwrap();
    assert_status(&second, 2);
    assert!(
        stderr(&second).contains(&server.address) && stderr(&second).contains("another port"),
        "{}",
        stderr(&second)
    );
}

#[test]
fn a_configuration_file_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        metrics()
            .args(["serve", "--check-config", "--config", file.to_str().unwrap()])
            .output()
            .unwrap()
    };
    assert_status(&check("listen = \"127.0.0.1:0\"\nmax-connections = 100\n"), 0);
    for (text, named) in [
        ("listne = \"127.0.0.1:0\"", "listne"),
        ("listen = \"localhost\"", "listen"),
        ("store = \"floppy:\"", "floppy:"),
        ("tls-cert = \"cert.pem\"", "--tls-key"),
        ("max-connections = ", "metrics.toml"),
        ("keep = \"30d\"", "--data"),
        ("data = \"d\"\nkeep = \"30\"", "--keep"),
        ("data = \"d\"\nsync = \"0s\"", "--sync"),
        ("data = \"d\"\nstore = \"memory:\"", "choose one"),
    ] {
        let output = check(text);
        assert_status(&output, 2);
        assert!(stderr(&output).contains(named), "{text}: {}", stderr(&output));
    }
    // The command line comes before the file.
    fs::write(&file, "store = \"floppy:\"").unwrap();
    let args =
        ["serve", "--check-config", "--store", "memory:", "--config", file.to_str().unwrap()];
    assert_status(&metrics().args(args).output().unwrap(), 0);
}

#[test]
fn demo_reads_back_what_it_sent() {
    let output = metrics().args(["demo", "--seconds", "1"]).output().unwrap();
    assert_status(&output, 0);
    for part in [".cpu ", ".memory ", ".disk.space.root ", "Read back"] {
        assert!(stdout(&output).contains(part), "{}", stdout(&output));
    }
}

#[test]
fn bench_measures_a_server_by_address() {
    let server = Server::start();
    let output = server.run(&["bench", "--seconds", "1", "--callers", "8", "-o", "json"]);
    assert_status(&output, 0);
    let report = serde_json::from_str::<serde_json::Value>(stdout(&output)).unwrap();
    assert_eq!(report["server"], server.address.as_str());
    assert_eq!(report["callers"], 8);
    let puts = report["puts"].as_u64().unwrap();
    let stored = stdout(&server.run(&["export"])).lines().count() as u64;
    assert!(0 < stored && stored <= puts, "{stored} of {puts}");
    assert!(report["p50_us"].as_u64() <= report["max_us"].as_u64(), "{report}");
    // What it prints into a pipe can be imported.
    let lines = server.run(&["bench", "--seconds", "1"]);
    assert_status(&server.run_with(&["import"], &lines.stdout), 0);
    let stored = server.run(&["get", "metrics-bench.puts_per_second"]);
    assert_eq!(stdout(&stored).lines().count(), 1, "{}", stdout(&stored));
}

#[test]
fn bench_without_a_server_brings_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["bench", "--seconds", "1", "-o", "table"];
    let output = metrics().args(args).env("TMPDIR", dir.path()).output().unwrap();
    assert_status(&output, 0);
    for part in ["server   in this process", "64 callers on 1 connection", "a second", "p99.9"] {
        assert!(stdout(&output).contains(part), "{part} is not in: {}", stdout(&output));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "its folder is removed");
}

#[test]
fn man_and_completions_name_each_command() {
    let (man, bash) = (
        metrics().arg("man").output().unwrap(),
        metrics().args(["completions", "bash"]).output().unwrap(),
    );
    for command in [
        "serve",
        "agent",
        "put",
        "get",
        "watch",
        "plot",
        "import",
        "export",
        "check",
        "backup",
        "delete",
        "demo",
        "bench",
        "completions",
    ] {
        assert!(stdout(&man).contains(&format!(".SS \"metrics {command}")), "{command}");
        assert!(stdout(&bash).contains(command), "{command}");
    }
}

#[test]
fn schema_prints_statements_and_no_password() {
    let run = |store: &str| {
        metrics().args(["schema", "--keep", "30d", "--store", store]).output().unwrap()
    };
    let schema = run("clickhouse://m:secret@a,b/db?cluster=main");
    assert_status(&schema, 0);
    let text = stdout(&schema);
    assert_eq!(text.lines().count(), 4);
    assert!(text.contains("CREATE TABLE IF NOT EXISTS db.metrics_local ON CLUSTER main"), "{text}");
    assert!(text.contains(" + 2592000)"), "{text}");
    let invalid = run("clickhouse://m:secret@a,b/db?cluster=main&quorum=one");
    assert_status(&invalid, 2);
    let error = stderr(&invalid);
    assert!(error.contains("invalid quorum") && !error.contains("secret"), "{error}");
}

#[test]
fn clickhouse_that_is_away_is_not_ready() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = format!("clickhouse://m:secret@{free}/db");
    let server = Server::start_with(&["--store", &store, "--http", "127.0.0.1:0"]);
    assert!(server.line.contains(&format!("from clickhouse://m@{free}/db")), "{}", server.line);
    let put = server.run(&["put", "a", "1", "--timeout", "1"]);
    assert_status(&put, 3);
    let mut http = std::net::TcpStream::connect(server.address_of("http://")).unwrap();
    std::io::Write::write_all(&mut http, b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut http, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 503") || answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("ClickHouse cannot be reached"), "{answer}");
}
