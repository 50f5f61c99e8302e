//! Libraries and programs that really write: those of `clients/`, and InfluxDB's shell.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering,
};

use metrics_client::Key;

use super::{InfluxServer, Row, TOKEN, sort};

/// The second of most points: 2006-06-21T04:30:47Z.
const SECOND: i64 = 1_150_864_247;

/// Returns what every library writes, with these names of precisions.
fn rows_of_libraries(units: [&str; 4]) -> Vec<Row> {
    let mut rows = vec![
        ("cpu;host=palm".to_owned(), SECOND, 23.7),
        ("cpu.n;host=palm".to_owned(), SECOND, 3.0),
        ("cpu.up;host=palm".to_owned(), SECOND, 1.0),
        ("retried".to_owned(), SECOND, 2.0),
    ];
    let disk = Key::with_labels("disk.free space", [("mount point", "/a b,c=d;e")]);
    rows.push((disk.unwrap().to_string(), SECOND, 1.5));
    for (unit, value) in units.into_iter().zip([1.0, 1e3, 1e6, 1e9]) {
        rows.push((format!("precision;unit={unit}"), SECOND, value));
    }
    for index in 0..2500 {
        rows.push((format!("batch;core={}", index % 4), index, index as f64));
    }
    rows
}

/// What is written beside that by the libraries that can.
fn gzip() -> Row {
    ("gzip".to_owned(), SECOND, 1.0)
}

fn partial() -> Row {
    ("partial".to_owned(), 1, 1.0)
}

/// Lets a script write, and compares what it has printed and what is stored. Says so if the library is not here.
async fn check(runtime: &str, module: &str, script: &str, expected: &str, mut rows: Vec<Row>) {
    let (program, probe, folder) = match runtime {
        "python" => (python(), format!("import {module}"), "-c"),
        _ => (PathBuf::from("node"), format!("require('{module}')"), "-e"),
    };
    let node_path = env::var_os("METRICS_TEST_NODE_PATH").unwrap_or_default();
    let command = || {
        let mut command = Command::new(&program);
        command.env("NODE_PATH", &node_path);
        command
    };
    let probed = command().args([folder, &probe]).output();
    if !probed.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: {} has no {module}; set METRICS_TEST_PYTHON and METRICS_TEST_NODE_PATH",
            program.display()
        );
        return;
    }
    let server = InfluxServer::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/influx/clients").join(script);
    let mut command = command();
    command.arg(script).args([
        &server.addr.ip().to_string(),
        &server.addr.port().to_string(),
        TOKEN,
    ]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{errors}");
    let version = concat!("1.8-metrics-", env!("CARGO_PKG_VERSION"));
    let printed: Vec<_> =
        printed.lines().map(|line| line.trim_end().replace(version, "VERSION")).collect();
    let expected: Vec<_> =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(printed, expected, "what the user of {module} sees\n{errors}");
    sort(&mut rows);
    assert_eq!(server.stored().await, rows, "what {module} has written");
    assert_eq!(server.store.retried.load(Ordering::Relaxed), 3, "attempts of {module}");
}

/// Returns the interpreter of an environment that has the libraries.
fn python() -> PathBuf {
    env::var_os("METRICS_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs a Python client"]
async fn python_influxdb_writes() {
    let expected = r#"
        version VERSION
        databases [{'name': 'metrics'}]
        denied 401 {"error":"a token is required"}
        invalid 400 {"error":"partial write: unable to parse 'bad line here x': invalid field format dropped=0"}
        full b'{"error":"disk full"}'
        full b'{"error":"disk full"}'
        stored at attempt 2
        query 400 {"error":"only CREATE DATABASE and SHOW DATABASES are understood: read points with /api/v1/points, or with `get` of the metrics protocol"}
    "#;
    let mut rows = rows_of_libraries(["s", "ms", "u", "n"]);
    rows.extend([gzip(), partial()]);
    check("python", "influxdb", "python-influxdb.py", expected, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs a Python client"]
async fn python_influxdb_client_writes() {
    let expected = r#"
        ping True
        health pass
        denied 401 {"error":"a token is required"}
        invalid 400 {"code":"invalid","message":"partial write: unable to parse 'bad line here x': invalid field format dropped=0"}
        full 503 1 {"code":"unavailable","message":"disk full"}
        retry 503 1
        retry 503 1
    "#;
    let mut rows = rows_of_libraries(["s", "ms", "us", "ns"]);
    rows.extend([gzip(), partial()]);
    check("python", "influxdb_client", "python-influxdb-client.py", expected, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs a Python client"]
async fn python_influxdb3_writes() {
    let expected = r#"
        denied 401 a token is required
        invalid 400 invalid: partial write: unable to parse 'bad line here x': invalid field format dropped=0
        full 503 1 unavailable: disk full
        retry 503 1
        retry 503 1
    "#;
    let mut rows = rows_of_libraries(["s", "ms", "us", "ns"]);
    rows.extend([gzip(), partial()]);
    check("python", "influxdb_client_3", "python-influxdb3.py", expected, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs a client of Node.js"]
async fn node_influx_writes() {
    let expected = r#"
        ping true VERSION
        databases [ 'metrics' ]
        denied A 401 Unauthorized error occurred: {"error":"a token is required"}
        query A 400 Bad Request error occurred: {"error":"only CREATE DATABASE and SHOW DATABASES are understood: read points with /api/v1/points, or with `get` of the metrics protocol"}
        full Service Unavailable
        full Service Unavailable
        stored
    "#;
    check("node", "influx", "node-influx.js", expected, rows_of_libraries(["s", "ms", "u", "n"]))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs a client of Node.js"]
async fn node_influxdb_client_writes() {
    let expected = r#"
        denied 401 {"error":"a token is required"}
        invalid 400 {"code":"invalid","message":"partial write: unable to parse 'bad line here x': invalid field format dropped=0"}
        full 503 {"code":"unavailable","message":"disk full"}
        retry 503 true 1
        retry 503 true 2
    "#;
    let mut rows = rows_of_libraries(["s", "ms", "us", "ns"]);
    rows.extend([gzip(), partial()]);
    check("node", "@influxdata/influxdb-client", "node-influxdb-client.js", expected, rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs InfluxDB's shell"]
async fn influx_shell_writes() {
    if let Err(error) = Command::new("influx").arg("-version").output() {
        println!("SKIPPED: cannot start influx, of the Debian package influxdb-client: {error}");
        return;
    }
    let server = InfluxServer::start().await;
    let (host, port) = (server.addr.ip().to_string(), server.addr.port().to_string());
    let run = async |password: &str, args: &[&str]| {
        let mut command = Command::new("influx");
        command.args([
            "-host",
            &host,
            "-port",
            &port,
            "-username",
            "anyone",
            "-password",
            password,
        ]);
        command.args(args);
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = run.await.unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let insert = "INSERT cpu,host=palm value=23.7,n=3i 1150864247000000000";
    let args = ["-database", "metrics", "-execute", insert];
    assert_eq!(run(TOKEN, &args).await, "");
    let denied = run("wrong-token", &args).await;
    assert!(denied.contains("a token is required"), "{denied}");
    let lines = (0..2500).map(|index| format!("batch,core={} value={index} {index}\n", index % 4));
    let file = tempfile::NamedTempFile::new().unwrap();
    let head = "# DDL\nCREATE DATABASE metrics\n# DML\n# CONTEXT-DATABASE: metrics\n";
    std::fs::write(file.path(), format!("{head}{}", lines.collect::<String>())).unwrap();
    let path = file.path().to_str().unwrap();
    let imported = run(TOKEN, &["-import", "-precision", "s", "-path", path]).await;
    assert!(imported.contains("Processed 2500 inserts"), "{imported}");
    assert!(imported.contains("Failed 0 inserts"), "{imported}");
    let mut rows = vec![
        ("cpu;host=palm".to_owned(), SECOND, 23.7),
        ("cpu.n;host=palm".to_owned(), SECOND, 3.0),
    ];
    rows.extend((0..2500).map(|index| (format!("batch;core={}", index % 4), index, index as f64)));
    sort(&mut rows);
    assert_eq!(server.stored().await, rows);
}
