//! A metrics server that keeps everything in memory until Ctrl-C or SIGTERM.
//!
//! `cargo run --example server -- 127.0.0.1:8888`
//!
//! The first signal lets connections end, for five seconds at most; the second ends the server at once.

use std::{env, io, process::ExitCode};

use metrics_client::Server;

mod signals;

const USAGE: &str = "usage: server [ADDRESS:PORT], for example `server 127.0.0.1:8888`";

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::INFO).init();

    let mut args = env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8888".into());
    if let Some(extra) = args.next() {
        eprintln!("server: one address is enough, and {extra:?} is another; {USAGE}");
        return ExitCode::from(2);
    }
    // Before it listens: who starts it may stop it as soon as it is there.
    let stop = match signals::stop() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("server: signals cannot be caught: {error}");
            return ExitCode::FAILURE;
        }
    };
    let server = match Server::bind(&addr).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("server: cannot listen on {addr:?}: {error}; {}", remedy(&error));
            let is_usage = error.kind() == io::ErrorKind::InvalidInput;
            return ExitCode::from(if is_usage { 2 } else { 1 });
        }
    };
    println!("listening on {}", server.local_addr());
    server.serve_until(stop).await;
    ExitCode::SUCCESS
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port (0: any)",
        io::ErrorKind::AddrNotAvailable => "use an address of this machine, or 0.0.0.0 for all",
        io::ErrorKind::PermissionDenied => "use a port from 1024 on",
        _ => USAGE,
    }
}
