//! A service that records on its request path without waiting for the metrics server.
//!
//! `cargo run --example reporter`, or `cargo run --example reporter -- ADDRESS` for a running server. Without
//! an address, the program starts a server.

use std::{env, error::Error, future::pending, time::Duration};

use metrics_client::{MetricsClient, Reporter, client::WhenFull};
use metrics_server::Server;

/// How many requests the service answers.
const REQUESTS: u32 = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = match env::args().nth(1) {
        Some(address) => address,
        None => own_server().await?,
    };
    let client = MetricsClient::builder(&address).connect_lazy()?;
    let reporter = Reporter::builder(client.clone())
        .when_full(WhenFull::Coalesce)
        .self_metrics("example.reporter")?
        .start();
    // However this function returns from here on, what was recorded by then is sent.
    let _guard = reporter.flush_on_drop(Duration::from_secs(5));

    let in_use = reporter.series("example.memory")?;
    for request in 0..REQUESTS {
        answer(request, &reporter).await;
        in_use.record(f64::from(request % 512));
    }

    reporter.close(Duration::from_secs(5)).await?;
    let stats = reporter.stats();
    println!("{} recorded, {} coalesced", stats.recorded, stats.coalesced);
    println!("{} acknowledged, {} dropped", stats.acknowledged, stats.dropped.total());
    for (key, points) in &client.get_all().await? {
        println!("{key}: {} points", points.len());
    }
    Ok(())
}

/// Handles one request, and records it without waiting.
async fn answer(request: u32, reporter: &Reporter) {
    reporter.record("example.requests", f64::from(request));
    tokio::task::yield_now().await;
}

/// Starts a server in this process and returns its address. The server has its own thread, so that it also
/// serves the guard, while the runtime of `main` is blocked.
async fn own_server() -> Result<String, Box<dyn Error>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0").await?;
            let _ = sender.send(server.local_addr().to_string());
            server.serve_until(pending::<()>()).await;
            Ok(())
        })
    });
    let address = receiver.await.map_err(|_| "the server could not be started")?;
    println!("Started a server in this process, at {address}; it keeps its data in memory.");
    Ok(address)
}
