//! Tests of the listener over loopback: what is answered to raw requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use metrics_client::{Key, Selector};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

mod duplex;
#[cfg(all(feature = "graphite", feature = "influx"))]
mod hostile;
mod live;
#[cfg(feature = "tls")]
mod tls;

use super::*;
use crate::store::{MemorySnapshot, MemoryStore, PutBatch, StoreError};
use metrics_client::Point;

/// A store in memory that fails when told to.
#[derive(Default)]
struct Fallible {
    store: MemoryStore,
    is_failing: AtomicBool,
}

impl Store for Fallible {
    type Snapshot = MemorySnapshot;

    async fn apply(&self, puts: &PutBatch) -> Result<(), StoreError> {
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(StoreError::transient("disk full"));
        }
        self.store.apply(puts).await
    }

    async fn get(&self, selector: &Selector) -> Result<MemorySnapshot, StoreError> {
        self.store.get(selector).await
    }
}

struct RunningHttp {
    addr: std::net::SocketAddr,
    store: Tee<Arc<Fallible>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl RunningHttp {
    async fn start() -> Self {
        Self::with(Access::Loopback, HttpLimits::default()).await
    }

    async fn with(access: Access, limits: HttpLimits) -> Self {
        let store = Tee::new(Arc::new(Fallible::default()), 16);
        let server = HttpServer::bind("127.0.0.1:0", store.clone(), access).await.unwrap();
        #[cfg(feature = "influx")]
        let server = server.influx();
        #[cfg(feature = "graphite")]
        let server = server.graphite(crate::graphite::RenderLimits::default());
        let (addr, stop) = (server.local_addr(), CancellationToken::new());
        let serving =
            tokio::spawn(server.limits(limits).serve_until(stop.clone().cancelled_owned()));
        Self { addr, store, stop, serving }
    }

    async fn put(&self, points: &[(&str, i64, f64)]) {
        let mut puts = PutBatch::new();
        for &(key, at, value) in points {
            puts.push(&Key::new(key).unwrap(), Point::new(value, at));
        }
        self.store.apply(&puts).await.unwrap();
    }

    /// Sends a request on a connection of its own. Returns the status and the body.
    async fn send(&self, head: &str, body: &[u8]) -> (u16, String) {
        let (status, _, body) = self.send_for_head(head, body).await;
        (status, body)
    }

    async fn send_for_head(&self, head: &str, body: &[u8]) -> (u16, String, String) {
        let mut peer = TcpStream::connect(self.addr).await.unwrap();
        let mut lines = head.lines();
        let mut request = format!("{} HTTP/1.1\r\nconnection: close\r\n", lines.next().unwrap());
        if !head.to_ascii_lowercase().contains("\nhost:") {
            request += "host: localhost\r\n";
        }
        lines.for_each(|line| request += &format!("{line}\r\n"));
        request += &format!("content-length: {}\r\n\r\n", body.len());
        peer.write_all(&[request.as_bytes(), body].concat()).await.unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body =
            if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
        (status, head.to_ascii_lowercase(), body)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path}"), b"").await
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).unwrap();
        text += &rest[..len];
        body = &rest[len + 2..];
    }
    text
}

#[tokio::test]
async fn points_are_returned_as_json_and_csv() {
    let server = RunningHttp::start().await;
    server.put(&[("a", 1, 0.5), ("a", 2, 1e22), ("b,\"c", 1, -2.0)]).await;
    let answer = server.get("/api/v1/points?key=a&key=b%2C%22c").await;
    let expected = r#"{"series":[{"key":"a","points":[[1,0.5],[2,1e+22]]},{"key":"b,\"c","points":[[1,-2.0]]}],"truncated":false}"#;
    assert_eq!(answer, (200, format!("{expected}\n")));
    let value: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(value["series"][0]["points"][1][1], 1e22);
    let answer = server.get("/api/v1/points?match=*&from=1&until=1&format=csv").await;
    assert_eq!(answer, (200, "key,timestamp,value\na,1,0.5\n\"b,\"\"c\",1,-2.0\n".into()));
    let answer = server.get("/api/v1/points?key=unknown").await;
    assert_eq!(
        answer.1,
        "{\"series\":[{\"key\":\"unknown\",\"points\":[]}],\"truncated\":false}\n"
    );
    let answer = server.get("/api/v1/points?match=none*").await;
    assert_eq!(answer.1, "{\"series\":[],\"truncated\":false}\n");
}

#[tokio::test]
async fn points_are_merged_to_the_number_asked_for() {
    let server = RunningHttp::start().await;
    let points: Vec<_> = (0..1000).map(|at| ("a", at, at as f64)).collect();
    server.put(&points).await;
    let answer = server.get("/api/v1/points?key=a&from=0&until=999&max=2&agg=max").await.1;
    assert_eq!(
        answer,
        "{\"series\":[{\"key\":\"a\",\"points\":[[0,499.0],[500,999.0]]}],\"truncated\":false}\n"
    );
}

#[tokio::test]
async fn answer_over_a_limit_is_truncated_and_says_so() {
    let limits = HttpLimits::default().max_points(3).max_keys(2);
    let server = RunningHttp::with(Access::Loopback, limits).await;
    server.put(&[("a", 1, 1.0), ("a", 2, 1.0), ("b", 1, 1.0), ("b", 2, 1.0), ("c", 1, 1.0)]).await;
    let answer = server.get("/api/v1/points?match=*&format=csv").await.1;
    assert_eq!(answer, "key,timestamp,value\na,1,1.0\na,2,1.0\nb,1,1.0\n");
    assert!(server.get("/api/v1/points?match=*").await.1.ends_with("\"truncated\":true}\n"));
    let answer = server.get("/api/v1/keys").await.1;
    assert_eq!(answer, "{\"keys\":[\"a\",\"b\"],\"total\":3,\"truncated\":true}\n");
}

#[tokio::test]
async fn keys_have_their_last_points() {
    let server = RunningHttp::start().await;
    server.put(&[("cpu.0", 5, 1.5), ("cpu.1", 7, 2.5), ("load", 1, 1.0), ("cpu.0", 3, 9.0)]).await;
    let answer = server.get("/api/v1/keys?match=cpu.*&last=true").await.1;
    let expected = r#"{"keys":[{"key":"cpu.0","last":[5,1.5]},{"key":"cpu.1","last":[7,2.5]}],"total":2,"truncated":false}"#;
    assert_eq!(answer, format!("{expected}\n"));
}

#[tokio::test]
async fn bad_request_is_named_with_a_remedy() {
    let server = RunningHttp::start().await;
    for (path, reason) in [
        ("/api/v1/points", "no key: add key=KEY or match=PATTERN"),
        (
            "/api/v1/points?key=a&form=x",
            "unknown parameter \\\"form\\\": expected key, match, from",
        ),
        ("/api/v1/points?key=a%20b", "key"),
        (
            "/api/v1/points?key=a&from=yesterday",
            "invalid from \\\"yesterday\\\": expected seconds since 1970",
        ),
        ("/api/v1/points?key=a&max=-1", "invalid max \\\"-1\\\""),
        ("/api/v1/points?key=a&agg=p99", "expected one of avg, min, max, last, sum"),
        ("/api/v1/keys?limit=x", "invalid limit"),
        ("/api/v1/live", "no key"),
    ] {
        let (status, body) = server.get(path).await;
        assert!(status == 400 && body.contains(reason), "{path}: {status} {body}");
    }
    assert_eq!(server.get("/nope").await, (404, "{\"error\":\"no such path: /nope\"}".into()));
    assert_eq!(server.send("POST /api/v1/keys", b"").await.0, 405);
}

#[tokio::test]
async fn page_is_served_and_uses_no_other_host() {
    let server = RunningHttp::start().await;
    let (status, head, page) = server.send_for_head("GET /", b"").await;
    assert!(
        status == 200
            && head.contains("content-security-policy: default-src 'self'")
            && head.contains("cross-origin-resource-policy: same-origin"),
        "{head}"
    );
    // Each file that it names is there.
    let names = page.split_inclusive('"').zip(page.split('"').skip(1));
    let names =
        names.filter(|(before, _)| before.ends_with("href=\"") || before.ends_with("src=\""));
    for (_, name) in names {
        assert_eq!(server.get(&format!("/{name}")).await.0, 200, "{name}");
    }
    let files = page + include_str!("page/page.js") + include_str!("page/page.css");
    assert!(!files.contains("://"), "an address of another host");
}

#[tokio::test]
async fn token_is_required_but_for_probes() {
    let token = Token::new("s3cret-token").unwrap();
    let server = RunningHttp::with(Access::Token(token), HttpLimits::default()).await;
    let (status, head, _) = server.send_for_head("GET /api/v1/keys", b"").await;
    assert!(status == 401 && head.contains("www-authenticate: basic"), "{head}");
    assert_eq!(
        server.send("GET /api/v1/keys\nauthorization: Bearer s3cret-token", b"").await.0,
        200
    );
    assert_eq!(server.get("/healthz").await, (200, "ok\n".into()));
    // By any name.
    assert_eq!(
        server
            .send("GET /metrics\nhost: metrics.example\nauthorization: Token s3cret-token", b"")
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn foreign_names_and_sites_are_rejected() {
    let server = RunningHttp::start().await;
    server.put(&[("a", 1, 1.0)]).await;
    assert_eq!(server.send("GET /api/v1/keys\nhost: evil.example", b"").await.0, 403);
    assert_eq!(
        server.send("POST /write?db=x\norigin: http://evil.example", b"a value=1").await.0,
        403
    );
    let error = HttpServer::bind("0.0.0.0:0", server.store.clone(), Access::Loopback).await;
    assert_eq!(error.err().map(|error| error.kind()), Some(std::io::ErrorKind::InvalidInput));
}

#[tokio::test]
async fn readiness_follows_the_store() {
    let server = RunningHttp::start().await;
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    server.store.get_ref().is_failing.store(true, Ordering::Relaxed);
    let mut puts = PutBatch::new();
    puts.push(&Key::new("a").unwrap(), Point::new(1.0, 1));
    server.store.apply(&puts).await.unwrap_err();
    assert_eq!(server.get("/readyz").await, (503, "{\"error\":\"writes fail: disk full\"}".into()));
    assert!(server.get("/api/v1/status").await.1.contains("\"ready\":false"));
    server.store.get_ref().is_failing.store(false, Ordering::Relaxed);
    server.store.apply(&puts).await.unwrap();
    assert_eq!(server.get("/readyz").await.0, 200);
    let metrics = server.get("/metrics").await.1;
    assert!(
        metrics.contains(
            "# TYPE metrics_http_requests_total counter\nmetrics_http_requests_total 5\n"
        ),
        "{metrics}"
    );
}

/// Reads events from a stream until one has data.
async fn next_event(peer: &mut TcpStream, text: &mut String) -> String {
    loop {
        if let Some((event, rest)) = text.split_once("\n\n") {
            let (event, rest) = (event.to_owned(), rest.to_owned());
            *text = rest;
            if let Some(at) = event.find("data: ") {
                return event[at..].replace("\r\n", "");
            }
            continue;
        }
        let mut buffer = [0; 4096];
        let len = peer.read(&mut buffer).await.unwrap();
        assert!(len > 0, "the stream has ended: {text}");
        *text += &String::from_utf8_lossy(&buffer[..len]);
    }
}

async fn watch_live(server: &RunningHttp, query: &str, header: &str) -> TcpStream {
    let mut peer = TcpStream::connect(server.addr).await.unwrap();
    let request = format!("GET /api/v1/live?{query} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n");
    peer.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    peer
}

#[tokio::test]
async fn live_points_are_the_newest_of_each_key() {
    let server = RunningHttp::start().await;
    let mut peer = watch_live(&server, "match=a*&key=c", "").await;
    // In one change: the hub collects for 200 ms, and a batch is applied at once.
    server.put(&[("a1", 1, 1.0), ("a1", 2, 2.0), ("b", 1, 1.0), ("c", 1, 3.0)]).await;
    let mut text = String::new();
    let event = next_event(&mut peer, &mut text).await;
    let mut rows: Vec<(String, i64, f64)> = serde_json::from_str(&event["data: ".len()..]).unwrap();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(rows, [("a1".into(), 2, 2.0), ("c".into(), 1, 3.0)]);
    server.put(&[("a2", 1, 1.0)]).await;
    assert_eq!(next_event(&mut peer, &mut text).await, "data: [[\"a2\",1,1.0]]");
    // A viewer that comes back and has seen nothing gets everything since.
    let mut back = watch_live(&server, "match=a*", "last-event-id: 1\r\n").await;
    let event = next_event(&mut back, &mut String::new()).await;
    assert!(event.contains("a1") && event.contains("a2"), "{event}");
}

#[cfg(feature = "influx")]
#[tokio::test]
async fn shutdown_waits_for_requests_that_have_begun() {
    let server = RunningHttp::start().await;
    // Begun, and idle, and a body that is on its way.
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(idle.read_u8().await.unwrap(), b'H');
    let mut begun = TcpStream::connect(server.addr).await.unwrap();
    let head = b"POST /write?db=x&precision=s HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n";
    begun.write_all(head).await.unwrap();
    // The server asks for the body, so the request has begun.
    let mut asked = [0; 25];
    begun.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    begun.write_all(b"a value=1 1").await.unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn shutdown_ends_live_streams() {
    let server = RunningHttp::start().await;
    let mut peer = watch_live(&server, "match=*", "").await;
    server.stop.cancel();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn connection_over_the_limit_is_answered_503() {
    let limits = HttpLimits::default().max_connections(1);
    let server = RunningHttp::with(Access::Loopback, limits).await;
    let viewer = watch_live(&server, "match=*", "").await;
    let (status, body) = server.get("/healthz").await;
    assert!(status == 503 && body.contains("limit max_connections reached: at most 1"), "{body}");
    assert!(body.contains("--http-limit max_connections=N"), "{body}");
    drop(viewer);
}

#[cfg(feature = "influx")]
mod influx {
    use super::*;

    async fn stored(server: &RunningHttp) -> String {
        server.get("/api/v1/points?match=*&format=csv").await.1.replace("key,timestamp,value\n", "")
    }

    #[tokio::test]
    async fn lines_are_stored() {
        let server = RunningHttp::start().await;
        let lines = b"cpu,host=palm usage=1,value=2 1150864247\n\n# comment\nload value=3i 1\n";
        let (status, head, _) = server.send_for_head("POST /write?db=m&precision=s", lines).await;
        assert!(status == 204 && head.contains("x-influxdb-version: 1.8"), "{head}");
        let answer =
            server.send("POST /api/v2/write?org=o&bucket=b", b"x value=1 2999999999").await;
        assert_eq!(answer, (204, String::new()));
        let expected = "cpu.usage;host=palm,1150864247,1.0\ncpu;host=palm,1150864247,2.0\nload,1,3.0\nx,2,1.0\n";
        assert_eq!(stored(&server).await, expected);
        assert_eq!(server.send("POST /write?db=m", b"").await.0, 204);
    }

    #[tokio::test]
    async fn answers_are_those_of_influxd() {
        let server = RunningHttp::start().await;
        for (head, body, status, answer) in [
            ("POST /write", "cpu value=1", 400, r#"{"error":"database is required"}"#),
            (
                "POST /write?db=m",
                "cpu value=",
                400,
                r#"{"error":"unable to parse 'cpu value=': missing field value"}"#,
            ),
            (
                "POST /write?db=m&precision=s",
                "cpu value=1 1\nbad line here x\ncpu value=2 2",
                400,
                r#"{"error":"partial write: unable to parse 'bad line here x': invalid field format dropped=0"}"#,
            ),
            ("POST /write?db=m&precision=parsec", "cpu value=7 3", 204, ""),
            (
                "POST /api/v2/write?precision=parsec",
                "x",
                400,
                r#"{"code":"invalid","message":"invalid precision: use ns, us, ms or s"}"#,
            ),
            (
                "POST /api/v2/write",
                "bad",
                400,
                r#"{"code":"invalid","message":"unable to parse 'bad': missing fields"}"#,
            ),
            ("POST /write?db=m\ncontent-encoding: gzip", "not gzip", 400, ""),
            ("POST /write?db=m\ncontent-encoding: zstd", "", 415, ""),
            ("GET /ping", "", 204, ""),
            ("GET /health", "", 200, ""),
            (
                "POST /query",
                "q=CREATE+DATABASE+%22m%22",
                200,
                r#"{"results":[{"statement_id":0}]}"#,
            ),
            ("POST /query?q=CREATE%20DATABASE%20m", "", 200, r#"{"results":[{"statement_id":0}]}"#),
            ("GET /query?q=show+databases", "", 200, ""),
            ("GET /query?q=select+*+from+cpu", "", 400, ""),
            ("GET /query", "", 400, r#"{"error":"missing required parameter \"q\""}"#),
        ] {
            let got = server.send(head, body.as_bytes()).await;
            assert_eq!(got.0, status, "{head}: {}", got.1);
            assert!(answer.is_empty() || got.1 == answer, "{head}: {}", got.1);
        }
        assert_eq!(stored(&server).await, "cpu,0,7.0\ncpu,1,1.0\ncpu,2,2.0\n");
    }

    #[tokio::test]
    async fn failing_store_is_no_fault_of_the_client() {
        let server = RunningHttp::start().await;
        server.store.get_ref().is_failing.store(true, Ordering::Relaxed);
        for path in ["/write?db=m", "/api/v2/write"] {
            let (status, head, body) =
                server.send_for_head(&format!("POST {path}"), b"bad\ncpu value=1").await;
            assert!(status == 503 && head.contains("retry-after: 1"), "{head}");
            assert!(body.contains("disk full"), "{body}");
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn bodies_are_limited_also_decompressed() {
        let limits = HttpLimits::default().max_body_bytes(4096).max_total_body_bytes(0);
        let server = RunningHttp::with(Access::Loopback, limits).await;
        let gzipped = "POST /write?db=m&precision=s\ncontent-encoding: gzip";
        assert_eq!(server.send(gzipped, &gzip(b"cpu value=1 1")).await.0, 204);
        let bomb = gzip(&vec![b'\n'; 1 << 18]);
        assert!(bomb.len() < 4096);
        assert_eq!(server.send(gzipped, &bomb).await.0, 413);
        assert_eq!(server.send("POST /write?db=m", &[b'\n'; 4097]).await.0, 413);
        assert_eq!(server.send("POST /write?db=m", &[b'\n'; 4096]).await.0, 204);
        // One body that is on its way takes the whole budget.
        let mut slow = TcpStream::connect(server.addr).await.unwrap();
        let head = "POST /write?db=m HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4096\r\n\r\n";
        slow.write_all(&[head.as_bytes(), &[b'\n'; 4095]].concat()).await.unwrap();
        while server.send("POST /write?db=m", &[b'\n'; 2]).await.0 != 503 {
            tokio::task::yield_now().await;
        }
        drop(slow);
        while server.send("POST /write?db=m", &[b'\n'; 2]).await.0 != 204 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_left_out_is_counted() {
        let server = RunningHttp::start().await;
        let lines = b"a value=1 1000000000\na value=2 1500000000\na s=\"x\",value=9007199254740993i 2000000000\nbad";
        server.send("POST /write?db=m", lines).await;
        let metrics = server.get("/metrics").await.1;
        for figure in [
            "points_total 3",
            "strings_skipped_total 1",
            "integers_rounded_total 1",
            "points_merged_total 1",
            "invalid_lines_total 1",
        ] {
            assert!(
                metrics.contains(&format!("\nmetrics_influx_{figure}\n")),
                "{figure}: {metrics}"
            );
        }
    }
}

#[cfg(feature = "graphite")]
mod graphite {
    use super::*;

    /// The requests of Grafana's data source, as it sends them.
    #[tokio::test]
    async fn grafana_is_answered() {
        let server = RunningHttp::start().await;
        server.put(&[("palm.cpu", 1150864250, 23.7), ("palm.cpu", 1150864260, 25.0)]).await;
        server.put(&[("load;core=0", 1150864250, 0.5)]).await;
        let form = "content-type: application/x-www-form-urlencoded";
        for (head, body, status, answer) in [
            (
                "POST /render".to_owned(),
                r#"target=aliasSub(palm.cpu%2C%20%22(%5E.*%24)%22%2C%20%22%5C1%20A%22)&from=1150864240&until=1150864260&format=json&maxDataPoints=100"#,
                200,
                r#"[{"target": "palm.cpu A", "tags": {"name": "palm.cpu"}, "datapoints": [[23.7, 1150864250], [25.0, 1150864260]]}]"#,
            ),
            (
                "GET /render?target=palm.cpu&from=1150864240&until=1150864260&format=raw".into(),
                "",
                200,
                "palm.cpu,1150864250,1150864270,10|23.7,25.0\n",
            ),
            (
                "GET /render?target=unknown(palm.cpu)".into(),
                "",
                400,
                r#"{"error":"unknown function: unknown"}"#,
            ),
            ("GET /render?target=nothing".into(), "", 200, "[]"),
            (
                "POST /metrics/find".into(),
                "query=palm.*",
                200,
                r#"[{"text":"cpu","id":"palm.cpu","allowChildren":0,"expandable":0,"leaf":1}]"#,
            ),
            ("POST /metrics/find?format=completer".into(), "query=palm.c", 200, r#"{"metrics":["#),
            ("GET /metrics/find".into(), "", 400, r#"{"error":"missing parameter query"}"#),
            ("GET /metrics/expand?query=palm.*".into(), "", 200, r#"{"results":["palm.cpu"]}"#),
            ("GET /metrics/index.json".into(), "", 200, r#"["palm.cpu"]"#),
            ("GET /functions".into(), "", 200, r#"{"absolute":{"#),
            ("GET /version".into(), "", 200, "1.1.8"),
            ("GET /tags".into(), "", 200, r#"[{"tag":"core"},{"tag":"name"}]"#),
            ("GET /tags/autoComplete/tags?tagPrefix=c".into(), "", 200, r#"["core"]"#),
            ("GET /tags/autoComplete/values?expr=name%3Dload&tag=core".into(), "", 200, r#"["0"]"#),
            ("GET /events/get_data?from=-1h&until=now".into(), "", 200, "[]"),
        ] {
            let got = server.send(&format!("{head}\n{form}"), body.as_bytes()).await;
            assert!(got.0 == status && got.1.starts_with(answer), "{head}: {got:?}");
        }
    }
}
