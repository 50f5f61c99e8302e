//! A client over a Unix socket.

use std::{fs, path::PathBuf, sync::Arc};

use metrics_client::{
    Error, MetricsClient,
    client::{Address, UnixConnector},
};
use metrics_server::{Limits, MemoryStore, serve_connection};
use tokio::net::UnixListener;

use crate::peer::with_timeout;

/// A path of its own for one test, where nothing is; cleared away with this.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(test: &str) -> Self {
        let name = format!("metrics-client-{}-{test}.sock", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn serve(&self, store: &Arc<MemoryStore>) -> tokio::task::JoinHandle<()> {
        serve(UnixListener::bind(&self.0).unwrap(), Arc::clone(store))
    }

    async fn connect(&self) -> Result<MetricsClient, Error> {
        connect(self.0.to_str().unwrap()).await
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn serve(listener: UnixListener, store: Arc<MemoryStore>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        // Ends the connections with the listener.
        let mut sessions = tokio::task::JoinSet::new();
        loop {
            let (io, _) = listener.accept().await.unwrap();
            sessions.spawn(serve_connection(io, Arc::clone(&store), Limits::default()));
        }
    })
}

async fn connect(address: &str) -> Result<MetricsClient, Error> {
    with_timeout(
        MetricsClient::builder(Address::unix(address).unwrap())
            .connector(UnixConnector::new())
            .connect(),
    )
    .await
}

/// Why there is no connection.
async fn cause(address: &str) -> String {
    match connect(address).await {
        Err(Error::Connect { source: cause, address: told, .. }) => {
            assert_eq!(*told, format!("unix:{address}"));
            cause.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unix_socket_serves_and_reconnects() {
    let socket = SocketPath::new("again");
    let store = Arc::new(MemoryStore::new());
    let server = socket.serve(&store);
    let client = socket.connect().await.unwrap();
    client.put_at("palm.cpu", 23.7, 1).await.unwrap();

    // The server restarts: another socket, at the same path.
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    fs::remove_file(&socket.0).unwrap();
    socket.serve(&store);
    client.put_at("palm.cpu", 0.5, 2).await.unwrap();

    let samples = client.get_all().await.unwrap();
    assert_eq!(samples.point_count(), 2);
    let mut stream = client.stream("*").await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().point.value, 23.7);
    assert_eq!(client.stats().reconnects, 1);
    client.close().await.unwrap();
}

#[tokio::test]
async fn unix_missing_and_unserved_sockets_differ() {
    let socket = SocketPath::new("missing");
    let path = socket.0.to_str().unwrap();
    assert!(cause(path).await.contains("no socket at this path"));
    drop(UnixListener::bind(&socket.0).unwrap());
    assert!(cause(path).await.contains("left the file behind"));
}

// FAULTS C9
#[tokio::test]
async fn unix_path_too_long_is_rejected_at_once() {
    let long = format!("/{}", "x".repeat(200));
    let builder = MetricsClient::builder(format!("unix:{long}"));
    for refused in [builder.clone().connect_lazy(), with_timeout(builder.connect()).await] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("at most 10"), "{error}");
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn unix_abstract_name_leaves_no_file() {
    use std::os::linux::net::SocketAddrExt;

    let name = format!("metrics-client-{}-abstract", std::process::id());
    let address = format!("@{name}");
    assert!(cause(&address).await.contains("no server listens on this name"));

    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&abstract_name).unwrap();
    listener.set_nonblocking(true).unwrap();
    serve(UnixListener::from_std(listener).unwrap(), Arc::default());
    let client = connect(&address).await.unwrap();
    client.put_at("palm.cpu", 23.7, 1).await.unwrap();
    client.close().await.unwrap();
    assert!(!fs::exists(&address).unwrap());
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn unix_full_backlog_is_named_as_the_cause() {
    let socket = SocketPath::new("full");
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&socket.0).unwrap()).unwrap();
    listener.listen(0).unwrap();
    // Linux lets one more wait than the backlog says.
    let _first = socket.connect().await.unwrap();
    let cause = cause(socket.0.to_str().unwrap()).await;
    assert!(cause.contains("queue of connections is full"), "{cause}");
}
