//! A process that stood still for longer than its limits, while its peers did not.
//!
//! When it goes on, its timers run before it has seen what the kernel has for it.

// FAULTS S1

use std::{pin::Pin, task::Context};

use tokio::{
    io::ReadBuf,
    time::{Sleep, advance, sleep_until},
};

use super::*;

/// A socket that the runtime has not looked at since the process went on.
struct Unseen {
    io: DuplexStream,
    seen: Pin<Box<Sleep>>,
    /// From when on the socket is looked at.
    until: Arc<Mutex<Instant>>,
}

impl Unseen {
    fn poll_seen(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.until.lock().unwrap();
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        self.seen.as_mut().reset(until);
        self.seen.as_mut().poll(cx)
    }
}

impl AsyncRead for Unseen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_seen(cx));
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unseen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_seen(cx));
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How long the process stands still: longer than a line may take, or an answer be unread.
const STOP: Duration = Duration::from_secs(100);

/// A conversation with a session, and from when on its process sees the socket.
struct Stopped {
    talk: Talk,
    until: Arc<Mutex<Instant>>,
}

impl Stopped {
    fn new(shared: Shared<MemoryStore>) -> Self {
        let (peer, io) = duplex(1024);
        let until = Arc::new(Mutex::new(Instant::now()));
        let seen = Box::pin(sleep_until(Instant::now()));
        let io = Unseen { io, seen, until: Arc::clone(&until) };
        let (stop, stopped) = watch::channel(false);
        let address = ([127, 0, 0, 1], 1).into();
        let session = serve_accepted(io, address, Arc::new(shared), Usage::default(), stopped);
        Self { talk: Talk { peer, stop, session: tokio::spawn(session) }, until }
    }

    fn with(store: MemoryStore) -> Self {
        Self::new(Shared::new(store, Limits::default(), Arc::default()))
    }

    /// What is written to the socket from here on is not seen before `time` is over.
    fn stop(&self, time: Duration) {
        *self.until.lock().unwrap() = Instant::now() + time + Duration::from_millis(1);
    }
}

#[tokio::test(start_paused = true)]
async fn line_that_came_during_a_stop_is_answered() {
    let mut stopped = Stopped::with(MemoryStore::new());
    stopped.talk.send("put a 1 1").await;
    sleep(SECOND).await;
    stopped.stop(STOP);
    stopped.talk.send("\nget a\n").await;
    advance(STOP).await;
    stopped.talk.expect("ok\n\nok\na 1.0 1\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn request_that_came_during_a_stop_is_answered() {
    let mut stopped = Stopped::with(MemoryStore::new());
    stopped.talk.send("get a\n").await;
    stopped.talk.expect("ok\n\n").await;
    stopped.stop(10 * STOP);
    stopped.talk.send("get a\n").await;
    advance(10 * STOP).await;
    stopped.talk.expect("ok\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn answer_that_was_read_during_a_stop_goes_on() {
    let mut stopped = Stopped::with(store_of(1000).await);
    stopped.talk.send("get *\n").await;
    sleep(SECOND).await;
    stopped.stop(STOP);
    let mut answer = vec![0; 1024];
    stopped.talk.peer.read_exact(&mut answer).await.unwrap();
    advance(STOP).await;
    while !answer.ends_with(b"\n\n") {
        assert_ne!(stopped.talk.peer.read_buf(&mut answer).await.unwrap(), 0, "it is cut");
    }
    stopped.talk.send("get none\n").await;
    stopped.talk.expect("ok\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn peer_that_was_silent_during_a_stop_is_cut_off() {
    for request in ["put a 1 1", "", "get *\n"] {
        let mut stopped = Stopped::with(store_of(1000).await);
        stopped.talk.send(request).await;
        sleep(SECOND).await;
        stopped.stop(10 * STOP);
        advance(10 * STOP).await;
        let begin = Instant::now();
        (&mut stopped.talk.session).await.unwrap();
        assert!(begin.elapsed() < SECOND, "{request:?}: {:?}", begin.elapsed());
    }
}

/// What a peer sends while the process stands still is seen when it goes on; the rest of the
/// handshake takes more than a look.
#[cfg(feature = "tls")]
#[tokio::test(start_paused = true)]
async fn handshake_that_began_before_a_stop_succeeds() {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::ServerName};

    let own = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(metrics_client::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));

    let shared = Shared::new(MemoryStore::new(), Limits::default(), Arc::default());
    let Stopped { talk: Talk { peer, stop: _stop, session: _ }, until } =
        Stopped::new(shared.tls(Some(acceptor)));
    *until.lock().unwrap() = Instant::now() + STOP + Duration::from_millis(1);
    let name = ServerName::try_from("localhost").unwrap();
    let client = tokio::spawn(async move {
        let mut io = connector.connect(name, peer).await?;
        // The last of the handshake is late, but not as late as it may be.
        sleep(20 * SECOND).await;
        io.write_all(b"get a\n").await?;
        let mut answer = [0; 4];
        io.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    });
    for _ in 0..10 {
        yield_now().await;
    }
    advance(STOP).await;
    assert_eq!(&client.await.unwrap().unwrap(), b"ok\n\n");
}
