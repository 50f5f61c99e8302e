//! Connections over Unix sockets.

use std::io;

use tokio::net::UnixStream;

use super::{address::Address, connector::Connector};
use crate::error::InvalidAddress;

/// Connects over a Unix socket, and to nothing else. The [default connector](super::DefaultConnector) does so too for
/// an address such as `unix:/run/metrics.sock`; this one is for connectors on top of it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use metrics_client::{MetricsClient, client::{Address, UnixConnector}};
/// use metrics_server::{MemoryStore, Limits, serve_connection};
/// use tokio::net::UnixListener;
///
/// let path = std::env::temp_dir().join(format!("metrics-{}.sock", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let store = Arc::new(MemoryStore::new());
/// tokio::spawn(async move {
///     while let Ok((io, _)) = listener.accept().await {
///         tokio::spawn(serve_connection(io, Arc::clone(&store), Limits::default()));
///     }
/// });
///
/// let client =
///     MetricsClient::builder(Address::unix(&path)?).connector(UnixConnector::new()).connect().await?;
/// client.put_at("palm.cpu", 23.7, 1150864247).await?;
/// assert_eq!(client.get("palm.cpu").await?.latest("palm.cpu").unwrap().value, 23.7);
/// # client.close().await?;
/// # std::fs::remove_file(path)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UnixConnector {}

impl UnixConnector {
    /// Returns a connector.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}

impl Connector for UnixConnector {
    type Io = UnixStream;

    async fn connect(&self, address: &Address) -> io::Result<UnixStream> {
        let path = address
            .require_unix()
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?
            .as_str();
        let connected = match path.strip_prefix('@') {
            // A path that begins with a zero byte is abstract to Tokio, as it is to the kernel.
            Some(name) if cfg!(target_os = "linux") => {
                UnixStream::connect(format!("\0{name}")).await
            }
            _ => UnixStream::connect(path).await,
        };
        connected.map_err(|error| describe_error(error, path))
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        address.require_unix().map(drop)
    }
}

/// Explains an error of a Unix socket where the system's words do not.
fn describe_error(error: io::Error, path: &str) -> io::Error {
    let meaning = match error.kind() {
        io::ErrorKind::NotFound => "no socket at this path: is the server running?",
        io::ErrorKind::ConnectionRefused if path.starts_with('@') => {
            "no server listens on this name: is it running?"
        }
        io::ErrorKind::ConnectionRefused => {
            "no server listens on this socket: it has ended and left the file behind"
        }
        io::ErrorKind::WouldBlock => "the server's queue of connections is full",
        _ => return error,
    };
    io::Error::new(error.kind(), meaning)
}
