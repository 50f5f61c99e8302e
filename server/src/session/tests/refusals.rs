//! Invalid requests, and their log messages and counters.

use std::{pin::Pin, task::Context};

use tokio::io::ReadBuf;

use super::*;
use crate::stats::StatsHandle;

fn talk(limits: Limits) -> (Talk, StatsHandle) {
    let counters = Arc::<ServerCounters>::default();
    let shared = Arc::new(SessionShared::new(MemoryStore::new(), limits, Arc::clone(&counters)));
    (Talk::among(&shared, 64 * 1024), StatsHandle(counters))
}

// FAULTS S8
#[tokio::test(start_paused = true)]
async fn http_or_tls_ends_the_connection() {
    let logged = Logged::start();
    for first in [
        "POST / HTTP/1.1\r\n",
        "get /metrics HTTP/1.0\n",
        "put a 1 HTTP/1.1\r\n",
        "\r\nOPTIONS * HTTP/1.1 \r\n",
        "PRI * HTTP/2.0\r\n",
        // The beginning of a TLS handshake, of which a web page can choose some bytes too.
        "\u{16}\u{3}\u{1}\n",
    ] {
        let (mut talk, monitor) = talk(Limits::default());
        talk.send(first).await;
        talk.send("Host: localhost:8888\r\n\r\nput a 1 1\nget a\n").await;
        assert_eq!(talk.rest().await, "error\nwrong command\n\n", "{first:?}");
        let stats = monitor.stats();
        assert_eq!((stats.invalid_requests, stats.puts, stats.gets), (1, 0, 0), "{first:?}");
    }
    assert_eq!(logged.with("peer speaks HTTP or TLS").len(), 5);
    // After a first line of this protocol, HTTP is only an invalid request.
    let (mut talk, _) = talk(Limits::default());
    talk.send("put a 1 1\nGET / HTTP/1.1\nget a\n").await;
    talk.expect("ok\n\nerror\nwrong command\n\nok\na 1.0 1\n\n").await;
    drop(talk);
    let (mut talk, _) = self::talk(Limits::default());
    talk.send("hello\nGET / HTTP/1.1\nget a\n").await;
    talk.expect("error\nwrong command\n\nerror\nwrong command\n\nok\n\n").await;
}

// FAULTS S14
#[tokio::test(start_paused = true)]
async fn invalid_requests_are_counted_and_rate_limited() {
    let logged = Logged::start();
    let (mut talk, monitor) = talk(Limits::default());
    for at in 0..100 {
        talk.send(&format!("got {at}\n")).await;
        talk.expect("error\nwrong command\n\n").await;
    }
    assert_eq!(monitor.stats().invalid_requests, 100);
    let lines = logged.with("invalid request");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[0].contains("INFO") && lines[0].contains("got 0"), "{lines:#?}");
}

// FAULTS S14
#[tokio::test(start_paused = true)]
async fn incomplete_last_line_is_counted_and_logged() {
    let logged = Logged::start();
    let (mut talk, monitor) = talk(Limits::default());
    // The last number may be incomplete.
    talk.send("put a 1 1\nput a 2 115").await;
    talk.peer.shutdown().await.unwrap();
    assert_eq!(talk.rest().await, "ok\n\n");
    let stats = monitor.stats();
    assert_eq!((stats.puts, stats.invalid_requests, stats.incomplete_lines), (1, 0, 1));
    let lines = logged.with("line without a line break dropped");
    assert!(matches!(&lines[..], [line] if line.contains("put a 2 115")), "{lines:#?}");

    let (mut talk, monitor) = self::talk(Limits::default());
    talk.send("put a 1 1\n \r").await;
    talk.peer.shutdown().await.unwrap();
    assert_eq!((talk.rest().await, monitor.stats().incomplete_lines), ("ok\n\n".into(), 0));
}

// FAULTS S14
#[tokio::test(start_paused = true)]
async fn blank_lines_do_not_reset_the_idle_timeout() {
    let mut talk = Talk::new();
    talk.send("get a\n").await;
    talk.expect("ok\n\n").await;
    let begin = Instant::now();
    while begin.elapsed() < 1200 * SECOND && talk.peer.write_all(b"\n").await.is_ok() {
        sleep(10 * SECOND).await;
    }
    assert_eq!(begin.elapsed().as_secs() / 10, 61);
    talk.session.await.unwrap();
}

/// Sends the same byte without a pause.
struct Endless {
    byte: u8,
    /// How many there were.
    sent: Arc<Mutex<usize>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        buffer.initialize_unfilled().fill(self.byte);
        buffer.advance(room);
        *self.sent.lock().unwrap() += room;
        Poll::Ready(Ok(()))
    }
}

/// Runs a session with a peer that sends `byte` without end and reads every answer. Returns how many
/// bytes it has sent too.
fn endless(byte: u8) -> (JoinHandle<()>, Arc<Mutex<usize>>, CancellationToken) {
    let sent = Arc::<Mutex<usize>>::default();
    let io = tokio::io::join(Endless { byte, sent: Arc::clone(&sent) }, tokio::io::sink());
    let stop = CancellationToken::new();
    let shared =
        Arc::new(SessionShared::new(MemoryStore::new(), Limits::default(), Arc::default()));
    (tokio::spawn(run(io, None, shared, Usage::default(), stop.clone())), sent, stop)
}

// FAULTS S12
#[tokio::test(start_paused = true)]
async fn endless_line_is_bounded_in_bytes_and_logged() {
    let logged = Logged::start();
    // This peer always has input, so paused time does not advance.
    let (session, sent, _stop) = endless(b'x');
    session.await.unwrap();
    let sent = *sent.lock().unwrap();
    assert!((100_000_000..150_000_000).contains(&sent), "{sent}");
    let lines = logged.with("closing connection");
    assert!(matches!(&lines[..], [line] if line.contains("too long")), "{lines:#?}");
}

// FAULTS S14
#[tokio::test(start_paused = true)]
async fn endless_blank_lines_are_idle() {
    let (session, _sent, _stop) = endless(b'\n');
    for (time, is_evicted) in [(0, false), (599, false), (2, false), (1, true)] {
        tokio::time::advance(time * SECOND).await;
        for _ in 0..8 {
            yield_now().await;
        }
        assert_eq!(session.is_finished(), is_evicted, "{time}");
    }
}

// FAULTS S13
#[tokio::test(start_paused = true)]
async fn long_line_is_copied_a_few_times_at_most() {
    const LEN: usize = 8 << 20;
    let limits = Limits::default().max_line_bytes(64 << 20);
    let line = format!("put a 1 {}1\n", "0".repeat(LEN));
    // In pieces that each fill a read, and in some that do not.
    for pipe in [256 * 1024, 5_000] {
        let counters = Arc::<ServerCounters>::default();
        let shared = Arc::new(SessionShared::new(MemoryStore::new(), limits, counters));
        crate::session::transport::effort::COPIED.set(0);
        let mut talk = Talk::among(&shared, pipe);
        talk.send(&line).await;
        talk.send("put a 1 1\n").await;
        talk.expect("ok\n\nok\n\n").await;
        let copied = crate::session::transport::effort::COPIED.get();
        assert!(copied < 5 * LEN, "{} times", copied / LEN);
    }
}

// FAULTS S14
#[cfg(feature = "tls")]
#[tokio::test(start_paused = true)]
async fn failed_handshakes_are_counted_and_logged() {
    let logged = Logged::start();
    let own = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let acceptor = TlsAcceptor::new(own.cert.pem(), own.signing_key.serialize_pem()).unwrap();
    let counters = Arc::<ServerCounters>::default();
    let shared = SessionShared::new(MemoryStore::new(), Limits::default(), Arc::clone(&counters));
    let shared = Arc::new(shared.tls(Some(acceptor)));
    let stop = CancellationToken::new();
    // One that does not speak TLS, and one that says nothing.
    for hello in ["put a 1 1\n", ""] {
        let (mut peer, io) = duplex(1024);
        peer.write_all(hello.as_bytes()).await.unwrap();
        let address = ([127, 0, 0, 1], 1).into();
        serve_accepted(io, address, Arc::clone(&shared), Usage::default(), stop.clone()).await;
    }
    assert_eq!(StatsHandle(counters).stats().failed_handshakes, 2);
    let lines = logged.with("TLS handshake failed");
    assert!(
        matches!(&lines[..], [first, second] if first.contains("corrupt message")
            && second.contains("handshake timeout")),
        "{lines:#?}"
    );
}
