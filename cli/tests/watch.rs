//! `metrics watch` as people use it: on a terminal, in a pipe, with a server that goes and comes back.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Command, Stdio},
};

use support::{Server, assert_status, metrics, stderr, stdout, terminal::Terminal};

mod support;

/// Puts a value of the current second.
fn put(server: &Server, key: &str, value: &str) {
    assert_status(&server.run(&["put", key, value]), 0);
}

fn watch(server: &Server, args: &[&str]) -> Terminal {
    let args = [&["watch", "--server", &server.address], args].concat();
    Terminal::start(&args, |command| command)
}

/// Checks that the terminal is as it was before the program.
#[track_caller]
fn assert_restored(terminal: &Terminal) {
    assert!(!terminal.is_alternate() && !terminal.hides_cursor(), "{}", terminal.raw());
    #[cfg(target_os = "linux")]
    {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let flags = tcgetattr(&terminal.pty).unwrap().local_flags;
        assert!(
            flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG),
            "{flags:?}"
        );
    }
}

#[test]
fn watch_draws_and_updates_a_table() {
    let server = Server::start();
    put(&server, "palm.cpu", "23.7");
    put(&server, "eardrum.cpu", "1");
    let mut terminal = watch(&server, &["palm.*"]);
    terminal.read_until_screen(|screen| screen.contains("palm.cpu") && screen.contains("1 keys"));
    let screen = terminal.screen();
    assert!(
        screen.contains("23.7") && screen.contains("▁") && !screen.contains("eardrum"),
        "{screen}"
    );
    assert!(terminal.is_alternate() && terminal.has_colour());
    put(&server, "palm.cpu", "42.5");
    put(&server, "palm.new", "-7");
    terminal.read_until_screen(|screen| screen.contains("42.5") && screen.contains("palm.new"));
    terminal.press("q");
    assert_eq!(terminal.read_to_end().code(), Some(0));
    assert_restored(&terminal);
    assert_eq!(terminal.screen(), "");
}

#[test]
fn watch_sorts_filters_and_helps() {
    let server = Server::start();
    for (key, value) in [("a.one", "1"), ("b.two", "2"), ("c.three", "3")] {
        put(&server, key, value);
    }
    let mut terminal = watch(&server, &["--sort", "value"]);
    let place = |screen: &str, key| screen.find(key).unwrap_or(usize::MAX);
    terminal.read_until_screen(|screen| place(screen, "c.three") < place(screen, "a.one"));
    terminal.press("n");
    terminal.read_until_screen(|screen| place(screen, "a.one") < place(screen, "c.three"));
    terminal.press("r");
    terminal.read_until_screen(|screen| place(screen, "c.three") < place(screen, "a.one"));
    terminal.press("/TWO\r");
    terminal.read_until_screen(|screen| !screen.contains("a.one") && screen.contains("b.two"));
    terminal.press("?");
    terminal.read_until_screen(|screen| screen.contains("page down one page"));
    terminal.press("x");
    terminal.read_until_screen(|screen| screen.contains("b.two"));
    terminal.press("q");
    assert_eq!(terminal.read_to_end().code(), Some(0));
}

#[test]
fn watch_follows_the_size_of_the_terminal() {
    let server = Server::start();
    put(&server, "palm.cpu", "23.7");
    let mut terminal = watch(&server, &[]);
    terminal.read_until_screen(|screen| screen.contains("age  chart"));
    terminal.resize(4, 30);
    terminal.read_until_screen(|screen| screen.contains("23.7") && !screen.contains("chart"));
    assert!(
        terminal.screen().lines().all(|line| line.chars().count() <= 30),
        "{}",
        terminal.screen()
    );
    terminal.resize(24, 80);
    terminal.read_until_screen(|screen| screen.contains("age  chart"));
    terminal.press("q");
    terminal.read_to_end();
}

#[test]
fn signals_and_ctrl_c_restore_the_terminal() {
    let server = Server::start();
    put(&server, "palm.cpu", "23.7");
    for (signal, status, said) in
        [("", 130, "interrupted"), ("-INT", 130, "interrupted"), ("-TERM", 143, "terminated")]
    {
        let mut terminal = watch(&server, &[]);
        terminal.read_until_screen(|screen| screen.contains("23.7"));
        if signal.is_empty() {
            terminal.press_ctrl_c();
        } else {
            let pid = terminal.process.id().to_string();
            assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        }
        assert_eq!(terminal.read_to_end().code(), Some(status), "{signal}");
        assert_restored(&terminal);
        assert_eq!(terminal.screen().trim(), format!("metrics: {said}"));
    }
}

#[test]
fn ctrl_z_gives_the_terminal_back_until_fg() {
    let server = Server::start();
    put(&server, "palm.cpu", "23.7");
    // A shell with job control.
    let script = "\"$0\" watch; echo stopped=$?; read line; fg; echo ended=$?";
    let program = metrics().get_program().to_str().unwrap().to_owned();
    let mut terminal = Terminal::start_program("sh", &["-m", "-c", script, &program], |command| {
        command.env("METRICS_SERVER", &server.address)
    });
    terminal.read_until_screen(|screen| screen.contains("23.7"));
    terminal.press("\x1a");
    terminal.read_until_screen(|screen| screen.contains("stopped=1"));
    assert_restored(&terminal);
    terminal.press("\n");
    terminal.read_until_screen(|screen| screen.contains("23.7") && !screen.contains("stopped"));
    assert!(terminal.is_alternate());
    terminal.press("q");
    terminal.read_until_screen(|screen| screen.contains("ended=0"));
    terminal.read_to_end();
    assert_restored(&terminal);
}

#[test]
fn server_that_restarts_is_watched_again() {
    let mut server = Server::start();
    put(&server, "palm.cpu", "23.7");
    let mut terminal = watch(&server, &["--timeout", "0.5"]);
    terminal.read_until_screen(|screen| screen.contains("23.7"));
    server.signal("-TERM");
    server.process.wait().unwrap();
    // The last values stay.
    terminal
        .read_until_screen(|screen| screen.contains("no answer for") && screen.contains("23.7"));
    let server = Server::start_at(&server.address, &[]);
    put(&server, "palm.cpu", "42.5");
    terminal
        .read_until_screen(|screen| screen.contains("42.5") && !screen.contains("no answer for"));
    terminal.press("q");
    assert_eq!(terminal.read_to_end().code(), Some(0));
}

#[test]
fn no_color_draws_without_colours() {
    let server = Server::start();
    put(&server, "palm.cpu", "23.7");
    let args = ["watch", "--server", &server.address];
    let mut terminal = Terminal::start(&args, |command| command.env("NO_COLOR", "1"));
    terminal.read_until_screen(|screen| screen.contains("23.7"));
    assert!(!terminal.has_colour());
    terminal.press("q");
    terminal.read_to_end();
}

#[test]
fn format_or_dumb_terminal_prints_lines() {
    let server = Server::start();
    assert_status(&server.run(&["put", "palm.cpu", "23.7", "1150864247"]), 0);
    let args = ["watch", "--server", &server.address];
    let mut dumb = Terminal::start(&args, |command| command.env("TERM", "dumb"));
    dumb.read_until_screen(|screen| {
        screen.contains("2006-06-21T04:30:47Z              23.7  palm.cpu")
    });
    let mut line = watch(&server, &["-o", "line"]);
    line.read_until_screen(|screen| screen == "put palm.cpu 23.7 1150864247");
    for terminal in [dumb, line] {
        assert!(!terminal.raw().contains('\x1b'), "{}", terminal.raw());
    }
}

#[test]
fn pipe_gets_newest_points_then_newer_ones() {
    let mut server = Server::start();
    server.run_with(&["import"], b"a 1 10\na 2 20\nb 3 15\nc 9 9\n");
    let mut process = metrics()
        .args(["watch", "a", "b", "--server", &server.address, "--timeout", "0.5"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!([next(), next()], ["put b 3.0 15", "put a 2.0 20"]);
    server.run_with(&["import"], b"a 0 5\nc 1 30\na 4 30\nb 5 31\n");
    assert_eq!([next(), next()], ["put a 4.0 30", "put b 5.0 31"]);

    let mut errors = BufReader::new(process.stderr.take().unwrap());
    let mut error = || {
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        line
    };
    server.signal("-TERM");
    server.process.wait().unwrap();
    let away = error();
    assert!(away.contains(&server.address) && away.ends_with("; trying again\n"), "{away}");
    let server = Server::start_at(&server.address, &[]);
    assert_status(&server.run(&["put", "a", "7", "40"]), 0);
    assert_eq!(next(), "put a 7.0 40");
    assert_eq!(error(), format!("{} answers again\n", server.address));
    drop(lines);
    // The next line is the one that cannot be written.
    assert_status(&server.run(&["put", "a", "8", "50"]), 0);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn watch_without_a_server_is_status_3() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = metrics().args(["watch", "--server", &free]).output().unwrap();
    assert_status(&output, 3);
    assert!(stderr(&output).contains(&free) && stdout(&output).is_empty(), "{}", stderr(&output));
    let mut terminal = Terminal::start(&["watch", "--server", &free], |command| command);
    assert_eq!(terminal.read_to_end().code(), Some(3));
    assert!(
        terminal.screen().contains(&free) && !terminal.raw().contains("\x1b["),
        "{}",
        terminal.raw()
    );
}

#[test]
fn invalid_watches_are_usage_errors() {
    for (args, named) in [
        (["a b"].as_slice(), "white space"),
        (&["--interval", "0s"], "at least 1s"),
        (&["--interval", "5"], "--interval"),
        (&["--sort", "size"], "--sort"),
        (&["-o", "svg"], "table"),
    ] {
        let output =
            metrics().arg("watch").args(args).args(["--server", "127.0.0.1:1"]).output().unwrap();
        assert_status(&output, 2);
        assert!(stderr(&output).contains(named), "{args:?}: {}", stderr(&output));
    }
}
