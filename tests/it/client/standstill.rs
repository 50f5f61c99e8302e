//! What comes while the runtime stands still: the client must see it before it writes, and before it judges
//! that something is late.
//!
//! Tokio reads no socket before its IO driver has had its turn, so this takes real sockets.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream as StdStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use metrics_client::{ClientBuilder, ConnectionFault, Connector, Error, MetricsClient, Point};
use tokio::{
    net::TcpStream,
    runtime::Runtime,
    time,
};

/// The server's ends of the connections that a client makes, in their order.
struct Server(TcpListener);

impl Server {
    fn new() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self(listener), address)
    }

    /// The next connection, which is played by `script` in a thread of its own.
    fn serve(
        &self,
        script: impl FnOnce(StdStream) + Send + 'static,
    ) -> thread::JoinHandle<()> {
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
struct Watched(Arc<Mutex<Vec<StdStream>>>);

impl Connector for Watched {
    type Io = TcpStream;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let io = StdStream::connect(address)?;
        io.set_nonblocking(true)?;
        self.0.lock().unwrap().push(io.try_clone()?);
        TcpStream::from_std(io)
    }
}

impl Watched {
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
    MetricsClient::builder(address).connector(connector).retry(false)
}

/// Lets the clock go on, so that the last answer has come some time ago.
async fn later() {
    time::pause();
    time::advance(Duration::from_secs(1)).await;
    time::resume();
}

// FAULTS C1
#[tokio::test]
async fn an_unasked_answer_ends_an_idle_connection_unsent() {
    let (server, address) = Server::new();
    let watched = Watched::default();
    let client = builder(address, watched.clone()).connect_lazy();
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
    assert_eq!(client.get("A").await.unwrap().points("A"), [Point::new(1, 1.0)]);
    first.join().unwrap();
}

// FAULTS C1
#[tokio::test]
async fn an_idle_connection_that_the_server_closed_is_not_written_to() {
    let (server, address) = Server::new();
    let watched = Watched::default();
    let client = builder(address, watched.clone()).connect_lazy();
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
async fn an_idle_connection_that_was_reset_is_not_written_to() {
    let (server, address) = Server::new();
    let watched = Watched::default();
    let client = builder(address, watched.clone()).connect_lazy();
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
fn a_client_with_a_block_on_for_each_call_sees_an_end() {
    let (server, address) = Server::new();
    let watched = Watched::default();
    let runtime = runtime();
    let client = {
        let _context = runtime.enter();
        builder(address, watched.clone()).connect_lazy()
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

impl tokio::io::AsyncRead for Foreign {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Foreign {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

// FAULTS C1
#[tokio::test]
async fn a_foreign_stream_is_looked_at_after_the_io_driver() {
    let (server, address) = Server::new();
    let watched = Watched::default();
    let (go, gone) = std::sync::mpsc::channel();
    server.serve(move |mut io| {
        answer(&io, "put x 1.0 1\n", "ok\n\n");
        gone.recv().unwrap();
        io.write_all(b"ok\n\n").unwrap();
        assert_eq!(io.read(&mut [0; 64]).unwrap_or(0), 0, "the request was written");
    });
    let io = Foreign(watched.connect(&address).await.unwrap());
    let client = MetricsClient::from_io(io);
    client.put_at("x", 1.0, 1).await.unwrap();
    later().await;
    go.send(()).unwrap();
    watched.stand_still();
    match client.get("y").await {
        Err(Error::Connection { fault, delivery: metrics_client::Delivery::NotSent }) => {
            assert!(matches!(*fault, ConnectionFault::Unsolicited), "{fault:?}");
        }
        outcome => panic!("{outcome:?}"),
    }
}
