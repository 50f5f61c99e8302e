//! A scripted ClickHouse: hosts in memory that answer requests as a test says.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Display,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use clickhouse::Client;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::{TokioExecutor, TokioIo},
};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream,
    ReadBuf, duplex,
};

/// All hosts of a cluster.
#[derive(Clone, Default)]
pub(super) struct ScriptedCluster(Arc<Mutex<ScriptedState>>);

#[derive(Default)]
struct ScriptedState {
    /// The answers to inserts of points, in order; then each succeeds.
    script: VecDeque<Reply>,
    /// The answers to statements that contain a text.
    selects: Vec<(&'static str, Reply)>,
    /// Hosts that cannot be reached.
    down: HashSet<&'static str>,
    requests: Vec<Request>,
    /// Inserts that are not answered yet.
    in_flight: usize,
    pub(super) max_in_flight: usize,
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Body(Vec<u8>),
    /// An exception with this code.
    Code(u32),
    /// A body that breaks off, with the connection.
    Cut(Vec<u8>),
    /// The connection is closed.
    Close,
    /// No answer comes.
    Hang,
}

/// A request that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) host: String,
    /// The statement: of the URL for an insert, else the body.
    pub(super) statement: String,
    pub(super) settings: HashMap<String, String>,
    /// The rows of an insert.
    pub(super) rows: Vec<u8>,
}

impl ScriptedCluster {
    pub(super) fn client(&self) -> Client {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Client::with_http_client(client.build(ScriptedConnector(self.clone())))
    }

    fn state(&self) -> MutexGuard<'_, ScriptedState> {
        self.0.lock().unwrap()
    }

    pub(super) fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state().script.extend(replies);
    }

    pub(super) fn clear_script(&self) {
        self.state().script.clear();
    }

    /// Answers statements that contain `text`; the last such answer counts.
    pub(super) fn on_select(&self, text: &'static str, reply: Reply) {
        self.state().selects.insert(0, (text, reply));
    }

    pub(super) fn set_down(&self, host: &'static str, is_down: bool) {
        let mut state = self.state();
        if is_down {
            state.down.insert(host)
        } else {
            state.down.remove(host)
        };
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.state().max_in_flight
    }

    /// The inserts of points that were received.
    pub(super) fn inserts(&self) -> Vec<Request> {
        self.requests("INSERT INTO default.metrics (")
    }

    pub(super) fn requests(&self, text: &str) -> Vec<Request> {
        let state = self.state();
        state.requests.iter().filter(|request| request.statement.contains(text)).cloned().collect()
    }

    fn reply(&self, request: Request) -> Reply {
        let mut state = self.state();
        let statement = request.statement.clone();
        state.requests.push(request);
        if statement.contains("INSERT INTO default.metrics (") {
            return state.script.pop_front().unwrap_or(Reply::Body(Vec::new()));
        }
        let scripted = state.selects.iter().find(|(text, _)| statement.contains(text));
        if let Some((_, reply)) = scripted {
            return reply.clone();
        }
        let answer = if statement.contains("system.settings") {
            SETTINGS
        } else if statement.contains("name, engine FROM system.tables") {
            "metrics\tReplacingMergeTree\nmetrics_keys\tReplacingMergeTree\n\
             metrics_local\tReplicatedReplacingMergeTree\nmetrics_keys_local\tReplicatedReplacingMergeTree\n"
        } else if statement.starts_with("SELECT count()") {
            "1\n"
        } else {
            "0\n"
        };
        Reply::Body(answer.into())
    }

    async fn serve(self, host: String, io: DuplexStream) -> io::Result<()> {
        let mut io = BufReader::new(io);
        loop {
            let mut line = String::new();
            if io.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let (mut length, mut is_chunked) = (0, false);
            loop {
                line.clear();
                io.read_line(&mut line).await?;
                let header = line.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                is_chunked |= header == "transfer-encoding: chunked";
                if let Some(value) = header.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let body =
                if is_chunked { chunks(&mut io).await? } else { exactly(&mut io, length).await? };
            let mut settings = settings(&target);
            let (statement, rows) = match settings.remove("query") {
                Some(statement) => (statement, body),
                None => (String::from_utf8(body).unwrap(), Vec::new()),
            };
            let is_insert = statement.contains("INSERT INTO default.metrics (");
            if is_insert {
                let mut state = self.state();
                state.in_flight += 1;
                state.max_in_flight = state.max_in_flight.max(state.in_flight);
            }
            let request = Request { host: host.clone(), statement, settings, rows };
            let reply = self.reply(request);
            // Another insert could begin here.
            tokio::task::yield_now().await;
            if is_insert {
                self.state().in_flight -= 1;
            }
            match reply {
                Reply::Body(body) => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    io.write_all(head.as_bytes()).await?;
                    io.write_all(&body).await?;
                }
                Reply::Code(code) => {
                    let body = format!("Code: {code}, e.displayText() = DB::Exception: scripted");
                    let head = format!(
                        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    io.write_all(head.as_bytes()).await?;
                }
                Reply::Cut(body) => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                    io.write_all(format!("{head}{:x}\r\n", body.len()).as_bytes()).await?;
                    io.write_all(&body).await?;
                    return io.write_all(b"\r\n").await;
                }
                Reply::Close => return Ok(()),
                Reply::Hang => std::future::pending().await,
            }
        }
    }
}

/// Settings that a ClickHouse of today knows, and one that it does not.
const SETTINGS: &str = "insert_deduplicate\nasync_insert\ninsert_distributed_sync\ninsert_quorum\ninsert_quorum_parallel\n\
    insert_quorum_timeout\nskip_unavailable_shards\nmax_bytes_before_external_sort\nselect_sequential_consistency\n";

async fn exactly(io: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(body)
}

async fn chunks(io: &mut BufReader<DuplexStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if io.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let chunk = exactly(io, length + 2).await?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn settings(target: &str) -> HashMap<String, String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.into(), decoded(value))).collect()
}

fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Connects to the hosts of a [`ScriptedCluster`].
#[derive(Clone)]
struct ScriptedConnector(ScriptedCluster);

impl<U: Display> tower_service::Service<U> for ScriptedConnector {
    type Response = TokioIo<ScriptedIo>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<ScriptedIo>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: U) -> Self::Future {
        let uri = uri.to_string();
        let host = uri.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let cluster = self.0.clone();
        Box::pin(async move {
            if cluster.state().down.contains(&*host) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(1 << 20);
            tokio::spawn(cluster.serve(host, theirs));
            Ok(TokioIo::new(ScriptedIo(ours)))
        })
    }
}

struct ScriptedIo(DuplexStream);

impl Connection for ScriptedIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for ScriptedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ScriptedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
