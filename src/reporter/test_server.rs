//! A server on pipes, for unit tests of the reporter.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::Notify,
    time,
};

use crate::{
    MetricsClient, Reporter,
    client::{Address, Connector, Pipelining},
    reporter::ReporterStats,
};

/// Acknowledges every put while it is reachable. Clones are one server.
#[derive(Clone, Debug, Default)]
pub(super) struct TestServer(Arc<TestServerState>);

#[derive(Debug, Default)]
struct TestServerState {
    is_away: AtomicBool,
    is_silent: AtomicBool,
    puts: Mutex<Vec<String>>,
    came: Notify,
    poison: Mutex<Option<String>>,
}

impl TestServer {
    /// Returns a client of this server.
    pub(super) fn client(&self) -> MetricsClient {
        self.builder().connect_lazy().unwrap()
    }

    pub(super) fn builder(&self) -> crate::ClientBuilder<Self> {
        MetricsClient::builder("test").connector(self.clone()).pipelining(Pipelining::On)
    }

    /// Makes the server unreachable, or reachable again.
    pub(super) fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Makes the server read without answering, or answer again.
    pub(super) fn set_silent(&self, is_silent: bool) {
        self.0.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// Makes the server close the connection at puts of keys that begin with `prefix`.
    pub(super) fn close_at(&self, prefix: &str) {
        *self.0.poison.lock().unwrap() = Some(format!("put {prefix}"));
    }

    /// Returns the puts that were answered, without the command.
    pub(super) fn puts(&self) -> Vec<String> {
        self.0.puts.lock().unwrap().clone()
    }

    /// Waits until a put that begins with `put` was answered.
    pub(super) async fn has(&self, put: &str) {
        let has = async {
            loop {
                let came = self.0.came.notified();
                if self.puts().iter().any(|line| line.starts_with(put)) {
                    return;
                }
                came.await;
            }
        };
        let limit = Duration::from_secs(600);
        time::timeout(limit, has).await.expect("the put never arrives");
    }

    async fn serve(self, io: DuplexStream) {
        let (reader, mut writer) = tokio::io::split(io);
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            while self.0.is_silent.load(Ordering::SeqCst) {
                time::sleep(Duration::from_millis(1)).await;
            }
            let poison = self.0.poison.lock().unwrap().clone();
            if poison.is_some_and(|poison| line.starts_with(&poison)) {
                return;
            }
            if let Some(put) = line.strip_prefix("put ") {
                self.0.puts.lock().unwrap().push(put.to_owned());
                self.0.came.notify_waiters();
            }
            if writer.write_all(b"ok\n\n").await.is_err() {
                return;
            }
        }
    }
}

impl Connector for TestServer {
    type Io = DuplexStream;

    async fn connect(&self, _: &Address) -> io::Result<DuplexStream> {
        if self.0.is_away.load(Ordering::SeqCst) {
            return pending().await;
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.clone().serve(theirs));
        Ok(ours)
    }
}

/// Returns the stats, which must add up.
#[track_caller]
pub(super) fn accounted(reporter: &Reporter) -> ReporterStats {
    let stats = reporter.stats();
    let ReporterStats { acknowledged, coalesced, rejected, dropped, waiting, spooled, .. } = stats;
    let accounted = acknowledged + coalesced + rejected + dropped.total() + waiting + spooled;
    assert_eq!(stats.recorded + stats.recovered, accounted, "{stats:?}");
    stats
}
