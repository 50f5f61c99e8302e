//! A metrics server that keeps everything in memory until Ctrl-C or SIGTERM.
//!
//! `cargo run --example server -- 127.0.0.1:8888`
//!
//! It logs to standard error; `RUST_LOG` sets the levels, for example `RUST_LOG=info,metrics_server=debug`.
//! The first signal stops the server gracefully, within five seconds; the second ends it at once.

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use metrics_server::Server;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

mod signals;

const USAGE: &str = "usage: server [ADDRESS:PORT], for example `server 127.0.0.1:8888`";

#[tokio::main]
async fn main() -> ExitCode {
    start_log();

    let mut args = env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8888".into());
    if let Some(extra) = args.next() {
        eprintln!("server: unexpected argument {extra:?}; {USAGE}");
        return ExitCode::from(2);
    }
    // Before it listens, since a supervisor may stop it as soon as it does.
    let stop = match signals::stop() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("server: cannot handle signals: {error}");
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
    for addr in server.local_addrs() {
        println!("listening on {addr}");
    }
    server.serve_until(stop).await;
    ExitCode::SUCCESS
}

/// Logs to standard error, in colours only on a terminal.
fn start_log() {
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    let (filter, fault) = match wanted.parse::<Targets>() {
        Ok(filter) if !wanted.is_empty() => (filter, None),
        Ok(_) => (Targets::new().with_default(tracing::Level::INFO), None),
        Err(fault) => (Targets::new().with_default(tracing::Level::INFO), Some(fault)),
    };
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(fault) = fault {
        tracing::warn!(RUST_LOG = wanted, %fault, "invalid RUST_LOG; logging at info");
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the process that listens there, or choose another port (0: any)"
        }
        io::ErrorKind::AddrNotAvailable => "use an address of this machine, or 0.0.0.0 for all",
        io::ErrorKind::PermissionDenied => "use a port of 1024 or higher",
        _ => USAGE,
    }
}
