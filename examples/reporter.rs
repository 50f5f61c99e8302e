//! A service that records on its request path without waiting for the metrics server.
//!
//! `cargo run --example reporter`, or with the address of a server behind `--`. Without one, the
//! program starts a server of its own.

use std::{env, error::Error, future::pending, time::Duration};

use metrics_client::{MetricsClient, Reporter, reporter::WhenFull};
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
    // Whatever way this function is left from here on, what was recorded by then is sent.
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

/// One request. It is measured, and does not wait for that.
async fn answer(request: u32, reporter: &Reporter) {
    reporter.record("example.requests", f64::from(request));
    tokio::task::yield_now().await;
}

/// The address of a server in this process, on a thread of its own, so that it serves the guard too
/// when the runtime of `main` stands still.
async fn own_server() -> Result<String, Box<dyn Error>> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0").await?;
            let _ = tell.send(server.local_addr().to_string());
            server.serve_until(pending::<()>()).await;
            Ok(())
        })
    });
    let address = told.await.map_err(|_| "the server could not be started")?;
    println!("Started a server in this process, at {address}; it keeps its data in memory.");
    Ok(address)
}
