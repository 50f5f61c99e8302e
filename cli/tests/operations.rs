//! The commands on a folder of points: `check`, `backup` and `delete`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;

mod support;

use self::support::{Server, assert_status, stderr, stdout};

fn metrics(args: &[&str]) -> Output {
    support::metrics().args(args).output().unwrap()
}

fn start(dir: &Path) -> Server {
    Server::start_with(&["--data", dir.to_str().unwrap()])
}

fn import(server: &Server, lines: &str) {
    assert_status(&server.run_with(&["import"], lines.as_bytes()), 0);
}

fn export(server: &Server) -> String {
    stdout(&server.run(&["export"])).to_owned()
}

fn stop(mut server: Server) {
    server.signal("-TERM");
    assert!(server.process.wait().unwrap().success());
}

const LINES: usize = 3000;

/// Points of two keys.
fn lines() -> String {
    let line = |n: usize| format!("put {} {n}.5 {}\n", ["z.cpu", "a.cpu"][n / 1500], n % 1500);
    (0..LINES).map(line).collect()
}

/// A folder that a server has filled, and left.
fn data() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = start(&dir);
    import(&server, &lines());
    stop(server);
    (parent, dir)
}

fn served(dir: &Path) -> String {
    let server = start(dir);
    let lines = export(&server);
    stop(server);
    lines
}

#[test]
fn check_says_what_is_there_and_what_is_damaged() {
    let (_parent, dir) = data();
    let path = dir.to_str().unwrap();
    let clean = metrics(&["check", path]);
    assert_status(&clean, 0);
    assert_eq!(stderr(&clean), "", "no progress in a pipe");
    for part in ["keys      2", "3000 points in 6 blocks", "no damage"] {
        assert!(stdout(&clean).contains(part), "{}", stdout(&clean));
    }
    let json = metrics(&["check", path, "-o", "json"]);
    assert!(stdout(&json).contains("\"block_points\":3000"), "{}", stdout(&json));
    assert_eq!(stdout(&metrics(&["check", path, "-o", "line"])), "");

    let database = dir.join("blocks.redb");
    let mut content = fs::read(&database).unwrap();
    content[64..320].fill(0);
    fs::write(&database, &content).unwrap();
    for (format, part) in
        [("table", "blocks.redb: "), ("json", "\"file\":\"blocks.redb\""), ("csv", "blocks.redb,")]
    {
        let damaged = metrics(&["check", path, "-o", format]);
        assert_status(&damaged, 1);
        assert!(stdout(&damaged).contains(part), "{format}: {}", stdout(&damaged));
        assert!(stderr(&damaged).contains("1 part is damaged"), "{}", stderr(&damaged));
    }
    assert!(fs::read(&database).unwrap() == content, "nothing is repaired");
    // It is served, and whole again.
    assert_eq!(served(&dir).lines().count(), LINES);
    assert_status(&metrics(&["check", path]), 0);
    assert!(dir.join("damaged/000001-blocks.redb").exists());
}

#[test]
fn folders_that_cannot_be_used_are_status_2() {
    let (parent, dir) = data();
    let missing = parent.path().join("missing");
    let file = parent.path().join("file");
    fs::write(&file, b"").unwrap();
    let dest = parent.path().join("dest");
    let dest = dest.to_str().unwrap();
    for dir in [parent.path(), &missing, &file] {
        let path = dir.to_str().unwrap();
        for args in
            [["check", path].as_slice(), &["backup", path, dest], &["delete", path, "*", "--yes"]]
        {
            let output = metrics(args);
            assert_status(&output, 2);
            assert!(stderr(&output).contains(path), "{args:?}: {}", stderr(&output));
        }
    }
    assert!(!missing.exists());
    let newer = parent.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("FORMAT"), "metrics 9\n").unwrap();
    let output = metrics(&["check", newer.to_str().unwrap()]);
    assert_status(&output, 2);
    assert!(stderr(&output).contains("metrics 9"), "{}", stderr(&output));

    let server = start(&dir);
    let path = dir.to_str().unwrap();
    let pid = server.process.id().to_string();
    for (args, remedy) in [
        (["check", path].as_slice(), "stop the server"),
        (&["backup", path, dest], "metrics backup --server"),
        (&["delete", path, "*", "--yes"], "stop the server"),
    ] {
        let output = metrics(args);
        assert_status(&output, 2);
        let said = stderr(&output);
        assert!(said.contains(&pid) && said.contains(remedy), "{args:?}: {said}");
    }
}

#[test]
fn backup_of_a_folder_or_a_server_is_served() {
    let (parent, dir) = data();
    let dest = |name: &str| parent.path().join(name);
    let one = dest("one");
    let backup = metrics(&["backup", dir.to_str().unwrap(), one.to_str().unwrap()]);
    assert_status(&backup, 0);
    assert!(stderr(&backup).contains("backed up 3000 points of 2 keys"), "{}", stderr(&backup));

    let server = start(&dir);
    import(&server, "put new 1 1\n");
    let two = dest("two");
    let args = ["backup", "--server", &server.address, two.to_str().unwrap()];
    assert_status(&metrics(&args), 0);
    // Not over what is there.
    let again = metrics(&args);
    assert_status(&again, 2);
    assert!(stderr(&again).contains("not an empty folder"), "{}", stderr(&again));
    let lines = export(&server);
    stop(server);
    assert_eq!(served(&two), lines);
    assert_eq!(
        served(&one),
        lines.lines().take(LINES).map(|line| format!("{line}\n")).collect::<String>()
    );
    for dir in [&one, &two] {
        assert_status(&metrics(&["check", dir.to_str().unwrap()]), 0);
    }

    assert_status(&metrics(&["backup", dir.to_str().unwrap()]), 2);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let three = dest("three");
    let output = metrics(&["backup", "--server", &free, three.to_str().unwrap()]);
    assert_status(&output, 3);
    let names: Vec<_> =
        fs::read_dir(parent.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn delete_needs_a_yes_and_removes_keys_and_ranges() {
    let (_parent, dir) = data();
    let path = dir.to_str().unwrap();
    for (args, status) in
        [(["delete", path, "z.*", "--dry-run"].as_slice(), 0), (&["delete", path, "z.*"], 2)]
    {
        let output = metrics(args);
        assert_status(&output, status);
        assert_eq!(stdout(&output), "would delete 1500 points; keys: 1, of these entirely: 1\n");
    }
    assert_eq!(served(&dir), lines());
    let some = metrics(&["delete", path, "*", "--until", "999", "--yes"]);
    assert_status(&some, 0);
    assert_eq!(stdout(&some), "deleted 2000 points; keys: 2, of these entirely: 0\n");
    assert_status(&metrics(&["delete", path, "z.cpu", "--yes"]), 0);
    let left = served(&dir);
    assert_eq!(left.lines().count(), 500);
    assert!(left.starts_with("put a.cpu 2500.5 1000\n"), "{}", &left[..100]);
    let nothing = metrics(&["delete", path, "z.cpu", "--yes"]);
    assert_status(&nothing, 0);
    assert_eq!(stdout(&nothing), "deleted 0 points; keys: 0, of these entirely: 0\n");
    assert_status(&metrics(&["delete", path, "a", "--from", "9", "--until", "8", "--yes"]), 2);
    assert_status(&metrics(&["check", path]), 0);
}
