//! Hostile requests: each has an answer with a reason, or ends, within a limit.

use std::{io::Write as _, sync::atomic::Ordering, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, timeout},
};

use super::duplex::{DuplexServer, rest};
use crate::{graphite::RenderLimits, http::HttpLimits};

async fn start(limits: HttpLimits, render_limits: RenderLimits) -> DuplexServer {
    DuplexServer::start_with(limits, 64, |server| server.graphite(render_limits)).await
}

async fn start_default() -> DuplexServer {
    start(HttpLimits::default(), RenderLimits::default()).await
}

/// Asserts the status of an answer, and that it names a limit with what raises it.
fn assert_limit(answer: &str, status: &str, limit: &str) {
    let raised = format!("--http-limit {limit}=N");
    let is_good = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&raised);
    assert!(is_good, "{limit}: {}", answer.chars().take(600).collect::<String>());
}

#[tokio::test(start_paused = true)]
async fn slow_head_ends_the_connection() {
    let server = start_default().await;
    let mut peer = server.connect(1024);
    let begin = Instant::now();
    for byte in b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ".iter().cycle() {
        if peer.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    // The time is that of the whole head, however many bytes come.
    assert!(begin.elapsed() <= Duration::from_secs(62), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn slow_body_is_answered_408() {
    let server = start_default().await;
    let mut peer = server.connect(1024);
    let head = b"POST /write?db=x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    peer.write_all(head).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(peer);
    let writing = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let begin = Instant::now();
    let mut answer = vec![0; 4096];
    let len = reader.read(&mut answer).await.unwrap();
    assert_limit(&String::from_utf8_lossy(&answer[..len]), "408", "body_timeout");
    assert_eq!(begin.elapsed().as_secs(), 30);
    writing.abort();
}

#[tokio::test(start_paused = true)]
async fn cut_off_requests_leave_nothing() {
    let server = start_default().await;
    let request =
        b"POST /write?db=x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\na value=1";
    for len in 0..request.len() - 1 {
        let mut peer = server.connect(1024);
        peer.write_all(&request[..len]).await.unwrap();
        peer.shutdown().await.unwrap();
        let answer = timeout(Duration::from_secs(1), rest(&mut peer)).await.unwrap();
        assert!(!answer.contains(" 204 "), "{len}: {answer}");
    }
    assert!(server.get("/api/v1/keys").await.contains("\"total\":0"));
    assert_eq!(server.app.body_budget.available_permits(), server.app.limits.total_body_bytes());
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let server = start_default().await;
    let mut peer = server.connect(1024);
    let (paths, mut requests) = (["/healthz", "/nope", "/version"], String::new());
    for index in 0..999 {
        let close = if index == 998 { "connection: close\r\n" } else { "" };
        let path = paths[index % 3];
        requests += &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{close}\r\n");
    }
    let (mut reader, mut writer) = tokio::io::split(peer_of(&mut peer));
    let (_, answers) = tokio::join!(writer.write_all(requests.as_bytes()), async {
        let mut answers = String::new();
        reader.read_to_string(&mut answers).await.unwrap();
        answers
    });
    let statuses = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]);
    let expected = ["200", "404", "200"].into_iter().cycle().take(999);
    assert!(statuses.eq(expected));
}

/// Takes the stream out of a variable.
fn peer_of(peer: &mut DuplexStream) -> DuplexStream {
    std::mem::replace(peer, tokio::io::duplex(1).0)
}

#[tokio::test(start_paused = true)]
async fn peer_that_pipelines_and_reads_nothing_is_cut_off() {
    let server = start_default().await;
    let mut peer = server.connect(1024);
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (begin, mut requests) = (Instant::now(), 0);
    while peer.write_all(request).await.is_ok() {
        requests += 1;
    }
    assert!(begin.elapsed() <= Duration::from_secs(31), "{:?}", begin.elapsed());
    // Requests are not read while answers are not.
    assert!(requests < 5_000, "{requests}");
}

#[tokio::test(start_paused = true)]
async fn huge_heads_are_answered_431() {
    let server = start_default().await;
    for headers in [format!("x: {}\r\n", "a".repeat(100_000)), "x: y\r\n".repeat(200)] {
        let mut peer = server.connect(1024);
        let request = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        let (mut reader, mut writer) = tokio::io::split(peer_of(&mut peer));
        let (_, answer) = tokio::join!(writer.write_all(request.as_bytes()), async {
            let mut answer = Vec::new();
            let _ = reader.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        });
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn gzip_bombs_are_answered_413() {
    let limits = HttpLimits::default().max_body_bytes(1_000_000);
    let server = start(limits, RenderLimits::default()).await;
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b'a'; 4_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 6_000);
    for path in ["/write?db=x", "/api/v2/write?bucket=x", "/render"] {
        let answer = server.post(path, "content-encoding: gzip\r\n", &bomb).await;
        assert_limit(&answer, "413", "max_body_bytes");
    }
    assert_eq!(server.app.body_budget.available_permits(), server.app.limits.total_body_bytes());
}

#[tokio::test(start_paused = true)]
async fn bodies_of_all_requests_share_a_budget() {
    let limits = HttpLimits::default().max_body_bytes(100_000).max_total_body_bytes(100_000);
    let server = start(limits, RenderLimits::default()).await;
    let mut slow = server.connect(256 * 1024);
    let head = "POST /write?db=x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999\r\n\r\n";
    slow.write_all(&[head.as_bytes(), &[b'a'; 60_000]].concat()).await.unwrap();
    while server.app.body_budget.available_permits() > 40_000 {
        tokio::task::yield_now().await;
    }
    let answer = server.post("/write?db=x", "", &[b'a'; 50_000]).await;
    assert_limit(&answer, "503", "max_total_body_bytes");
    drop(slow);
    while server.app.body_budget.available_permits() < 100_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn huge_targets_are_answered_400() {
    let server = start_default().await;
    let points: Vec<_> = (0..100).map(|at| ("palm.cpu", 1_150_864_200 + at, 1.0)).collect();
    server.put(&points).await;
    let range = "from=1119328200&until=1150864300&now=1150864300";
    let nested = |depth| format!("{}palm.cpu{}", "absolute(".repeat(depth), ")".repeat(depth));
    for (target, limit) in [
        (nested(33), "render_max_depth"),
        (nested(1_000), "render_max_depth"),
        (format!("sumSeries({})", "palm.cpu,".repeat(2_000)), "render_max_target_bytes"),
        // A year before each second of a year, and the year before that.
        ("movingAverage(palm.*,'1y')".into(), "render_max_points"),
        ("movingMedian(palm.*,'1y')".into(), "render_max_points"),
        ("summarize(movingAverage(*.*,'1y'),'1s')".into(), "render_max_points"),
    ] {
        let answer =
            server.post("/render", "", format!("target={target}&{range}").as_bytes()).await;
        assert_limit(&answer, "400", limit);
    }
    let targets = "target=palm.cpu&".repeat(1_001);
    let answer = server.post("/render", "", targets.as_bytes()).await;
    assert_limit(&answer, "400", "render_max_targets");
}

#[tokio::test]
async fn points_of_all_renderings_are_limited() {
    let limits = RenderLimits::default().max_total_points(10_000);
    let server = start(HttpLimits::default(), limits).await;
    let points: Vec<_> = (0..4_000).map(|at| ("palm.cpu", 1_150_864_200 + at, 1.5)).collect();
    server.put(&points).await;
    let path = "/render?target=palm.cpu&from=1150864199&until=1150868200&now=1150868200";
    // The first answer is not read, and holds its points.
    let mut unread = server.connect(1024);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    unread.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(unread.read_u8().await.unwrap(), b'H');
    assert_limit(&server.get(path).await, "503", "render_max_total_points");
    assert!(rest(&mut unread).await.ends_with("]}]\r\n0\r\n\r\n"));
    let answer = server.get(path).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// With short times instead of paused ones, since some of it waits on other threads.
#[tokio::test]
async fn store_that_hangs_is_answered_503() {
    let limits = HttpLimits::default().store_timeout(Duration::from_millis(20));
    let render_limits = RenderLimits::default().timeout(Duration::from_millis(20));
    let server = start(limits, render_limits).await;
    server.put(&[("palm.cpu", 1, 1.0), ("load;host=palm", 1, 1.0)]).await;
    server.store().hangs.store(true, Ordering::Relaxed);
    for path in [
        "/api/v1/keys",
        "/api/v1/keys?last=true",
        "/api/v1/points?key=palm.cpu",
        "/api/v1/points?match=palm.*",
        "/api/v1/live?match=palm.*",
        "/render?target=palm.cpu",
        "/render?target=palm.*",
        "/render?target=seriesByTag('host=palm')",
        "/metrics/find?query=*",
        "/metrics/find?query=pa&format=completer",
        "/metrics/expand?query=*",
        "/metrics/index.json",
        "/tags",
        "/tags/autoComplete/tags",
        "/tags/autoComplete/values?tag=host",
    ] {
        let answer = server.get(path).await;
        let is_good = answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1");
        assert!(is_good && answer.contains("_timeout=N"), "{path}: {answer}");
    }
    let answer = server.post("/write?db=x", "", b"a value=1").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // What needs no store is answered.
    for path in ["/", "/healthz", "/metrics", "/functions", "/version", "/api/v1/status"] {
        assert!(server.get(path).await.starts_with("HTTP/1.1 200 "), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_reads_of_others_and_then_fail() {
    let server = start(HttpLimits::default().max_reads(1), RenderLimits::default()).await;
    server.put(&[("palm.cpu", 1, 1.0)]).await;
    let permit = server.app.reads.acquire().await.unwrap();
    for path in ["/api/v1/keys", "/api/v1/points?match=*", "/api/v1/live?match=*"] {
        assert_limit(&server.get(path).await, "503", "max_reads");
    }
    drop(permit);
    assert!(server.get("/api/v1/keys").await.contains("\"total\":1"));
}

#[tokio::test(start_paused = true)]
async fn slow_reader_of_a_large_answer_is_cut_off() {
    let server = start_default().await;
    let points: Vec<_> = (0..100_000).map(|at| ("palm.cpu", at, 0.5)).collect();
    server.put(&points).await;
    let mut peer = server.connect(4 * 1024);
    let request = b"GET /api/v1/points?key=palm.cpu HTTP/1.1\r\nhost: localhost\r\n\r\n";
    peer.write_all(request).await.unwrap();
    let (begin, mut read) = (Instant::now(), 0);
    while peer.read_u8().await.is_ok() {
        read += 1;
        // Not so often that it takes long to run.
        if read % 64 == 0 {
            sleep(Duration::from_millis(500)).await;
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", begin.elapsed());
    // Of 1.2 MB no more was read from the store than fits on the way.
    let blocks = server.store().blocks_read.load(Ordering::Relaxed);
    let all = 100_000 / 1024;
    assert!(blocks < all / 2, "{blocks} of some {all} blocks");
}

#[tokio::test(start_paused = true)]
async fn merging_all_points_lets_others_run() {
    let server = start_default().await;
    let points: Vec<_> = (0..500_000).map(|at| ("palm.cpu", at, 0.5)).collect();
    server.put(&points).await;
    let mut peer = server.connect(64 * 1024);
    let request = b"GET /api/v1/points?key=palm.cpu&max=10 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    peer.write_all(request).await.unwrap();
    let mut steps = 0;
    let blocks = &server.store().blocks_read;
    while blocks.load(Ordering::Relaxed) < 400 {
        tokio::task::yield_now().await;
        steps += 1;
    }
    // On one thread: each step was between two parts of the request.
    assert!(steps > 3, "{steps}");
    assert!(rest(&mut peer).await.contains("\"points\":[[0,0.5]"));
}

#[tokio::test(start_paused = true)]
async fn server_that_stops_is_not_ready() {
    let server = start_default().await;
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200 "));
    server.app.stopping.cancel();
    let answer = server.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("stopping"), "{answer}");
    assert!(server.get("/api/v1/status").await.contains("\"ready\":false"));
    // The process runs.
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn graphite_paths_may_end_in_a_slash() {
    let server = start_default().await;
    server.put(&[("palm.cpu", 1_150_864_247, 1.5), ("palm.cpu", 1_150_864_248, 2.5)]).await;
    for (path, expected) in [
        (
            "/render/?target=palm.cpu&from=1150864246&until=1150864248",
            "[[1.5, 1150864247], [2.5, 1150864248]]",
        ),
        ("/metrics/find/?query=*", "\"palm\""),
        ("/metrics/expand/?query=palm.*", "[\"palm.cpu\"]"),
        ("/version/", "1.1.8"),
        ("/tags/", "[]"),
        ("/functions/constantLine/", "{\"name\":\"constantLine\""),
        ("/functions/nosuch", "unknown function: nosuch"),
    ] {
        let answer = server.get(path).await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
}
