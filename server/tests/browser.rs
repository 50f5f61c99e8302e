//! The page in a real browser: Chromium, driven over `WebDriver`.
//!
//! It needs `chromedriver` and Chromium (Debian: `chromium-driver`, `chromium`), and is skipped without them unless
//! `METRICS_TEST_BROWSER=required`. Screenshots are written to the folder of the target, as `page-*.png`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use metrics_client::{Key, Point, unix_seconds};
use metrics_server::{
    MemoryStore, Store,
    http::{Access, HttpServer},
    store::{PutBatch, Tee},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// A browser that is ended when it is dropped.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts a browser; `None` if there is no driver.
    async fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = match driver.spawn() {
            Ok(driver) => driver,
            Err(error)
                if env::var("METRICS_TEST_BROWSER").is_ok_and(|value| value == "required") =>
            {
                panic!("cannot start chromedriver: {error}");
            }
            Err(error) => {
                eprintln!("SKIPPED: the page in a browser: cannot start chromedriver: {error}");
                return None;
            }
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().find_map(|line| {
            let line = line.ok()?;
            let port = line.split_once("started successfully on port ")?.1;
            port.trim_end_matches('.').parse().ok()
        });
        // The pipe must not fill.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self { driver, port: port.expect("its port"), session: String::new() };
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", &capabilities).await;
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let mut peer = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        peer.write_all(request.as_bytes()).await.unwrap();
        // The driver keeps the connection open.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(peer.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let len = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; len.expect("a length").trim().parse().unwrap()];
        peer.read_exact(&mut body).await.unwrap();
        let body = str::from_utf8(&body).unwrap();
        let value: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"));
        assert!(value["value"]["error"].is_null(), "{path}: {value}");
        value["value"].clone()
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.call("POST", &format!("/session/{}/{path}", self.session), &body).await
    }

    async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    /// Evaluates an expression in the page.
    async fn evaluate(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.command("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    async fn wait_for(&self, expression: &str) {
        let begin = Instant::now();
        while self.evaluate(expression).await != true {
            assert!(begin.elapsed() < Duration::from_secs(60), "never true: {expression}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn press(&self, key: &str) {
        let pause = json!({ "type": "keyDown", "value": key });
        let actions = json!([{ "type": "key", "id": "keyboard", "actions": [pause, { "type": "keyUp", "value": key }] }]);
        self.command("actions", json!({ "actions": actions })).await;
    }

    async fn screenshot(&self, name: &str) {
        let path = format!("/session/{}/screenshot", self.session);
        let image = self.call("GET", &path, &Value::Null).await;
        let image = STANDARD.decode(image.as_str().unwrap()).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        fs::write(folder.join(format!("page-{name}.png")), image).unwrap();
    }

    /// Returns the messages of the console that are errors.
    async fn errors(&self) -> Vec<Value> {
        let log = self.command("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap().iter();
        entries.filter(|entry| entry["level"] == "SEVERE").cloned().collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser, which is its child, when it gets this signal.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}

struct Serving {
    addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start(addr: &str, store: &Tee<Arc<MemoryStore>>) -> Self {
        let server = HttpServer::bind(addr, store.clone(), Access::Loopback).await.unwrap();
        let (addr, stop) = (server.local_addr(), CancellationToken::new());
        let task = tokio::spawn(server.serve_until(stop.clone().cancelled_owned()));
        Self { addr, stop, task }
    }
}

async fn put(store: &Tee<Arc<MemoryStore>>, key: &str, seconds_ago: i64, value: f64) {
    let mut puts = PutBatch::new();
    let now = unix_seconds(std::time::SystemTime::now());
    puts.push(&Key::new(key).unwrap(), Point::new(value, now - seconds_ago));
    store.apply(&puts).await.unwrap();
}

/// How many pixels of the chart are drawn in the colour of its line.
const DRAWN: &str = r"
    [...document.querySelectorAll('#charts canvas')].map((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] === 255 && data[at + 1] > data[at] + 40) count++;
        return count;
    }).reduce((sum, count) => sum + count, 0)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_are_drawn_as_they_come() {
    let Some(browser) = Browser::start().await else { return };
    let store = Tee::new(Arc::new(MemoryStore::new()), 1024);
    let server = Serving::start("127.0.0.1:0", &store).await;
    let url = format!("http://{}/", server.addr);

    // An empty store says how to send the first point, which then appears by itself.
    browser.open(&url).await;
    browser.wait_for("!document.getElementById('empty').hidden").await;
    browser.screenshot("empty").await;
    browser.wait_for("document.getElementById('state').textContent === 'live'").await;
    put(&store, "palm.cpu", 5, 20.0).await;
    browser.wait_for("document.querySelectorAll('#keys li').length === 1").await;
    assert_eq!(browser.evaluate("document.getElementById('empty').hidden").await, true);

    // With the keyboard: down, choose.
    browser.press("\u{E015}").await;
    browser.press(" ").await;
    browser.wait_for("document.querySelectorAll('#charts canvas').length === 1").await;
    assert_eq!(browser.evaluate("location.hash.includes('k=palm.cpu')").await, true);

    // A link carries the view; points that are put are drawn.
    for second in 0..60 {
        put(&store, "palm.cpu", 300 - 5 * second, 20.0 + second as f64).await;
        put(&store, "palm.load", 300 - 5 * second, (second % 7) as f64).await;
    }
    let link = format!("{url}?1#k=palm.cpu&k=palm.load&range=15m");
    browser.open(&link).await;
    browser
        .wait_for(&format!(
            "document.querySelectorAll('#charts canvas').length === 2 && {DRAWN} > 100"
        ))
        .await;
    browser.wait_for("document.getElementById('state').textContent === 'live'").await;
    let before = browser.evaluate(DRAWN).await.as_u64().unwrap();
    put(&store, "palm.cpu", 0, 77.0).await;
    browser
        .wait_for(
            "document.querySelector('#charts figcaption span:nth-child(2)').textContent === '77'",
        )
        .await;
    browser.wait_for(&format!("{DRAWN} !== {before}")).await;
    browser.screenshot("live").await;

    // A drag zooms, a double click goes back.
    assert_eq!(browser.evaluate("location.hash.includes('from=')").await, false);
    let origin = "const over = document.querySelector('.u-over').getBoundingClientRect()";
    let edges = browser
        .command("execute/sync", json!({ "script": format!("{origin}; return [over.left, over.top, over.width];"), "args": [] }))
        .await;
    let edge = |index: usize| edges[index].as_f64().unwrap() as i64;
    let at = |share: i64| json!({ "type": "pointerMove", "duration": 50, "x": edge(0) + edge(2) * share / 100, "y": edge(1) + 40 });
    let actions = json!([at(70), { "type": "pointerDown", "button": 0 }, at(80), at(90), { "type": "pointerUp", "button": 0 }]);
    let drag = json!({ "actions": [{ "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" }, "actions": actions }] });
    browser.command("actions", drag).await;
    browser.wait_for("/from=\\d+&until=\\d+/.test(location.hash)").await;
    browser
        .command("execute/sync", json!({ "script": "document.querySelector('.u-over').dispatchEvent(new MouseEvent('dblclick', { bubbles: true }))", "args": [] }))
        .await;
    browser.wait_for("!location.hash.includes('from=')").await;

    // Dark, and on a phone.
    browser.press("d").await;
    browser.wait_for("document.documentElement.dataset.theme === 'dark'").await;
    browser.screenshot("dark").await;
    browser.command("window/rect", json!({ "width": 500, "height": 900 })).await;
    browser
        .wait_for("document.documentElement.scrollWidth <= innerWidth && innerWidth < 600")
        .await;
    browser.wait_for("document.querySelector('#charts figure').clientWidth < 520").await;
    browser.screenshot("phone").await;

    // Nothing was asked of another host, and the console has no error.
    let elsewhere = "performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(location.origin + '/')).length";
    assert_eq!(browser.evaluate(elsewhere).await, 0);
    let errors = browser.errors().await;
    assert!(errors.is_empty(), "{errors:?}");

    // A server that is gone is said to be, and the page comes back by itself.
    server.stop.cancel();
    server.task.await.unwrap();
    browser.wait_for("!document.getElementById('trouble').hidden").await;
    let again = Serving::start(&server.addr.to_string(), &store).await;
    browser.wait_for("document.getElementById('trouble').hidden").await;
    browser.wait_for("document.getElementById('state').textContent === 'live'").await;
    put(&store, "palm.cpu", 0, 55.5).await;
    browser
        .wait_for(
            "document.querySelector('#charts figcaption span:nth-child(2)').textContent === '55.5'",
        )
        .await;
    again.stop.cancel();
    again.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_and_odd_names_are_shown() {
    let Some(browser) = Browser::start().await else { return };
    let store = Tee::new(Arc::new(MemoryStore::new()), 1024);
    let server = Serving::start("127.0.0.1:0", &store).await;
    let url = format!("http://{}/", server.addr);
    let odd = "<script>alert(1)</script>&\"'";
    for second in 0..60 {
        put(&store, odd, 60 - second, second as f64).await;
        put(&store, "bytes", 60 - second, 19.4e9 + 1e6 * second as f64).await;
    }
    let mut puts = PutBatch::new();
    let now = unix_seconds(std::time::SystemTime::now());
    for key in 0..20_000 {
        puts.push(&Key::new(format!("rack{key:05}.cpu")).unwrap(), Point::new(1.0, now));
    }
    store.apply(&puts).await.unwrap();

    let link = "#k=%3Cscript%3Ealert(1)%3C%2Fscript%3E%26%22%27&k=bytes&range=15m";
    browser.open(&format!("{url}{link}")).await;
    browser.wait_for("document.querySelectorAll('#charts canvas').length === 2").await;
    let title = "document.querySelector('#charts figcaption span').textContent";
    assert_eq!(browser.evaluate(title).await, odd);
    let count = "document.getElementById('count').textContent";
    browser.wait_for(&format!("{count} === '500 of 20,002 keys: filter to see others'")).await;
    // A long list is live where it can be seen.
    browser.wait_for("document.getElementById('state').textContent === 'live'").await;
    put(&store, "rack00000.cpu", 0, 42.5).await;
    browser.wait_for("document.querySelector('#keys li:nth-child(3) span:last-child').textContent === '42.5'").await;
    let bytes = "document.querySelectorAll('#charts figcaption span:nth-child(2)')[1].textContent";
    assert_eq!(browser.evaluate(bytes).await, "19.46G");
    browser.screenshot("many").await;

    // With the keyboard alone: filter, leave the field, down, choose.
    for key in ["/", "r", "a", "c", "k", "0", "7", "7", "7", "7"] {
        browser.press(key).await;
    }
    browser.wait_for(&format!("{count} === '1 key'")).await;
    for key in ["\u{E00C}", "\u{E015}", "\u{E007}"] {
        browser.press(key).await;
    }
    browser.wait_for("location.hash.includes('k=rack07777.cpu')").await;
    browser.wait_for("document.querySelectorAll('#charts canvas').length === 3").await;
    let errors = browser.errors().await;
    assert!(errors.is_empty(), "{errors:?}");
    server.stop.cancel();
    server.task.await.unwrap();
}
