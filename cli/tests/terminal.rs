//! The program on a terminal: tables, progress, colours, Ctrl-C.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, io::Read, os::unix::process::ExitStatusExt, path::PathBuf, process::Stdio};

use pty_process::blocking::Command;
use support::{
    HalfImport, LINES, Server, assert_status, metrics, stderr, stdout,
    terminal::{COLUMNS, Terminal, run},
};

mod support;

fn server_with_points(count: usize) -> Server {
    let server = Server::start();
    let lines = (0..count).map(|n| format!("palm.cpu {n}.5 {n}\n")).collect::<String>();
    assert_status(&server.run_with(&["import"], lines.as_bytes()), 0);
    server
}

#[test]
fn terminal_gets_a_table_and_a_pipe_lines() {
    let server = server_with_points(2);
    server.run(&["put", "a.long.key;host=palm", "-1e300", "1150864247"]);
    let args = ["get", "*", "--server", &server.address];
    let (terminal, status) = run(&args, |command| command);
    assert!(status.success());
    let expected = "\
time                             value  key
1970-01-01T00:00:00Z               0.5  palm.cpu
1970-01-01T00:00:01Z               1.5  palm.cpu
2006-06-21T04:30:47Z            -1e300  a.long.key;host=palm";
    assert_eq!(terminal.screen(), expected);

    let (mut terminal, status) = run(&args, |command| command.stdout(Stdio::piped()));
    assert!(status.success());
    let mut lines = String::new();
    terminal.process.stdout.take().unwrap().read_to_string(&mut lines).unwrap();
    assert!(lines.starts_with("put palm.cpu 0.5 0\n"), "{lines}");
    assert_eq!(terminal.screen(), "");
}

#[test]
fn progress_is_on_a_terminal_alone() {
    let server = server_with_points(50_000);
    let dir = tempfile::tempdir().unwrap();
    let (file, exported) = (dir.path().join("points"), dir.path().join("exported"));
    let lines = (0..50_000).map(|n| format!("palm.cpu {n} {n}\n")).collect::<String>();
    fs::write(&file, lines).unwrap();
    let to_file = || Stdio::from(fs::File::create(&exported).unwrap());
    for (args, shown, left) in [
        (["import", file.to_str().unwrap()].as_slice(), "importing", "imported 50000 points"),
        (&["export"], "exporting", "exported 50000 points"),
        (&["bench", "--seconds", "1"], "measuring", ""),
    ] {
        let args = [args, &["--server", &server.address]].concat();
        let (terminal, status) = run(&args, |command| command.stdout(to_file()));
        assert!(status.success(), "{args:?}: {}", terminal.raw());
        assert!(terminal.raw().contains(shown), "{args:?}: {}", terminal.raw());
        // It is cleared at the end.
        assert_eq!(terminal.screen().trim(), left, "{args:?}: {}", terminal.raw());

        let output = metrics().args(&args).output().unwrap();
        assert_status(&output, 0);
        assert_eq!(stderr(&output).trim(), left, "{args:?}");
    }
}

#[test]
fn no_color_turns_colours_off() {
    let without = |command: Command| command.env("NO_COLOR", "1");
    for args in [["--help"].as_slice(), &["get"]] {
        let (coloured, _) = run(args, |command| command);
        assert!(coloured.raw().contains("\x1b["), "{}", coloured.raw());
        let (plain, _) = run(args, without);
        assert!(!plain.raw().contains('\x1b'), "{}", plain.raw());
        assert_eq!(plain.screen(), coloured.screen());
    }
}

#[test]
fn ctrl_c_stops_serve_with_status_0() {
    for (variable, is_coloured) in [("NO_COLOR", false), ("COLOR", true)] {
        let args = ["serve", "--listen", "127.0.0.1:0"];
        let mut terminal = Terminal::start(&args, |command| command.env(variable, "1"));
        terminal.read_until("serving metrics://127.0.0.1:");
        terminal.press_ctrl_c();
        let status = terminal.read_to_end();
        assert_eq!(status.code(), Some(0), "{}", terminal.raw());
        assert_eq!(terminal.raw().contains("\x1b["), is_coloured, "{}", terminal.raw());
    }
}

#[test]
fn ctrl_c_in_an_import_can_be_resumed() {
    let half = HalfImport::new();
    let (path, address) = (half.path.clone(), half.address.clone());
    let args = ["import", &path, "--server", &address, "--timeout", "600"];
    let mut terminal = Terminal::start(&args, |command| command);
    // More than nothing is acknowledged once the bar has moved.
    while !(1..100).any(|percent| terminal.screen().contains(&format!(" {percent} %"))) {
        assert!(terminal.read(), "{}", terminal.raw());
    }
    terminal.press_ctrl_c();
    let status = terminal.read_to_end();
    assert_eq!(status.code(), Some(130), "{}", terminal.raw());
    for part in ["stopped after", "--resume goes on from here", "interrupted"] {
        assert!(terminal.raw().contains(part), "{part} is not in: {}", terminal.raw());
    }
    let (_dir, acknowledged) = half.acknowledged();

    let server = Server::start();
    assert_status(&server.run(&["import", &path, "--resume"]), 0);
    let export = server.run(&["get", "a"]);
    let stored = stdout(&export).lines().collect::<Vec<_>>();
    let resumed_from = LINES - stored.len();
    assert!((1..=acknowledged).contains(&resumed_from), "{resumed_from} of {acknowledged}");
    assert_eq!(stored.last().copied(), Some("put a 199999.0 199999"));
}

#[test]
fn ctrl_c_in_an_export_ends_it() {
    let server = server_with_points(500_000);
    let args = ["export", "--server", &server.address];
    let mut terminal = Terminal::start(&args, |command| command);
    terminal.read_until("put palm.cpu");
    terminal.press_ctrl_c();
    let status = terminal.read_to_end();
    assert_eq!(status.signal(), Some(2), "{status}");
}

#[test]
fn demo_fits_into_80_columns() {
    let (terminal, status) = run(&["demo", "--seconds", "2"], |command| command);
    assert!(status.success(), "{}", terminal.raw());
    for part in [".cpu ", "chart", "5 keys, 10 points", "What it cost:", "▁"] {
        assert!(terminal.raw().contains(part), "{part} is not in: {}", terminal.raw());
    }
    for line in terminal.raw().lines() {
        assert!(line.chars().count() <= COLUMNS.into(), "{line}");
    }
}

#[test]
fn ctrl_c_in_demo_and_bench_leaves_no_folder() {
    for (args, text) in [
        (["demo", "--seconds", "60"].as_slice(), "once a second"),
        (&["bench", "--seconds", "60"], "measuring"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::start(args, |command| command.env("TMPDIR", dir.path()));
        terminal.read_until(text);
        let folders = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(folders().count(), 1, "{args:?}");
        terminal.press_ctrl_c();
        let status = terminal.read_to_end();
        assert_eq!(status.code(), Some(130), "{args:?}: {}", terminal.raw());
        assert_eq!(folders().collect::<Vec<PathBuf>>(), [] as [PathBuf; 0], "{args:?}");
    }
}
