//! What InfluxDB's clients write, and a server that shows what it has stored.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use metrics_client::{MetricsClient, Selector};
use metrics_server::{
    MemoryStore, Server, Store,
    http::{Access, HttpServer, Token},
    store::{MemorySnapshot, PutBatch, StoreError, Tee},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

mod clients;
mod differential;
mod hostile;
pub(crate) mod model;

/// A point as the tests compare it: its key, its second, and its value.
type Row = (String, i64, f64);

fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
}

/// A server of HTTP with a token, and of the metrics protocol, until the end of the test.
struct InfluxServer {
    addr: SocketAddr,
    wire: SocketAddr,
    store: Arc<FailingStore>,
}

const TOKEN: &str = "s3cret-token";

impl InfluxServer {
    async fn start() -> Self {
        let store = Arc::new(FailingStore::default());
        let tee = Tee::new(Arc::clone(&store), 16);
        let access = Access::Token(Token::new(TOKEN).unwrap());
        let http = HttpServer::bind("127.0.0.1:0", tee.clone(), access).await.unwrap().influx();
        let server = Server::bind("127.0.0.1:0").await.unwrap().store(tee);
        let (addr, wire) = (http.local_addr(), server.local_addr());
        tokio::spawn(http.serve());
        tokio::spawn(server.serve());
        Self { addr, wire, store }
    }

    /// Returns what is stored, in the order of keys and seconds: over the metrics protocol, and
    /// over HTTP if that is the same.
    async fn stored(&self) -> Vec<Row> {
        let client = MetricsClient::connect(self.wire).await.unwrap();
        let metrics = client.get_all().await.unwrap();
        client.close().await.unwrap();
        let rows = metrics.iter().flat_map(|(key, points)| {
            points.iter().map(|point| (key.to_string(), point.timestamp, point.value))
        });
        let mut rows: Vec<Row> = rows.collect();
        sort(&mut rows);
        let mut http = self.get("/api/v1/points?match=*").await;
        let mut series = Vec::new();
        for of_key in http["series"].take().as_array().unwrap() {
            let key = of_key["key"].as_str().unwrap();
            for point in of_key["points"].as_array().unwrap() {
                let (second, value) = (point[0].as_i64().unwrap(), point[1].as_f64().unwrap());
                series.push((key.to_owned(), second, value));
            }
        }
        sort(&mut series);
        assert_eq!(rows, series, "the wire and the HTTP API");
        rows
    }

    /// Gets JSON.
    async fn get(&self, path: &str) -> Value {
        let mut io = TcpStream::connect(self.addr).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            self.addr
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 OK"), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

/// A store that is full for the first two batches with the key `retried`, and for all with the key `full`.
#[derive(Debug, Default)]
struct FailingStore {
    store: MemoryStore,
    retried: AtomicUsize,
}

impl Store for FailingStore {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        for (key, _) in puts {
            if key == "full" || key == "retried" && self.retried.fetch_add(1, Ordering::Relaxed) < 2
            {
                return Err(StoreError::transient("disk full"));
            }
        }
        self.store.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.store.get(selector).await
    }
}
