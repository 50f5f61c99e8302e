//! Requests and answers of InfluxDB as a conversation with a scripted peer, in paused time.

use std::io::Read;

use flate2::read::GzDecoder;
use metrics_client::{
    Key, Point,
    client::{Connector, connector_fn},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::mpsc,
    time::sleep,
};

use super::*;

/// Where the sink dials: the test gets the peer's side.
struct InfluxPeer {
    dialed: mpsc::UnboundedReceiver<DuplexStream>,
    io: Option<BufReader<DuplexStream>>,
}

fn sink(access: InfluxAccess, gzip: bool) -> (InfluxSink, InfluxPeer) {
    let (sender, dialed) = mpsc::unbounded_channel();
    let connector = connector_fn(move |_| {
        let sender = sender.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            sender.send(theirs).map_err(|_| std::io::Error::other("refused"))?;
            Ok(ours)
        }
    });
    let path = "/write?db=m&precision=s".into();
    let request = RequestHead { path, host: "influx:8086".into(), access, gzip };
    let sink = InfluxSink::new(
        connector.boxed(),
        "influx:8086".parse().unwrap(),
        request,
        Duration::from_secs(30),
    );
    (sink, InfluxPeer { dialed, io: None })
}

fn batch(values: Range<i64>) -> PutBatch {
    let mut puts = PutBatch::new();
    for value in values {
        puts.push(&Key::new("palm.cpu").unwrap(), Point::new(value as f64, value));
    }
    puts
}

impl InfluxPeer {
    /// Reads a request: its head and its lines.
    async fn request(&mut self) -> (String, Vec<String>) {
        if self.io.is_none() {
            self.io = Some(BufReader::new(self.dialed.recv().await.unwrap()));
        }
        let io = self.io.as_mut().unwrap();
        let (mut head, mut len) = (String::new(), 0);
        loop {
            let mut line = String::new();
            io.read_line(&mut line).await.unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; len];
        io.read_exact(&mut body).await.unwrap();
        let mut text = String::new();
        if head.contains("content-encoding: gzip") {
            GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(body).unwrap();
        }
        (head, text.lines().map(str::to_owned).collect())
    }

    async fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let len = body.len();
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n{headers}\r\n{body}");
        self.io.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    async fn accept(&mut self) {
        self.answer("204 No Content", "", "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn lines_are_written_with_gzip_and_token() {
    let (mut sink, mut peer) = sink(InfluxAccess::Token("s3cret".into()), true);
    let serving = async {
        let (head, lines) = peer.request().await;
        assert!(head.starts_with("POST /write?db=m&precision=s HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: influx:8086\r\n"), "{head}");
        assert!(head.contains("authorization: Token s3cret\r\n"), "{head}");
        assert_eq!(lines, ["palm.cpu value=1.0 1", "palm.cpu value=2.0 2"]);
        peer.accept().await;
    };
    let puts = batch(1..3);
    let (sent, ()) = tokio::join!(sink.send(&puts), serving);
    assert_eq!((sent.settled, sent.rejected), (2, 0));
    assert!(!format!("{sink:?}").contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn user_and_password_are_sent() {
    let access = InfluxAccess::User { name: "u".into(), password: "p:w".into() };
    let (mut sink, mut peer) = sink(access, false);
    let puts = batch(0..1);
    let serving = async {
        let (head, _) = peer.request().await;
        assert!(head.contains("authorization: Basic dTpwOnc=\r\n"), "{head}");
        peer.accept().await;
    };
    tokio::join!(sink.send(&puts), serving);
}

#[tokio::test(start_paused = true)]
async fn bad_lines_are_found_by_halves() {
    let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
    let puts = batch(0..64);
    let serving = async {
        let mut stored = Vec::new();
        loop {
            let (_, lines) = peer.request().await;
            if lines.iter().any(|line| line.ends_with(" 7") || line.ends_with(" 40")) {
                peer.answer("400 Bad Request", "", r#"{"error":"no"}"#).await;
            } else {
                stored.extend(lines);
                peer.accept().await;
            }
            if stored.len() == 62 {
                return stored;
            }
        }
    };
    let (sent, stored) = tokio::join!(sink.send(&puts), serving);
    assert_eq!((sent.settled, sent.rejected), (64, 2));
    assert!(sent.rejection.is_some_and(|reason| reason.starts_with("400 Bad Request")));
    // In order all the same.
    let seconds: Vec<i64> =
        stored.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(seconds.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_too_large_are_split() {
    let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
    let puts = batch(0..100);
    let serving = async {
        let mut lens = Vec::new();
        while lens.iter().filter(|&&len| len <= 30).sum::<usize>() < 200 {
            let (_, lines) = peer.request().await;
            lens.push(lines.len());
            match lines.len() > 30 {
                true => peer.answer("413 Request Entity Too Large", "", "").await,
                false => peer.accept().await,
            }
        }
        lens
    };
    let twice = async { [sink.send(&puts).await.settled, sink.send(&puts).await.settled] };
    let (settled, lens) = tokio::join!(twice, serving);
    assert_eq!(settled, [100, 100]);
    // The second time it is known.
    assert_eq!(lens, [100, 50, 25, 25, 25, 25, 25, 25, 25, 25]);
}

#[tokio::test(start_paused = true)]
async fn overload_leaves_the_rest_to_be_sent_again() {
    let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
    sink.max_lines = 10;
    let mut puts = batch(0..15);
    puts.push(&Key::new("#no").unwrap(), Point::new(1.0, 1));
    puts.append(&batch(15..40));
    let serving = async {
        peer.request().await;
        peer.accept().await;
        peer.request().await;
        peer.accept().await;
        peer.request().await;
        peer.answer("503 Service Unavailable", "retry-after: 9\r\n", "").await;
    };
    let (sent, ()) = tokio::join!(sink.send(&puts), serving);
    // The one that cannot be written is before the second request's end.
    assert_eq!((sent.settled, sent.unrepresentable, sent.rejected), (21, 1, 0));
    assert_eq!(sent.failure.unwrap().retry_after, Some(Duration::from_secs(9)));
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_left_after_the_timeout() {
    let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
    let puts = batch(0..1);
    let serving = async {
        peer.request().await;
        // Its connection is closed, and a new one is made for the next request.
        let mut rest = Vec::new();
        peer.io.take().unwrap().read_to_end(&mut rest).await.unwrap();
    };
    let (sent, ()) = tokio::join!(sink.send(&puts), serving);
    assert!(sent.settled == 0 && sent.failure.unwrap().message.contains("no answer within 30s"));
    let serving = async {
        peer.request().await;
        peer.accept().await;
    };
    let (sent, ()) = tokio::join!(sink.send(&puts), serving);
    assert_eq!(sent.settled, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_that_was_closed_is_replaced() {
    let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
    let puts = batch(0..1);
    for _ in 0..3 {
        let serving = async {
            peer.request().await;
            peer.accept().await;
        };
        let (sent, ()) = tokio::join!(sink.send(&puts), serving);
        assert_eq!(sent.settled, 1);
        peer.io = None;
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn broken_answer_is_a_failure() {
    for answer in ["HTTP/1.1 204", "no http at all\r\n\r\n", ""] {
        let (mut sink, mut peer) = sink(InfluxAccess::Nothing, false);
        let puts = batch(0..1);
        let serving = async {
            peer.request().await;
            let mut io = peer.io.take().unwrap();
            io.write_all(answer.as_bytes()).await.unwrap();
        };
        let (sent, ()) = tokio::join!(sink.send(&puts), serving);
        assert!(sent.settled == 0 && sent.failure.is_some(), "{answer}");
    }
}
