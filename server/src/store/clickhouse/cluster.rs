//! Requests to the hosts of a cluster.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use clickhouse::{Client, Compression, query::BytesCursor};
use tokio::time::timeout;

use super::{
    error::ClickHouseError,
    options::{ClickHouseOptions, CompressionChoice},
};

/// Settings of a request: names and values.
pub(super) type Settings = Vec<(&'static str, String)>;

/// The hosts of a cluster, of which one is used until it fails.
#[derive(Debug)]
pub(super) struct Cluster {
    hosts: Vec<ClusterHost>,
    /// The index of the host that is used.
    current: AtomicUsize,
    timeout: Duration,
}

struct ClusterHost {
    /// `host:port`.
    name: Box<str>,
    client: Client,
}

impl std::fmt::Debug for ClusterHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Cluster {
    /// Creates a cluster of the hosts of `options`, each with a clone of `client`.
    pub(super) fn new(options: &ClickHouseOptions, client: &Client) -> Self {
        let compression = match options.compression {
            CompressionChoice::None => Compression::None,
            CompressionChoice::Lz4 => Compression::Lz4,
        };
        let host = |name: &String| {
            let client = client.clone().with_url(format!("http://{name}"));
            let mut client = client.with_compression(compression).with_database(&options.database);
            if let Some(user) = &options.user {
                client = client.with_user(user);
            }
            if let Some(password) = &options.password {
                client = client.with_password(password);
            }
            ClusterHost { name: name.as_str().into(), client }
        };
        Self {
            hosts: options.hosts.iter().map(host).collect(),
            // Several servers use several hosts.
            current: AtomicUsize::new(fastrand::usize(..options.hosts.len())),
            timeout: options.timeout,
        }
    }

    /// Sends a block of rows to the current host, and returns when it has been stored.
    ///
    /// # Errors
    ///
    /// The next attempt uses the next host.
    pub(super) async fn insert(
        &self,
        statement: &str,
        settings: &Settings,
        rows: &Bytes,
    ) -> Result<(), ClickHouseError> {
        let (index, host) = self.host();
        let mut insert = host.client.insert_formatted_with(statement);
        for (name, value) in settings {
            insert = insert.with_setting(*name, value);
        }
        let send = async {
            insert.send(rows.clone()).await?;
            insert.end().await
        };
        let sent = match timeout(self.timeout, send).await {
            Ok(sent) => sent.map_err(|error| ClickHouseError::new(&host.name, error)),
            Err(_) => Err(ClickHouseError::timed_out(&host.name)),
        };
        sent.inspect_err(|_| self.fail_over(index))
    }

    /// Carries out a statement, and returns its answer as tab separated text; tries each host once.
    pub(super) async fn query(
        &self,
        statement: &str,
        settings: &Settings,
        within: Duration,
    ) -> Result<String, ClickHouseError> {
        self.on_each_host(|host| async move {
            let mut cursor = host.read(statement, settings, "TabSeparated")?;
            let answer = match timeout(within, cursor.collect()).await {
                Ok(answer) => answer.map_err(|error| ClickHouseError::new(&host.name, error))?,
                Err(_) => return Err(ClickHouseError::timed_out(&host.name)),
            };
            let is_text = String::from_utf8(answer.into());
            is_text.map_err(|_| ClickHouseError::invalid_answer(&host.name, "not UTF-8"))
        })
        .await
    }

    /// Begins to read an answer as `RowBinary`; tries each host once.
    pub(super) async fn read(
        &self,
        statement: &str,
        settings: &Settings,
    ) -> Result<RowStream, ClickHouseError> {
        self.on_each_host(|host| async move {
            let mut cursor = host.read(statement, settings, "RowBinary")?;
            // The caller has a limit for the time of a query, which may be long.
            let first =
                cursor.next().await.map_err(|error| ClickHouseError::new(&host.name, error))?;
            Ok(RowStream { cursor, first, host: host.name.clone() })
        })
        .await
    }

    async fn on_each_host<'a, T, F>(
        &'a self,
        request: impl Fn(&'a ClusterHost) -> F,
    ) -> Result<T, ClickHouseError>
    where
        F: Future<Output = Result<T, ClickHouseError>>,
    {
        let mut tried = 1;
        loop {
            let (index, host) = self.host();
            match request(host).await {
                Err(error) if !error.needs_configuration() => {
                    self.fail_over(index);
                    if tried >= self.hosts.len() {
                        return Err(error);
                    }
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// The name of the current host.
    pub(super) fn host_name(&self) -> &str {
        &self.host().1.name
    }

    fn host(&self) -> (usize, &ClusterHost) {
        let index = self.current.load(Ordering::Relaxed);
        (index, &self.hosts[index])
    }

    /// Uses the next host, unless another request has done so already.
    fn fail_over(&self, failed: usize) {
        let next = (failed + 1) % self.hosts.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl ClusterHost {
    fn read(
        &self,
        statement: &str,
        settings: &Settings,
        format: &str,
    ) -> Result<BytesCursor, ClickHouseError> {
        let mut query = self.client.query_raw(statement);
        for (name, value) in settings {
            query = query.with_setting(*name, value);
        }
        query.fetch_bytes(format).map_err(|error| ClickHouseError::new(&self.name, error))
    }
}

/// The bytes of an answer.
pub(super) struct RowStream {
    cursor: BytesCursor,
    /// The first bytes.
    first: Option<Bytes>,
    host: Box<str>,
}

impl RowStream {
    /// Reads the next bytes; `None` at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClickHouseError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        self.cursor.next().await.map_err(|error| ClickHouseError::new(&self.host, error))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

impl std::fmt::Debug for RowStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowStream({})", self.host)
    }
}
