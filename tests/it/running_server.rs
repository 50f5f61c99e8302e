//! A server in the background of a test.

use std::net::SocketAddr;

use metrics_server::{Server, Store, stats::StatsHandle};
use tokio::{sync::oneshot, task::JoinHandle};

/// A server that serves until it is stopped, or the test is over.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) monitor: StatsHandle,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) serving: JoinHandle<()>,
}

impl Running {
    pub(crate) fn serve(server: Server<impl Store>) -> Self {
        let (addr, monitor) = (server.local_addr(), server.stats_handle());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve_until(async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { addr, monitor, stop, serving }
    }
}
