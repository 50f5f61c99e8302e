//! Live points: what viewers get, and what they can cost.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};

use super::duplex::{DuplexServer, rest};
use crate::http::HttpLimits;

/// A viewer's connection.
struct LiveViewer {
    peer: DuplexStream,
    text: String,
}

impl LiveViewer {
    async fn open(server: &DuplexServer, query: &str, header: &str) -> Self {
        let mut peer = server.connect(1024 * 1024);
        let request =
            format!("GET /api/v1/live?{query} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n");
        peer.write_all(request.as_bytes()).await.unwrap();
        let mut viewer = Self { peer, text: String::new() };
        while !viewer.text.contains("\r\n\r\n") {
            viewer.read().await;
        }
        assert!(viewer.text.starts_with("HTTP/1.1 200"), "{}", viewer.text);
        viewer.text = viewer.text.split_once("\r\n\r\n").unwrap().1.into();
        viewer
    }

    async fn read(&mut self) {
        let mut block = [0; 4096];
        let len = self.peer.read(&mut block).await.unwrap();
        assert!(len > 0, "the stream has ended: {}", self.text);
        self.text += &String::from_utf8_lossy(&block[..len]);
    }

    /// Returns the lines of the next event that is no comment.
    async fn next(&mut self) -> Vec<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let lines = event.lines().filter(|line| {
                    ["id:", "event:", "data:"].iter().any(|field| line.starts_with(field))
                });
                let lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
                self.text = rest.to_owned();
                if !lines.is_empty() {
                    return lines;
                }
                continue;
            }
            self.read().await;
        }
    }

    /// Returns the keys and values of the next event.
    async fn rows(&mut self) -> Vec<(String, i64, f64)> {
        let event = self.next().await;
        let data = event.iter().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let mut rows: Vec<(String, i64, f64)> = serde_json::from_str(data).unwrap();
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        rows
    }

    async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_secs(2), self.next()).await.is_err()
    }
}

fn row(key: &str, at: i64, value: f64) -> (String, i64, f64) {
    (key.into(), at, value)
}

#[tokio::test(start_paused = true)]
async fn stream_over_the_limit_is_answered_503() {
    let server = DuplexServer::start(HttpLimits::default().max_live_streams(2)).await;
    let viewers = [
        LiveViewer::open(&server, "key=a", "").await,
        LiveViewer::open(&server, "match=*", "").await,
    ];
    let answer = server.get("/api/v1/live?key=a").await;
    let is_named = answer.contains("limit max_live_streams reached: at most 2")
        && answer.contains("--http-limit max_live_streams=N");
    assert!(answer.starts_with("HTTP/1.1 503 ") && is_named, "{answer}");
    // The other connections are left for requests, and a viewer that leaves makes room.
    assert!(server.get("/healthz").await.contains(" 200 "));
    let [first, _second] = viewers;
    drop(first);
    while server.app.hub.viewers() > 1 {
        tokio::task::yield_now().await;
    }
    LiveViewer::open(&server, "key=a", "").await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_stream_are_limited() {
    let server = DuplexServer::start(HttpLimits::default().max_live_keys(2)).await;
    let answer = server.get("/api/v1/live?key=a&key=b&key=c").await;
    assert!(answer.contains(" 400 ") && answer.contains("max_live_keys=N"), "{answer}");
    let answer = server.get(&format!("/api/v1/live?match={}", "a".repeat(1025))).await;
    assert!(answer.contains(" 400 ") && answer.contains("longer than a key"), "{answer}");

    server.put(&[("a", 1, 1.0)]).await;
    let mut viewer = LiveViewer::open(&server, "match=*", "").await;
    server.put(&[("b", 1, 2.0), ("c", 1, 3.0), ("a", 2, 4.0)]).await;
    assert_eq!(viewer.next().await, ["event: limited", "data: {\"max_live_keys\":2}"]);
    assert_eq!(viewer.rows().await, [row("a", 2, 4.0), row("b", 1, 2.0)]);
}

#[tokio::test(start_paused = true)]
async fn viewers_of_other_keys_are_not_told() {
    let server = DuplexServer::start(HttpLimits::default()).await;
    let mut viewer = LiveViewer::open(&server, "key=a&match=c*", "").await;
    server.put(&[("b", 1, 1.0)]).await;
    assert!(viewer.is_silent().await);
    server.put(&[("c1", 1, 1.0), ("a", 1, 2.0)]).await;
    assert_eq!(viewer.rows().await, [row("a", 1, 2.0), row("c1", 1, 1.0)]);
    // An older point is not the newest.
    server.put(&[("a", 0, 9.0)]).await;
    assert!(viewer.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn batches_that_were_missed_are_read_from_the_store() {
    // A queue of one batch, and no turn for the task that collects.
    let server = DuplexServer::start_with(HttpLimits::default(), 1, |server| server).await;
    let mut viewer = LiveViewer::open(&server, "key=a&match=b*", "").await;
    server.put(&[("a", 1, 1.0)]).await;
    server.put(&[("b1", 1, 2.0)]).await;
    server.put(&[("x", 1, 3.0)]).await;
    assert_eq!(viewer.rows().await, [row("a", 1, 1.0), row("b1", 1, 2.0)]);
}

#[tokio::test(start_paused = true)]
async fn viewer_that_comes_back_gets_what_it_has_missed() {
    let server = DuplexServer::start(HttpLimits::default()).await;
    server.put(&[("a", 1, 1.0), ("b", 1, 2.0)]).await;
    // Without a viewer until now; the number may be that of another process.
    let mut viewer = LiveViewer::open(&server, "key=a&key=b", "last-event-id: 7\r\n").await;
    assert_eq!(viewer.rows().await, [row("a", 1, 1.0), row("b", 1, 2.0)]);
    server.put(&[("a", 2, 3.0)]).await;
    let event = viewer.next().await;
    let id = event.iter().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    server.put(&[("b", 2, 4.0)]).await;
    assert_eq!(viewer.rows().await, [row("b", 2, 4.0)]);
    drop(viewer);
    let header = format!("last-event-id: {id}\r\n");
    let mut viewer = LiveViewer::open(&server, "key=a&key=b", &header).await;
    // And more, if there was no viewer in between.
    assert!(viewer.rows().await.contains(&row("b", 2, 4.0)));
}

#[tokio::test(start_paused = true)]
async fn slow_viewer_gets_the_newest_and_keeps_little() {
    let server = DuplexServer::start(HttpLimits::default().max_live_keys(1_000)).await;
    let keys: Vec<_> = (0..1_000).map(|key| format!("{key:0>1000}")).collect();
    let put = async |value: f64| {
        let points: Vec<_> = keys.iter().map(|key| (key.as_str(), 1, value)).collect();
        server.put(&points).await;
    };
    let mut viewer = LiveViewer::open(&server, "match=*", "").await;
    put(1.0).await;
    // A megabyte of names comes in events of little more than 32 KiB; only the last has a number.
    let (mut rows, mut events) = (0, 0);
    while rows < keys.len() {
        let event = viewer.next().await;
        let data = event.iter().find(|line| line.starts_with("data: ")).unwrap();
        assert!(data.len() < 40_000, "{}", data.len());
        rows += data.matches(",1,1.0]").count();
        events += 1;
        assert_eq!(event.iter().any(|line| line.starts_with("id: ")), rows == keys.len());
    }
    assert!(events > 20, "{events}");
    // What changes while nothing is read is not queued: the newest value comes, once.
    for value in 2..100 {
        put(f64::from(value)).await;
    }
    let mut last = 0;
    while last < keys.len() {
        let event = viewer.next().await.join("\n");
        last += event.matches(",1,99.0]").count();
    }
    assert!(viewer.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_watched_once_all_viewers_are_gone() {
    let server = DuplexServer::start(HttpLimits::default()).await;
    let mut viewer = LiveViewer::open(&server, "match=*", "").await;
    server.put(&[("a", 1, 1.0)]).await;
    assert_eq!(viewer.rows().await, [row("a", 1, 1.0)]);
    drop(viewer);
    while server.app.hub.is_collecting() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.app.hub.watched_keys(), 0);
    let mut viewer = LiveViewer::open(&server, "match=*", "").await;
    server.put(&[("a", 2, 2.0)]).await;
    assert_eq!(viewer.rows().await, [row("a", 2, 2.0)]);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_streams() {
    let server = DuplexServer::start(HttpLimits::default()).await;
    let mut viewer = LiveViewer::open(&server, "match=*", "").await;
    server.app.stopping.cancel();
    assert!(rest(&mut viewer.peer).await.ends_with("0\r\n\r\n"));
}
