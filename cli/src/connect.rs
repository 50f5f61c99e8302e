//! Which server a command talks to.

use std::time::Duration;

use metrics_client::{ClientBuilder, MetricsClient};

use tokio::runtime;

use crate::failure::Failure;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as
    /// `metrics+tls://HOST:PORT`, or several with commas between them
    #[arg(long, env = "METRICS_SERVER", default_value = "127.0.0.1:8888", value_name = "ADDRESS")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) timeout: TimeoutArgs,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct TimeoutArgs {
    /// Sets how many seconds one request may take
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    timeout: f64,
}

impl ServerArgs {
    pub(crate) fn builder(&self) -> Result<ClientBuilder, Failure> {
        let TimeoutArgs { timeout } = self.timeout;
        let timeout = Duration::try_from_secs_f64(timeout)
            .map_err(|error| Failure::usage(format!("invalid --timeout {timeout}: {error}")))?;
        Ok(MetricsClient::builder(&self.server).request_timeout(timeout).connect_timeout(timeout))
    }

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// Returns an error that names the server if there is no connection.
    pub(crate) async fn connect(&self) -> Result<MetricsClient, Failure> {
        self.builder()?.connect().await.map_err(|error| self.failure(error))
    }

    /// Returns the failure of a request, with the server's address.
    pub(crate) fn failure(&self, error: metrics_client::Error) -> Failure {
        let failure = Failure::from(error);
        if failure.names(&self.server) { failure } else { failure.context(&self.server) }
    }
}

/// Runs a command that has little to do at once on the runtime of one thread.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
