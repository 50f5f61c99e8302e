//! [`RelayBuilder`]: what a relay is configured with.

use std::{fmt, path::Path, time::Duration};

use metrics_client::MetricsClient;
use metrics_wal::OsFileSystem;
use tokio::task;

use super::{
    Relay, Rules,
    destination::{Destination, DestinationKind, MAX_NAME_LEN},
    sink::{InfluxAccess, MetricsSink},
    spool::Spool,
    worker::WorkerSettings,
};

/// Configures a [`Relay`].
#[derive(Clone)]
#[must_use]
pub struct RelayBuilder {
    destination: Destination,
    name: Option<String>,
    token: Option<String>,
    rules: Rules,
    max_queue_bytes: usize,
    max_spool_bytes: u64,
    spill_after: Duration,
}

/// Why a relay could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The name is empty, too long, or has other characters than letters, digits, `.`, `_` and `-`.
    #[error("invalid name {name:?} of a relay: use letters, digits, '.', '_' and '-'")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The spool could not be opened.
    #[error("cannot open the spool of relay {name}")]
    Spool {
        /// The name of the relay.
        name: String,
        /// The cause.
        source: metrics_wal::Error,
    },
    /// The destination cannot be used.
    #[error("cannot use the destination of relay {name}")]
    Destination {
        /// The name of the relay.
        name: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Relay {
    /// Returns a builder of a relay to `destination`.
    pub fn builder(destination: Destination) -> RelayBuilder {
        RelayBuilder::new(destination)
    }
}

impl RelayBuilder {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            destination,
            name: None,
            token: None,
            rules: Rules::default(),
            max_queue_bytes: 16 * 1024 * 1024,
            max_spool_bytes: 1024 * 1024 * 1024,
            spill_after: Duration::from_secs(1),
        }
    }

    /// Sets the name of the relay in logs and figures. Default: the destination, as far as it has letters and digits.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Returns the name of the relay.
    #[must_use]
    pub fn get_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.destination.default_name())
    }

    /// Sets the token that InfluxDB requires, in place of user and password. Other destinations have none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets which keys are sent, and under which names. Default: all, as they are.
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Sets how much memory the points that wait may take, in bytes. From half of it on they are stored in the spool; if
    /// it is full all the same, because the disk fails or is slower than the puts, new points are dropped.
    /// Default: 16 MiB.
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.max_queue_bytes = bytes;
        self
    }

    /// Sets how much space the spool may take on the device, in bytes. If it is full, the oldest eighth is dropped.
    /// Default: 1 GiB.
    pub fn max_spool_bytes(mut self, bytes: u64) -> Self {
        self.max_spool_bytes = bytes;
        self
    }

    /// Sets how long points may wait in memory, those in flight included, before they are stored in the spool.
    ///
    /// This is how much a process that is killed loses of what it has acknowledged and not relayed. With zero, every point
    /// is written to the spool and synced before it is sent. Default: one second.
    pub fn spill_after(mut self, time: Duration) -> Self {
        self.spill_after = time;
        self
    }

    /// Opens the spool in `dir`, which is created if it does not exist, and starts the relay. It sends what the
    /// spool holds, and then what its [observer](Relay::observer) gets.
    ///
    /// # Errors
    ///
    /// If the name is invalid, the spool cannot be opened, or the destination cannot be used. It need not be
    /// reachable.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn open(self, dir: impl AsRef<Path>) -> Result<Relay, RelayError> {
        let name = self.get_name();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty()
            || name.starts_with('.')
            || name.len() > MAX_NAME_LEN
            || !name.chars().all(is_plain)
        {
            return Err(RelayError::InvalidName { name });
        }
        let settings = WorkerSettings {
            rules: self.rules,
            spill_after: self.spill_after,
            spill_bytes: self.max_queue_bytes / 2,
        };
        let (dir, max_spool_bytes) = (dir.as_ref().to_owned(), self.max_spool_bytes);
        let opened =
            task::spawn_blocking(move || Spool::open(OsFileSystem, &dir, max_spool_bytes)).await;
        let spool = match opened {
            Ok(Ok(spool)) => spool,
            Ok(Err(error)) => return Err(RelayError::Spool { name, source: error.error }),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        match self.destination.kind {
            DestinationKind::Metrics(addresses) => {
                let client = MetricsClient::builder(addresses).connect_lazy();
                let client = client.map_err(|error| RelayError::Destination {
                    name: name.clone(),
                    source: error.into(),
                })?;
                let sink = MetricsSink::new(client);
                Ok(Relay::start(name, settings, self.max_queue_bytes, sink, spool))
            }
            DestinationKind::Influx(mut url) => {
                if let Some(token) = self.token {
                    url.access = InfluxAccess::Token(token);
                }
                // It reads files.
                let sink = task::spawn_blocking(move || url.sink()).await;
                let sink =
                    sink.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                let sink =
                    sink.map_err(|source| RelayError::Destination { name: name.clone(), source })?;
                Ok(Relay::start(name, settings, self.max_queue_bytes, sink, spool))
            }
        }
    }
}

impl fmt::Debug for RelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token.
        f.debug_struct("RelayBuilder")
            .field("destination", &self.destination)
            .field("name", &self.name)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
