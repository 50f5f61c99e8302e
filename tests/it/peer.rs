//! The peer of a client, played by the test.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics_client::{
    ClientBuilder, MetricsClient,
    client::{Address, Connector},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::{self, Instant},
};

/// Longer than any default timeout of a client. Time is paused, so it costs nothing.
const NEVER: Duration = Duration::from_secs(600);

/// Waits for the future, and panics if it does not end in [`NEVER`]: a broken client fails a test, and
/// does not block it.
pub(crate) async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    time::timeout(NEVER, future).await.expect("the future never ends")
}

/// One end of a connection whose other end is the client's.
#[derive(Debug)]
pub(crate) struct Peer {
    io: DuplexStream,
}

impl Peer {
    pub(crate) fn on(io: DuplexStream) -> Self {
        Self { io }
    }

    pub(crate) fn into_io(self) -> DuplexStream {
        self.io
    }

    /// Reads exactly this.
    pub(crate) async fn expect(&mut self, requests: &str) {
        let mut got = vec![0; requests.len()];
        let mut len = 0;
        while len < got.len() {
            match time::timeout(NEVER, self.io.read(&mut got[len..])).await {
                Ok(Ok(read)) if read > 0 => len += read,
                end => panic!(
                    "expected {requests:?}, got {:?} and then {end:?}",
                    String::from_utf8_lossy(&got[..len])
                ),
            }
        }
        assert_eq!(String::from_utf8_lossy(&got), requests);
    }

    /// Reads nothing for a while.
    pub(crate) async fn expect_silence(&mut self, time: Duration) {
        let mut got = [0; 256];
        if let Ok(read) = time::timeout(time, self.io.read(&mut got)).await {
            panic!(
                "expected silence, got {:?}",
                read.map(|len| String::from_utf8_lossy(&got[..len]).into_owned())
            );
        }
    }

    /// Reads the end of the connection.
    pub(crate) async fn expect_end(&mut self) {
        let mut got = [0; 256];
        match time::timeout(NEVER, self.io.read(&mut got)).await {
            Ok(Ok(0)) => {}
            read => panic!("expected the end, got {read:?}: {:?}", String::from_utf8_lossy(&got)),
        }
    }

    /// Reads whatever has come, at least one byte.
    pub(crate) async fn read_some(&mut self) -> String {
        let mut got = vec![0; 1024 * 1024];
        let len = time::timeout(NEVER, self.io.read(&mut got)).await.unwrap().unwrap();
        String::from_utf8_lossy(&got[..len]).into_owned()
    }

    pub(crate) async fn send(&mut self, answers: &str) {
        self.io.write_all(answers.as_bytes()).await.unwrap();
    }

    /// One exchange.
    pub(crate) async fn answer(&mut self, request: &str, answer: &str) {
        self.expect(request).await;
        self.send(answer).await;
    }
}

/// Where the test takes the connections that a client makes.
#[derive(Debug)]
pub(crate) struct MockNetwork {
    connections: mpsc::UnboundedReceiver<(Instant, DuplexStream)>,
    unreachable: Arc<AtomicUsize>,
}

/// Makes connections that a [`MockNetwork`] hands to the test.
#[derive(Clone, Debug)]
pub(crate) struct MockDialer {
    connections: mpsc::UnboundedSender<(Instant, DuplexStream)>,
    /// How many attempts fail, from now on; the highest number means that they never end.
    unreachable: Arc<AtomicUsize>,
    buffer: usize,
}

/// What a pipe between client and peer holds each way, unless it matters.
const BUFFER: usize = 1024 * 1024;

impl MockNetwork {
    /// A network, and a builder of clients on it.
    pub(crate) fn new() -> (Self, ClientBuilder<MockDialer>) {
        Self::with_buffer(BUFFER)
    }

    /// Returns a network whose connections buffer `buffer` bytes in each direction.
    pub(crate) fn with_buffer(buffer: usize) -> (Self, ClientBuilder<MockDialer>) {
        let (sender, connections) = mpsc::unbounded_channel();
        let unreachable = Arc::new(AtomicUsize::new(0));
        let dialer =
            MockDialer { connections: sender, unreachable: Arc::clone(&unreachable), buffer };
        (Self { connections, unreachable }, MetricsClient::builder("peer").connector(dialer))
    }

    /// The next connection that the client makes.
    pub(crate) async fn accept(&mut self) -> Peer {
        self.accept_at().await.0
    }

    /// The next connection that the client makes, and when it did.
    pub(crate) async fn accept_at(&mut self) -> (Peer, Instant) {
        let (at, io) = time::timeout(NEVER, self.connections.recv())
            .await
            .expect("the client does not dial")
            .expect("the client is gone");
        (Peer { io }, at)
    }

    /// Expects that the client does not connect for a while.
    pub(crate) async fn expect_no_dial(&mut self, time: Duration) {
        assert!(time::timeout(time, self.connections.recv()).await.is_err(), "the client dialled");
    }

    /// The next attempts fail.
    pub(crate) fn refuse(&self, attempts: usize) {
        self.unreachable.store(attempts, Ordering::SeqCst);
    }

    /// From now on attempts never end.
    pub(crate) fn black_hole(&self) {
        self.unreachable.store(usize::MAX, Ordering::SeqCst);
    }

    /// How many of the attempts that are to fail have not been made yet.
    pub(crate) fn refusals_left(&self) -> usize {
        self.unreachable.load(Ordering::SeqCst)
    }
}

impl Connector for MockDialer {
    type Io = DuplexStream;

    async fn connect(&self, _: &Address) -> io::Result<DuplexStream> {
        match self.unreachable.load(Ordering::SeqCst) {
            0 => {
                let (ours, theirs) = tokio::io::duplex(self.buffer);
                let _ = self.connections.send((Instant::now(), theirs));
                Ok(ours)
            }
            usize::MAX => pending().await,
            left => {
                self.unreachable.store(left - 1, Ordering::SeqCst);
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"))
            }
        }
    }
}
