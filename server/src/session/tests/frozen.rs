//! A process that was suspended for longer than its timeouts while its peers went on.
//!
//! When it resumes, its timers run before it has polled its sockets.

// FAULTS S1

use std::{pin::Pin, task::Context};

use tokio::{
    io::ReadBuf,
    time::{Sleep, advance, sleep_until},
};

use super::*;

/// A socket that the runtime polls only some time after the process has resumed.
struct DelayedIo {
    io: DuplexStream,
    seen: Pin<Box<Sleep>>,
    /// When the socket is polled again.
    until: Arc<Mutex<Instant>>,
}

impl DelayedIo {
    fn poll_seen(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.until.lock().unwrap();
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        self.seen.as_mut().reset(until);
        self.seen.as_mut().poll(cx)
    }
}

impl AsyncRead for DelayedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_seen(cx));
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for DelayedIo {
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

/// How long the process is suspended: longer than the line timeout and the write timeout.
const PAUSE: Duration = Duration::from_secs(100);

/// A session in a process that can be suspended.
struct Suspended {
    talk: Talk,
    until: Arc<Mutex<Instant>>,
}

impl Suspended {
    fn new(shared: SessionShared<MemoryStore>) -> Self {
        let (peer, io) = duplex(1024);
        let until = Arc::new(Mutex::new(Instant::now()));
        let seen = Box::pin(sleep_until(Instant::now()));
        let io = DelayedIo { io, seen, until: Arc::clone(&until) };
        let stop = CancellationToken::new();
        let address = ([127, 0, 0, 1], 1).into();
        let session = serve_accepted(io, address, Arc::new(shared), Usage::default(), stop.clone());
        Self { talk: Talk { peer, stop, session: tokio::spawn(session) }, until }
    }

    fn with(store: MemoryStore) -> Self {
        Self::new(SessionShared::new(store, Limits::default(), Arc::default()))
    }

    /// What is written to the socket from now on is seen after `time` only.
    fn suspend(&self, time: Duration) {
        *self.until.lock().unwrap() = Instant::now() + time + Duration::from_millis(1);
    }
}

#[tokio::test(start_paused = true)]
async fn line_received_while_suspended_is_answered() {
    let mut suspended = Suspended::with(MemoryStore::new());
    suspended.talk.send("put a 1 1").await;
    sleep(SECOND).await;
    suspended.suspend(PAUSE);
    suspended.talk.send("\nget a\n").await;
    advance(PAUSE).await;
    suspended.talk.expect("ok\n\nok\na 1.0 1\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn request_received_while_suspended_is_answered() {
    let mut suspended = Suspended::with(MemoryStore::new());
    suspended.talk.send("get a\n").await;
    suspended.talk.expect("ok\n\n").await;
    suspended.suspend(10 * PAUSE);
    suspended.talk.send("get a\n").await;
    advance(10 * PAUSE).await;
    suspended.talk.expect("ok\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn answer_read_while_suspended_is_continued() {
    let mut suspended = Suspended::with(store_of(1000).await);
    suspended.talk.send("get *\n").await;
    sleep(SECOND).await;
    suspended.suspend(PAUSE);
    let mut answer = vec![0; 1024];
    suspended.talk.peer.read_exact(&mut answer).await.unwrap();
    advance(PAUSE).await;
    while !answer.ends_with(b"\n\n") {
        assert_ne!(
            suspended.talk.peer.read_buf(&mut answer).await.unwrap(),
            0,
            "the answer is truncated"
        );
    }
    suspended.talk.send("get none\n").await;
    suspended.talk.expect("ok\n\n").await;
}

#[tokio::test(start_paused = true)]
async fn peer_silent_while_suspended_is_disconnected() {
    for request in ["put a 1 1", "", "get *\n"] {
        let mut suspended = Suspended::with(store_of(1000).await);
        suspended.talk.send(request).await;
        sleep(SECOND).await;
        suspended.suspend(10 * PAUSE);
        advance(10 * PAUSE).await;
        let begin = Instant::now();
        (&mut suspended.talk.session).await.unwrap();
        assert!(begin.elapsed() < SECOND, "{request:?}: {:?}", begin.elapsed());
    }
}

/// What a peer sends while the process is suspended is seen when it resumes; the rest of the handshake
/// takes longer than one poll.
#[cfg(feature = "tls")]
#[tokio::test(start_paused = true)]
async fn handshake_begun_before_suspension_succeeds() {
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

    let shared = SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default());
    let Suspended { talk: Talk { peer, stop: _stop, session: _ }, until } =
        Suspended::new(shared.tls(Some(acceptor)));
    *until.lock().unwrap() = Instant::now() + PAUSE + Duration::from_millis(1);
    let name = ServerName::try_from("localhost").unwrap();
    let client = tokio::spawn(async move {
        let mut io = connector.connect(name, peer).await?;
        // The end of the handshake is late, but within the timeout.
        sleep(20 * SECOND).await;
        io.write_all(b"get a\n").await?;
        let mut answer = [0; 4];
        io.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    });
    for _ in 0..10 {
        yield_now().await;
    }
    advance(PAUSE).await;
    assert_eq!(&client.await.unwrap().unwrap(), b"ok\n\n");
}
