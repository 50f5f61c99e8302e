//! A server in this process, for the commands that bring their own.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use metrics_server::{Server, store::DiskStore};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    failure::{Failure, chain},
    signals,
};

/// A server on a loopback port that keeps what it acknowledges in a temporary folder.
pub(crate) struct EmbeddedServer {
    dir: TempDir,
    store: Arc<DiskStore>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl EmbeddedServer {
    /// Starts the server.
    ///
    /// # Errors
    ///
    /// If there can be no folder, or no port.
    async fn start() -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("metrics-").tempdir()?;
        let store = DiskStore::open(dir.path()).await.map_err(|error| {
            Failure::usage(format!("cannot open {}: {}", dir.path().display(), chain(&error)))
        })?;
        let store = Arc::new(store);
        let server = Server::bind("127.0.0.1:0").await?.store(Arc::clone(&store));
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve_until(async {
            let _ = stopped.await;
        }));
        Ok(Self { dir, store, address, stop, serving })
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command against the server to its end, or to the first signal; then the server stops, and its folder
    /// is removed. Returns what the command has returned, and how many bytes the folder had.
    ///
    /// # Errors
    ///
    /// If the command fails, is interrupted, or the server cannot be started.
    pub(crate) async fn run<T>(
        command: impl AsyncFnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<(T, u64), Failure> {
        let stop = signals::stop()?;
        let server = Self::start().await?;
        let done = tokio::select! {
            done = command(&server) => done,
            signal = stop => Err(Failure::interrupted(signal)),
        };
        let bytes = server.stop().await;
        Ok((done?, bytes?))
    }

    /// Stops the server, closes the store and removes its folder. Returns how many bytes it had.
    ///
    /// # Errors
    ///
    /// If the server has panicked, or the folder cannot be removed.
    async fn stop(self) -> Result<u64, Failure> {
        drop(self.stop);
        self.serving
            .await
            .map_err(|error| Failure::usage(format!("the server has panicked: {error}")))?;
        self.store.close().await;
        let bytes = dir_bytes(self.dir.path());
        self.dir.close()?;
        Ok(bytes)
    }
}

/// Returns the length of all files in a folder; what cannot be read is not counted.
fn dir_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => dir_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
