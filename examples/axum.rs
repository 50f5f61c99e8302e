//! A web service that reports its requests, latencies and errors through the `metrics` facade, and reads
//! back what the metrics server has stored.
//!
//! `cargo run --example axum`
//!
//! Service, metrics server and visitors are in one process, which ends by itself.

use std::{
    error::Error,
    future::pending,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Path, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use metrics::{counter, histogram};
use metrics_client::{MetricsClient, Reporter, recorder::MetricsRecorder};
use metrics_server::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::bind("127.0.0.1:0").await?;
    let address = server.local_addr();
    tokio::spawn(server.serve_until(pending()));

    let client = MetricsClient::connect(address).await?;
    let recorder = MetricsRecorder::builder(Reporter::new(client.clone()))
        .prefix("shop")?
        .interval(Duration::from_secs(10))?
        .install()?;

    let shop = TcpListener::bind("127.0.0.1:0").await?;
    let address = shop.local_addr()?;
    let routes = Router::new()
        .route("/goods/{id}", get(goods))
        .route("/", get(|| async { "welcome" }))
        .layer(middleware::from_fn(measure));
    tokio::spawn(async move { axum::serve(shop, routes).await });

    for visitor in 0..300 {
        let path = if visitor % 3 == 0 { "/".to_string() } else { format!("/goods/{visitor}") };
        visit(address, &path).await?;
    }

    // A real service leaves this to the interval, and to a guard at the end of `main`.
    recorder.flush(LIMIT).await?;
    for (key, points) in &client.get_all().await? {
        let (name, labels) = key.labels().into_parts();
        let labels = labels.iter().map(|(label, value)| format!("{label}={value}"));
        let labels = labels.collect::<Vec<_>>().join(" ");
        for point in points {
            println!("{name:24} {labels:42} {}", point.value);
        }
    }
    Ok(())
}

/// Reports a request: its count, its latency in seconds, and its status if it failed.
async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_string());
    // Without this, every path that a client invents would create a series.
    let route = route.unwrap_or_else(|| "none".into());
    let start = Instant::now();
    let response = next.run(request).await;
    histogram!("http.seconds", "route" => route.clone()).record(start.elapsed());
    if response.status().is_client_error() || response.status().is_server_error() {
        let status = response.status().as_str().to_string();
        counter!("http.errors", "route" => route.clone(), "status" => status).increment(1);
    }
    counter!("http.requests", "route" => route).increment(1);
    response
}

async fn goods(Path(id): Path<u32>) -> Result<String, StatusCode> {
    match id % 10 {
        7 => Err(StatusCode::NOT_FOUND),
        _ => Ok(format!("number {id}")),
    }
}

/// Requests one page over a new connection.
async fn visit(address: std::net::SocketAddr, path: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    if page.starts_with("HTTP/1.1") { Ok(()) } else { Err(format!("no page: {page}").into()) }
}
