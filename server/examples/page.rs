//! Serves the protocol, the HTTP API and the page from memory, with points that come by themselves.
//!
//! `cargo run -p metrics-server --features http --example page`, then open the address that it prints.

use std::{sync::Arc, time::Duration};

use metrics_client::MetricsClient;
use metrics_server::{
    MemoryStore, Server,
    http::{Access, HttpServer},
    store::Tee,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Tee::new(Arc::new(MemoryStore::new()), 1024);
    let server = Server::bind("127.0.0.1:0").await?.store(store.clone());
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let http = HttpServer::bind(addr, store, Access::Loopback)
        .await?
        .protocol_stats(server.stats_handle());
    println!("http://{}/", http.local_addr());

    let client = MetricsClient::connect(server.local_addr()).await?;
    tokio::select! {
        () = server.serve() => {}
        () = http.serve() => {}
        written = write(client) => written?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

/// Puts three metrics a second.
async fn write(client: MetricsClient) -> Result<(), metrics_client::Error> {
    for second in 0u32.. {
        let time = f64::from(second);
        client.put("palm.cpu", 50.0 + 40.0 * (time / 20.0).sin()).await?;
        client.put("palm.memory", 8e9 + 1e6 * time).await?;
        client.put("palm.load", (time / 7.0).cos().abs() * 3.0).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
