//! A metrics server that keeps everything in memory until Ctrl-C.
//!
//! `cargo run --example server -- 127.0.0.1:8888`

use std::{env, io, process::ExitCode};

use metrics_server::Server;

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
    let server = match Server::bind(&addr).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("server: cannot listen on {addr:?}: {error}; {}", remedy(&error));
            let is_usage = error.kind() == io::ErrorKind::InvalidInput;
            return ExitCode::from(if is_usage { 2 } else { 1 });
        }
    };
    println!("listening on {}", server.local_addr());
    server.serve_until(ctrl_c()).await;
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

async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("server: Ctrl-C cannot be caught: {error}; it will end the server at once");
        std::future::pending::<()>().await;
    }
}
