//! `metrics plot` as people run it: formats, files, ranges, and what cannot be drawn.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use support::{Server, assert_status, metrics, stderr, stdout};

mod support;

/// A server with a ramp of 100 points, and one point.
fn server() -> Server {
    let server = Server::start();
    let lines = (0..100).map(|n| format!("palm.cpu {n} {}\n", n * 10)).collect::<String>();
    assert_status(&server.run_with(&["import"], format!("{lines}palm.one 5 7\n").as_bytes()), 0);
    server
}

#[test]
fn plot_in_a_pipe_has_80_columns_and_no_colour() {
    let plot = server().run(&["plot", "palm.cpu"]);
    assert_status(&plot, 0);
    let text = stdout(&plot);
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(text.lines().count(), 20 + 2, "{text}");
    assert_eq!(text.lines().map(|line| line.chars().count()).max(), Some(80), "{text}");
    for part in [
        "100┤",
        " 40┤",
        "  0┤",
        "00:10 ",
        "── palm.cpu  min 0  max 99  last 99",
        "1970-01-01T00:16:30Z",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn range_is_the_axis_and_bounds_the_points() {
    let server = server();
    let plot = server.run(&["plot", "palm.cpu", "--from", "500", "--until", "2000"]);
    assert_status(&plot, 0);
    for part in ["min 50  max 99", "1970-01-01T00:08:20Z to 1970-01-01T00:33:20Z"] {
        assert!(stdout(&plot).contains(part), "{part} is not in: {}", stdout(&plot));
    }
    assert_status(&server.run(&["plot", "palm.cpu", "--from", "30", "--until", "20"]), 2);
}

#[test]
fn pattern_draws_all_its_keys_by_name() {
    let server = server();
    let plot = server.run(&["plot", "*", "-o", "svg"]);
    assert_status(&plot, 0);
    let svg = stdout(&plot);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("<title>palm.cpu, palm.one</title>"), "{svg}");
    let lines = (0..25).map(|n| format!("many.{n} 1 1\n")).collect::<String>();
    server.run_with(&["import"], lines.as_bytes());
    let many = server.run(&["plot", "many.*"]);
    assert_status(&many, 2);
    assert!(stderr(&many).contains("at most 24"), "{}", stderr(&many));
}

#[test]
fn file_named_svg_is_an_svg() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    for (name, args, begin) in [
        ("a.svg", ["--width", "300"].as_slice(), "<svg "),
        ("a.SVG", &[], "<svg "),
        ("a.txt", &[], "100┤"),
        ("b.svg", &["-o", "term"], "100┤"),
    ] {
        let file = dir.path().join(name);
        let args = [&["plot", "palm.cpu", "--file", file.to_str().unwrap()], args].concat();
        let plot = server.run(&args);
        assert_status(&plot, 0);
        assert_eq!((stdout(&plot), stderr(&plot)), ("", ""));
        assert!(fs::read_to_string(&file).unwrap().starts_with(begin), "{name}");
    }
    let missing = dir.path().join("no/such/folder.svg");
    let plot = server.run(&["plot", "palm.cpu", "--file", missing.to_str().unwrap()]);
    assert_status(&plot, 2);
    assert!(stderr(&plot).contains("folder.svg"), "{}", stderr(&plot));
}

#[test]
fn nothing_to_draw_is_status_4() {
    let server = server();
    for args in [["no.such.key"].as_slice(), &["no.*"], &["palm.cpu", "--from", "5000"]] {
        let plot = server.run(&[&["plot"], args].concat());
        assert_status(&plot, 4);
        assert_eq!(stdout(&plot), "");
        assert!(
            stderr(&plot).contains(&format!("nothing is stored for {}", args[0])),
            "{}",
            stderr(&plot)
        );
    }
    let some = server.run(&["plot", "palm.cpu", "no.such.key"]);
    assert_status(&some, 0);
    assert_eq!(stderr(&some), "nothing is stored for no.such.key in this range\n");
    assert_eq!(stdout(&some).matches("── palm").count(), 1);
}

#[test]
fn invalid_arguments_are_named_without_a_server() {
    for (args, named) in [
        (["plot"].as_slice(), "KEY"),
        (&["plot", "palm cpu"], "white space"),
        (&["plot", "a", "--width", "10"], "20 to 1000"),
        (&["plot", "a", "--height", "3"], "4 to 500"),
        (&["plot", "a", "--width", "wide"], "--width"),
        (&["plot", "a", "-o", "svg", "--width", "100"], "200 to 4000"),
        (&["plot", "a", "-o", "png"], "svg"),
        (&["plot", "a", "--from", "yesterday"], "--from"),
    ] {
        let output = metrics().args(args).args(["--server", "127.0.0.1:1"]).output().unwrap();
        assert_status(&output, 2);
        assert!(stderr(&output).contains(named), "{args:?}: {}", stderr(&output));
    }
    let absent = metrics().args(["plot", "a", "--server", "127.0.0.1:1"]).output().unwrap();
    assert_status(&absent, 3);
}

#[test]
fn values_that_are_not_finite_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // A server that stores what others refuse. It ends with the test.
    thread::spawn(move || {
        for io in listener.incoming().map(Result::unwrap) {
            thread::spawn(move || {
                let mut out = io.try_clone().unwrap();
                for line in BufReader::new(io).lines().map_while(Result::ok) {
                    let records =
                        if line == "get a" { "a 1.0 1\na nan 2\na inf 3\na 2.0 4\n" } else { "" };
                    // The client may have gone.
                    let _ = write!(out, "ok\n{records}\n");
                }
            });
        }
    });
    let plot = metrics().args(["plot", "a", "--server", &address]).output().unwrap();
    assert_status(&plot, 0);
    assert_eq!(stderr(&plot), "values that are not finite are left out: 2\n");
    assert!(stdout(&plot).contains("min 1  max 2  last 2"), "{}", stdout(&plot));
}
