//! What arrives while the runtime is blocked. The client must see it before it writes, and before it decides
//! that something is late.
//!
//! Tokio reads no socket before its IO driver has had its turn, so this takes real sockets.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream as StdStream},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use metrics_client::{
    ClientBuilder, Delivery, Error, MetricsClient, Point,
    client::{Address, Connector, Pipelining},
    error::ConnectionError,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    join,
    net::TcpStream,
    runtime::Runtime,
    sync::mpsc,
    task::yield_now,
    time,
};

use crate::peer::{Peer, with_timeout};

/// The server's ends of the connections that a client makes, in their order.
struct ServerEnds(TcpListener);

impl ServerEnds {
    fn new() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self(listener), address)
    }

    /// The next connection, which is played by `script` in a thread of its own.
    fn serve(&self, script: impl FnOnce(StdStream) + Send + 'static) -> thread::JoinHandle<()> {
        let listener = self.0.try_clone().unwrap();
        thread::spawn(move || script(listener.accept().unwrap().0))
    }
}

fn answer(mut io: &StdStream, request: &str, answer: &str) {
    let mut got = vec![0; request.len()];
    io.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), request);
    io.write_all(answer.as_bytes()).unwrap();
}

/// Dials over TCP, and keeps a second handle of each socket.
#[derive(Clone, Default)]
struct SocketRecorder(Arc<Mutex<Vec<StdStream>>>);

impl Connector for SocketRecorder {
    type Io = TcpStream;

    async fn connect(&self, address: &Address) -> io::Result<TcpStream> {
        let io = StdStream::connect(address.as_str())?;
        io.set_nonblocking(true)?;
        self.0.lock().unwrap().push(io.try_clone()?);
        TcpStream::from_std(io)
    }
}

impl SocketRecorder {
    /// Lets the thread, and with it the runtime, stand still until something has come on the latest
    /// connection.
    fn stand_still(&self) {
        let io = self.0.lock().unwrap().pop().unwrap();
        while matches!(io.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            thread::yield_now();
        }
    }
}

fn builder<C: Connector>(address: String, connector: C) -> ClientBuilder<C> {
    MetricsClient::builder(address).connector(connector).resend_unacknowledged(false)
}

/// Lets the clock go on, so that the last answer has come some time ago.
async fn later() {
    time::pause();
    time::advance(Duration::from_secs(1)).await;
    time::resume();
}

// FAULTS C1
#[tokio::test]
async fn unsolicited_response_ends_an_idle_connection() {
    let (server, address) = ServerEnds::new();
    let watched = SocketRecorder::default();
    let client = builder(address, watched.clone()).connect_lazy().unwrap();
    let (go, gone) = std::sync::mpsc::channel();
    let first = server.serve(move |mut io| {
        answer(&io, "put x 1.0 1\n", "ok\n\n");
        gone.recv().unwrap();
        io.write_all(b"error\nidle timeout\n\n").unwrap();
        assert_eq!(io.read(&mut [0; 64]).unwrap_or(0), 0, "the request was written");
    });
    client.put_at("x", 1.0, 1).await.unwrap();
    later().await;
    go.send(()).unwrap();
    watched.stand_still();
    server.serve(|io| {
        answer(&io, "put y 1.0 1\n", "ok\n\n");
        answer(&io, "get A\n", "ok\nA 1.0 1\n\n");
    });
    client.put_at("y", 1.0, 1).await.unwrap();
    assert_eq!(client.get("A").await.unwrap().points("A"), [Point::new(1.0, 1)]);
    first.join().unwrap();
}

// FAULTS C1
#[tokio::test]
async fn idle_connection_closed_by_server_is_not_used() {
    let (server, address) = ServerEnds::new();
    let watched = SocketRecorder::default();
    let client = builder(address, watched.clone()).connect_lazy().unwrap();
    let (go, gone) = std::sync::mpsc::channel();
    server.serve(move |io| {
        answer(&io, "put x 1.0 1\n", "ok\n\n");
        gone.recv().unwrap();
    });
    client.put_at("x", 1.0, 1).await.unwrap();
    later().await;
    go.send(()).unwrap();
    watched.stand_still();
    server.serve(|io| answer(&io, "put y 1.0 1\n", "ok\n\n"));
    client.put_at("y", 1.0, 1).await.unwrap();
}

// FAULTS C1
#[tokio::test]
async fn idle_connection_that_was_reset_is_not_used() {
    let (server, address) = ServerEnds::new();
    let watched = SocketRecorder::default();
    let client = builder(address, watched.clone()).connect_lazy().unwrap();
    let (go, gone) = std::sync::mpsc::channel();
    server.serve(move |io| {
        answer(&io, "put x 1.0 1\n", "ok\n\n");
        gone.recv().unwrap();
        socket2::SockRef::from(&io).set_linger(Some(Duration::ZERO)).unwrap();
    });
    client.put_at("x", 1.0, 1).await.unwrap();
    later().await;
    go.send(()).unwrap();
    watched.stand_still();
    server.serve(|io| answer(&io, "put y 1.0 1\n", "ok\n\n"));
    client.put_at("y", 1.0, 1).await.unwrap();
}

// FAULTS C1
#[test]
fn block_on_per_call_sees_a_closed_connection() {
    let (server, address) = ServerEnds::new();
    let watched = SocketRecorder::default();
    let runtime = runtime();
    let client = {
        let _context = runtime.enter();
        builder(address, watched.clone()).connect_lazy().unwrap()
    };
    for second in 0..3 {
        let (go, gone) = std::sync::mpsc::channel();
        server.serve(move |io| {
            answer(&io, &format!("put a 1.0 {second}\n"), "ok\n\n");
            gone.recv().unwrap();
        });
        runtime.block_on(client.put_at("a", 1.0, second)).unwrap();
        runtime.block_on(later());
        go.send(()).unwrap();
        watched.stand_still();
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connection of a type that this crate cannot know.
struct Foreign(TcpStream);

impl AsyncRead for Foreign {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Foreign {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// FAULTS C1
#[tokio::test]
async fn custom_stream_is_polled_after_the_io_driver() {
    let (server, address) = ServerEnds::new();
    let watched = SocketRecorder::default();
    let (go, gone) = std::sync::mpsc::channel();
    server.serve(move |mut io| {
        answer(&io, "put x 1.0 1\n", "ok\n\n");
        gone.recv().unwrap();
        io.write_all(b"ok\n\n").unwrap();
        assert_eq!(io.read(&mut [0; 64]).unwrap_or(0), 0, "the request was written");
    });
    let io = Foreign(watched.connect(&address.parse().unwrap()).await.unwrap());
    let client = MetricsClient::from_io(io);
    client.put_at("x", 1.0, 1).await.unwrap();
    later().await;
    go.send(()).unwrap();
    watched.stand_still();
    match client.get("y").await {
        Err(Error::Connection { source: fault, delivery: Delivery::NotSent, .. }) => {
            assert!(matches!(*fault, ConnectionError::Unsolicited), "{fault:?}");
        }
        outcome => panic!("{outcome:?}"),
    }
}

/// A socket as Tokio has it, on a pipe: what has come can be read once the IO driver has told of it.
struct DriverSocket {
    pipe: DuplexStream,
    driver: Arc<IoDriver>,
}

/// In how many turns of the runtime it will ask the system: 1 after a standstill, 2 if a signal has
/// interrupted the first.
#[derive(Default)]
struct IoDriver {
    turns: AtomicUsize,
    /// Whether a turn is to come of which the task will be told.
    awaited: AtomicBool,
}

struct Turn(Arc<IoDriver>, Waker);

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.0.awaited.store(false, Ordering::SeqCst);
        self.0.turns.fetch_sub(1, Ordering::SeqCst);
        self.1.wake_by_ref();
    }
}

impl AsyncRead for DriverSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.driver.turns.load(Ordering::SeqCst) > 0 {
            if !self.driver.awaited.swap(true, Ordering::SeqCst) {
                let turn = Waker::from(Arc::new(Turn(self.driver.clone(), cx.waker().clone())));
                let _ = pin!(yield_now()).poll(&mut Context::from_waker(&turn));
            }
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for DriverSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Makes such sockets, and can ask the system, or cannot.
struct Sockets {
    peers: mpsc::UnboundedSender<(DuplexStream, Arc<IoDriver>)>,
    can_ask: bool,
}

impl Connector for Sockets {
    type Io = DriverSocket;

    async fn connect(&self, _: &Address) -> io::Result<DriverSocket> {
        let (pipe, theirs) = tokio::io::duplex(4 * 1024 * 1024);
        let driver = Arc::<IoDriver>::default();
        let _ = self.peers.send((theirs, driver.clone()));
        Ok(DriverSocket { pipe, driver })
    }

    fn has_input(&self, io: &DriverSocket) -> io::Result<Option<bool>> {
        Ok(self.can_ask.then(|| io.driver.turns.load(Ordering::SeqCst) > 0))
    }
}

/// A client on such sockets, a peer on its first connection, and the turns that pass before its answers
/// are seen.
async fn on_sockets(turns: usize) -> (MetricsClient, Peer, impl Fn()) {
    let (peers, mut connections) = mpsc::unbounded_channel();
    let client = MetricsClient::builder("sockets")
        .connector(Sockets { peers, can_ask: turns > 1 })
        .pipelining(Pipelining::On)
        .connect()
        .await
        .unwrap();
    let (io, driver) = connections.recv().await.unwrap();
    (client, Peer::on(io), move || driver.turns.store(turns, Ordering::SeqCst))
}

/// Longer than the request timeout, and than the stall timeout.
const STANDSTILL: Duration = Duration::from_secs(60);

// FAULTS C3
#[tokio::test(start_paused = true)]
async fn responses_before_a_late_timer_count() {
    for turns in [1, 2] {
        let (client, mut peer, stand_still) = on_sockets(turns).await;
        let server = async {
            peer.expect("put a 1.0 1\nput b 1.0 1\n").await;
            stand_still();
            peer.send("ok\n\nok\n\n").await;
            time::advance(STANDSTILL).await;
            peer
        };
        let (a, b) = (client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1));
        let (a, b, _peer) = join!(with_timeout(a), with_timeout(b), server);
        a.unwrap();
        b.unwrap();
        assert_eq!(client.stats().reconnects, 0);
    }
}

// FAULTS C3
#[tokio::test(start_paused = true)]
async fn long_response_before_a_late_timer_counts() {
    let (client, mut peer, stand_still) = on_sockets(2).await;
    let answer = format!("ok\n{}\n", "a 1.0 1\n".repeat(100_000));
    let server = async {
        peer.expect("get a\n").await;
        stand_still();
        peer.send(&answer).await;
        time::advance(STANDSTILL).await;
        peer
    };
    let (metrics, _peer) = join!(with_timeout(client.get("a")), server);
    assert_eq!(metrics.unwrap().points("a"), [Point::new(1.0, 1)]);
    assert_eq!(client.stats().reconnects, 0);
}

// FAULTS C3
#[tokio::test(start_paused = true)]
async fn late_timer_without_a_response_is_a_timeout() {
    for turns in [1, 2] {
        let (client, mut peer, stand_still) = on_sockets(turns).await;
        let server = async {
            peer.expect("put a 1.0 1\n").await;
            stand_still();
            time::advance(STANDSTILL).await;
            peer.expect_end().await;
        };
        let (put, ()) = join!(with_timeout(client.put_at("a", 1.0, 1)), server);
        assert!(matches!(put, Err(Error::Timeout { delivery: Delivery::Unknown, .. })), "{put:?}");
    }
}
