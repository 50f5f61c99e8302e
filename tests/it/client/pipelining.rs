//! Pipelining: the probe, coalesced writes, and the number of requests in flight.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use metrics_client::{MetricsClient, client::Pipelining};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    join,
};

use crate::peer::{MockNetwork, Peer};

#[tokio::test(start_paused = true)]
async fn reading_never_waits_for_writing() {
    // Neither end can write more than 64 bytes before the other reads.
    let (mut network, builder) = MockNetwork::with_buffer(64);
    let client = builder.pipelining(Pipelining::On).connect().await.unwrap();
    let mut peer = network.accept().await;

    let records = (0..100).map(|i| format!("a 1.0 {i}\n")).collect::<String>();
    let server = async {
        peer.expect("get a\n").await;
        // The peer does not read on until it has written all of this, while the client has
        // more to write than fits.
        peer.send(&format!("ok\n{records}\n")).await;
        for i in 0..100 {
            peer.answer(&format!("put b 1.0 {i}\n"), "ok\n\n").await;
        }
    };
    let puts = async {
        let puts = (0..100).map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.put_at("b", 1.0, i).await })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.unwrap().unwrap();
        }
    };
    let (metrics, (), ()) = join!(client.get("a"), puts, server);
    assert_eq!(metrics.unwrap().point_count(), 100);
}

/// The two segments of a probe, as the peer reads them.
async fn expect_probe(peer: &mut Peer) {
    let first = peer.read_some().await;
    assert!(first.starts_with("get pipelining-probe.") && first.ends_with("\nget"), "{first:?}");
    let second = peer.read_some().await;
    assert!(second.starts_with(" pipelining-probe.") && second.ends_with(".3\n"), "{second:?}");
}

/// Three puts at once on a fresh connection, before the server has been asked and while it is; says
/// what the peer sees.
async fn widen(answers: &str) -> String {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        // One at a time until the probe has its answer, and nothing waits for the probe.
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer.expect("put b 1.0 1\n").await;
        let mut beside = network.accept().await;
        expect_probe(&mut beside).await;
        peer.expect_silence(Duration::from_secs(1)).await;
        beside.send(answers).await;
        beside.expect_end().await;
        let seen = tokio::time::timeout(Duration::from_secs(1), peer.read_some()).await;
        peer.send("ok\n\n").await;
        let seen = match seen {
            Ok(seen) => seen,
            Err(_) => {
                peer.expect("put c 1.0 1\n").await;
                String::new()
            }
        };
        peer.send("ok\n\n").await;
        seen
    };
    let (a, b, c, seen) = join!(
        client.put_at("a", 1.0, 1),
        client.put_at("b", 1.0, 1),
        client.put_at("c", 1.0, 1),
        server
    );
    for put in [a, b, c] {
        put.unwrap();
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn pipelining_begins_once_the_probe_succeeds() {
    assert_eq!(widen("ok\n\nok\n\nok\n\n").await, "put c 1.0 1\n");
}

#[tokio::test(start_paused = true)]
async fn requests_go_one_at_a_time_if_the_probe_fails() {
    assert_eq!(widen("ok\n\n").await, "");
}

#[tokio::test(start_paused = true)]
async fn probe_is_not_sent_for_sequential_requests() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    for i in 0..10 {
        let request = format!("put a 1.0 {i}\n");
        let (put, ()) = join!(client.put_at("a", 1.0, i), peer.answer(&request, "ok\n\n"));
        put.unwrap();
    }
    network.expect_no_dial(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn pipelining_is_disabled_after_a_pipelined_stall() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let puts = async {
        let (a, b, c, d) = join!(
            client.put_at("a", 1.0, 1),
            client.put_at("b", 1.0, 1),
            client.put_at("c", 1.0, 1),
            client.put_at("d", 1.0, 1),
        );
        a.unwrap();
        b.unwrap_err();
        c.unwrap_err();
        d.unwrap_err();
    };
    let server = async {
        peer.answer("put a 1.0 1\n", "ok\n\n").await;
        peer.expect("put b 1.0 1\n").await;
        let mut beside = network.accept().await;
        expect_probe(&mut beside).await;
        beside.send("ok\n\nok\n\nok\n\n").await;
        peer.expect("put c 1.0 1\nput d 1.0 1\n").await;
        // And then never a word.
        peer.expect_end().await;
        let puts = async {
            let (e, f) = join!(client.put_at("e", 1.0, 1), client.put_at("f", 1.0, 1));
            e.unwrap();
            f.unwrap();
        };
        let server = async {
            let mut next = network.accept().await;
            next.expect("put e 1.0 1\n").await;
            next.expect_silence(Duration::from_secs(3)).await;
            next.send("ok\n\n").await;
            next.answer("put f 1.0 1\n", "ok\n\n").await;
            next
        };
        let ((), _next) = join!(puts, server);
        network.expect_no_dial(Duration::from_secs(60)).await;
    };
    join!(puts, server);
}

/// Two puts of which one has to wait for the other.
async fn two_puts(client: &MetricsClient) {
    let (a, b) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1));
    a.unwrap();
    b.unwrap();
}

// FAULTS C3
#[tokio::test(start_paused = true)]
async fn distrust_after_a_stall_backs_off() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    for minutes in [0, 1, 2, 4] {
        if minutes > 0 {
            let server = async {
                peer = network.accept().await;
                peer.answer("put a 1.0 1\n", "ok\n\n").await;
                peer.answer("put b 1.0 1\n", "ok\n\n").await;
                // Most of the time, as the stall was some seconds ago.
                network.expect_no_dial(Duration::from_secs(50 * minutes)).await;
                peer.answer("put a 1.0 1\n", "ok\n\n").await;
                peer.answer("put b 1.0 1\n", "ok\n\n").await;
                network.expect_no_dial(Duration::from_secs(10 * minutes)).await;
            };
            let puts = async {
                two_puts(&client).await;
                tokio::time::sleep(Duration::from_secs(50 * minutes)).await;
                two_puts(&client).await;
            };
            join!(puts, server);
        }
        let server = async {
            peer.expect("put a 1.0 1\n").await;
            let mut beside = network.accept().await;
            expect_probe(&mut beside).await;
            beside.send("ok\n\nok\n\nok\n\n").await;
            peer.expect("put b 1.0 1\n").await;
            peer.send("ok\n\nok\n\n").await;
        };
        join!(two_puts(&client), server);
        let (a, b) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1));
        a.unwrap_err();
        b.unwrap_err();
        peer.expect("put a 1.0 1\nput b 1.0 1\n").await;
        peer.expect_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn given_stream_is_not_pipelined() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let client = MetricsClient::from_io(ours);
    let mut peer = Peer::on(theirs);
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        peer.expect_silence(Duration::from_secs(1)).await;
        peer.send("ok\n\n").await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), server);
    a.unwrap();
    b.unwrap();
}

/// A stream that notes what each write was given.
struct RecordingIo {
    io: DuplexStream,
    writes: Arc<Mutex<Vec<String>>>,
}

impl AsyncWrite for RecordingIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl AsyncRead for RecordingIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_coalesced_into_one_write() {
    let (io, theirs) = tokio::io::duplex(64 * 1024);
    let writes = Arc::new(Mutex::new(Vec::new()));
    let noting = RecordingIo { io, writes: Arc::clone(&writes) };
    let client = MetricsClient::builder("noting").pipelining(Pipelining::On).with_io(noting);
    let mut peer = Peer::on(theirs);
    let long = "k".repeat(1024);
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at(&long, 2.0, 2), async {
        peer.expect(&format!("put a 1.0 1\nput {long} 2.0 2\n")).await;
        peer.send("ok\n\nok\n\n").await;
    });
    a.unwrap();
    b.unwrap();
    assert_eq!(*writes.lock().unwrap(), [format!("put a 1.0 1\nput {long} 2.0 2\n")]);
}

#[tokio::test(start_paused = true)]
async fn probe_is_sent_when_a_second_request_waits() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.put_at("b", 1.0, 1).await
    };
    let server = async {
        peer.expect("get slow\n").await;
        // Not only when the slow answer has come.
        expect_probe(&mut network.accept().await).await;
        peer.send("ok\n\n").await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (slow, late, ()) = join!(client.get("slow"), late, server);
    slow.unwrap();
    late.unwrap();
}

#[tokio::test(start_paused = true)]
async fn probe_runs_again_after_a_stall_of_one() {
    let (mut network, builder) = MockNetwork::new();
    let client = builder.connect().await.unwrap();
    let mut peer = network.accept().await;
    let server = async {
        peer.expect("put a 1.0 1\n").await;
        let mut beside = network.accept().await;
        expect_probe(&mut beside).await;
        beside.send("ok\n\nok\n\nok\n\n").await;
        peer.send("ok\n\n").await;
        peer.answer("put b 1.0 1\n", "ok\n\n").await;
    };
    let (a, b, ()) = join!(client.put_at("a", 1.0, 1), client.put_at("b", 1.0, 1), server);
    a.unwrap();
    b.unwrap();
    client.put_at("c", 1.0, 1).await.unwrap_err();
    peer.expect("put c 1.0 1\n").await;
    peer.expect_end().await;
    let server = async {
        let mut peer = network.accept().await;
        peer.expect("put d 1.0 1\n").await;
        expect_probe(&mut network.accept().await).await;
        peer.send("ok\n\n").await;
        peer.answer("put e 1.0 1\n", "ok\n\n").await;
    };
    let (d, e, ()) = join!(client.put_at("d", 1.0, 1), client.put_at("e", 1.0, 1), server);
    d.unwrap();
    e.unwrap();
}

/// A waker of an executor whose tasks own what they run: dropping it can run anything.
struct Dropping(MetricsClient);

impl std::task::Wake for Dropping {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Dropping {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn waker_drop_may_call_the_client() {
    let (done, is_done) = std::sync::mpsc::channel();
    // On a thread of its own: a deadlock must fail the test, not hold it.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (ours, _theirs) = tokio::io::duplex(64);
        let client = MetricsClient::from_io(ours);
        let mut put = Box::pin(client.put_at("a", 1.0, 1));
        let dropping = std::task::Waker::from(Arc::new(Dropping(client.clone())));
        assert!(put.as_mut().poll(&mut Context::from_waker(&dropping)).is_pending());
        drop(dropping);
        // Replaces the waker, and would wait for its own lock if it were dropped under it.
        let other = std::task::Waker::noop();
        assert!(put.as_mut().poll(&mut Context::from_waker(other)).is_pending());
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("the client waits for itself");
}
