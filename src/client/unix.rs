//! Connections over Unix sockets.

use std::io;

use tokio::net::UnixStream;

use super::{address::check_unix, connect::Connector};
use crate::error::InvalidAddress;

/// Connects over a Unix socket: the client's address is the socket's path.
///
/// On Linux an address that begins with `@` is a name in the abstract namespace, as systemd writes
/// them; a file of such a name is `./@name`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use metrics_client::{MetricsClient, client::UnixConnector};
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
///     MetricsClient::builder(path.display()).connector(UnixConnector::default()).connect().await?;
/// client.put_at("palm.cpu", 23.7, 1150864247).await?;
/// assert_eq!(client.get("palm.cpu").await?.latest("palm.cpu").unwrap().value, 23.7);
/// # client.close().await?;
/// # std::fs::remove_file(path)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UnixConnector {}

impl Connector for UnixConnector {
    type Io = UnixStream;

    async fn connect(&self, address: &str) -> io::Result<UnixStream> {
        check_unix(address)
            .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
        let connected = match address.strip_prefix('@') {
            // What begins with a zero byte is abstract to Tokio, as it is to the kernel.
            Some(name) if cfg!(target_os = "linux") => {
                UnixStream::connect(format!("\0{name}")).await
            }
            _ => UnixStream::connect(address).await,
        };
        connected.map_err(|error| describe_error(error, address))
    }

    fn check_address(&self, address: &str) -> Result<(), InvalidAddress> {
        check_unix(address)
    }
}

/// Says what an error means for a Unix socket where the system's words do not.
fn describe_error(error: io::Error, address: &str) -> io::Error {
    let meaning = match error.kind() {
        io::ErrorKind::NotFound => "there is no socket at this path: is the server running?",
        io::ErrorKind::ConnectionRefused if address.starts_with('@') => {
            "nobody listens on this name: is the server running?"
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens on this socket: its server has ended and left the file behind"
        }
        io::ErrorKind::WouldBlock => "too many connections wait for the server to accept them",
        _ => return error,
    };
    io::Error::new(error.kind(), meaning)
}
