//! Servers as they are in the field: a sound store behind framing with quirks.
//!
//! A segment is what the client has written before the server answers. The paused clock makes that
//! independent of the scheduler: it advances only when every task of the client waits.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use metrics_client::{ClientBuilder, Metrics, MetricsClient, Point, Sample, client::Pipelining};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Barrier, watch},
    task::JoinSet,
    time,
};

use crate::{
    oracle::{PROBE, SharedOracle, WRONG_COMMAND},
    peer::{MockDialer, MockNetwork, with_timeout},
};

#[tokio::test(start_paused = true)]
async fn one_answer_per_segment_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::FirstOfSegment).await, 1);
}

#[tokio::test(start_paused = true)]
async fn merging_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::Merged).await, 1);
}

#[tokio::test(start_paused = true)]
async fn rejecting_two_at_once_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::OneError).await, 1);
}

#[tokio::test(start_paused = true)]
async fn closing_on_the_second_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::Closes).await, 1);
}

#[tokio::test(start_paused = true)]
async fn segment_framing_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::Segments).await, 1);
}

#[tokio::test(start_paused = true)]
async fn blank_line_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::BlankLine).await, 1);
}

#[tokio::test(start_paused = true)]
async fn silent_when_pipelined_server_is_not_pipelined() {
    assert_eq!(most_at_once(Framing::Wedges).await, 1);
}

#[tokio::test(start_paused = true)]
async fn line_framing_server_is_pipelined() {
    assert!(most_at_once(Framing::Lines).await > 1);
}

#[tokio::test(start_paused = true)]
async fn serial_server_gets_one_request_per_connection() {
    const CONNECTIONS: usize = 4;
    // No request is answered before each connection has one.
    let (server, builder) = QuirkyServer::holding(Framing::FirstOfSegment, CONNECTIONS);
    let builder = builder.pipelining(Pipelining::Off).max_connections(CONNECTIONS);
    let client = builder.connect().await.unwrap();
    let mut puts = JoinSet::new();
    for key in 0..256 {
        let client = client.clone();
        puts.spawn(async move { client.put_at(format!("first.{key}"), 1.0, 1).await.unwrap() });
    }
    while let Some(put) = puts.join_next().await {
        put.unwrap();
    }
    call(&client, BTreeMap::new()).await;
    client.close().await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.acknowledged, stats.accepted), (256 + TASKS * CALLS, 256 + TASKS * CALLS));
    assert_eq!((stats.reconnects, stats.retried), (0, 0));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 1, "over one connection");
}

/// Serves some thousand calls of many tasks, checks each answer, and returns the most requests that
/// the server had at once.
async fn most_at_once(framing: Framing) -> usize {
    let (mut server, builder) = QuirkyServer::holding(framing, 1);
    let client = builder.connect().await.unwrap();
    let oracle = call(&client, BTreeMap::new()).await;
    // From here on the client knows what the server can do.
    server.probed().await;
    let oracle = call(&client, oracle).await;

    let stored = oracle.iter().flat_map(|(key, series)| {
        series.iter().map(move |(&timestamp, &value)| Sample::new(key, value, timestamp).unwrap())
    });
    assert_eq!(client.get_all().await.unwrap(), stored.collect::<Metrics>());
    client.close().await.unwrap();
    let stats = client.stats();
    assert_eq!(stats.acknowledged, 2 * TASKS * CALLS + 1);
    assert_eq!((stats.accepted, stats.reconnects, stats.retried), (stats.acknowledged, 0, 0));
    server.most_at_once.load(Ordering::SeqCst)
}

/// How long the server takes for an answer.
const LATENCY: Duration = Duration::from_millis(1);

const TASKS: u64 = 32;

/// How many calls each task makes.
const CALLS: u64 = 16;

type StoredSeries = BTreeMap<i64, f64>;

/// Puts and gets from many tasks, each with keys of its own, on top of what is stored already.
async fn call(
    client: &MetricsClient,
    stored: BTreeMap<String, StoredSeries>,
) -> BTreeMap<String, StoredSeries> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let keys = (0..2).map(|at| format!("task{task:02}.{at}"));
        let mut series = keys
            .map(|key| (stored.get(&key).cloned().unwrap_or_default(), key))
            .collect::<Vec<_>>();
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..CALLS {
                let (stored, key) = &mut series[fastrand::usize(..2)];
                if fastrand::u8(..3) == 0 {
                    let found = client.get(&*key).await.unwrap();
                    assert_eq!(found.points(key), points(stored));
                    assert_eq!(found.len(), usize::from(!stored.is_empty()));
                } else {
                    let timestamp = fastrand::i64(0..10);
                    let value = f64::from(fastrand::i32(..)) + task as f64 / 64.0;
                    client.put_at(&*key, value, timestamp).await.unwrap();
                    stored.insert(timestamp, value);
                }
            }
            series
        });
    }
    let mut stored = BTreeMap::new();
    while let Some(series) = tasks.join_next().await {
        stored.extend(series.unwrap().into_iter().map(|(points, key)| (key, points)));
    }
    stored.retain(|_, points| !points.is_empty());
    stored
}

fn points(series: &StoredSeries) -> Vec<Point> {
    series.iter().map(|(&timestamp, &value)| Point::new(value, timestamp)).collect()
}

/// What a server makes of a segment.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// As it ought to be.
    Lines,
    /// As it ought to be, with one line break too many behind each answer.
    BlankLine,
    /// As it ought to be, until requests come faster than they are answered, or in pieces.
    Wedges,
    /// A segment is a request; what follows its first line is passed over.
    FirstOfSegment,
    /// A segment has any number of requests, and one answer with the data of all.
    Merged,
    /// A segment is a request, and one with more than one line is invalid.
    OneError,
    /// A segment is a request, and one with more than a line ends the connection.
    Closes,
    /// Each line of a segment is a request, whole or not.
    Segments,
}

/// A server behind such framing.
struct QuirkyServer {
    most_at_once: Arc<AtomicUsize>,
    probed: watch::Receiver<bool>,
}

impl QuirkyServer {
    /// Starts a server that withholds its first answers until `connections` connections have a request.
    fn holding(framing: Framing, connections: usize) -> (Self, ClientBuilder<MockDialer>) {
        let (mut network, builder) = MockNetwork::new();
        let all_asked = Arc::new(Barrier::new(connections));
        let most_at_once = Arc::<AtomicUsize>::default();
        let (probe_ended, probed) = watch::channel(false);
        let most = Arc::clone(&most_at_once);
        tokio::spawn(async move {
            let oracle = SharedOracle::default();
            for number in 0.. {
                let session = Session {
                    io: network.accept().await.into_io(),
                    number,
                    framing,
                    oracle: Arc::clone(&oracle),
                    most_at_once: Arc::clone(&most),
                    all_asked: Arc::clone(&all_asked),
                };
                let probe_ended = probe_ended.clone();
                tokio::spawn(async move {
                    if session.converse().await {
                        probe_ended.send_replace(true);
                    }
                });
            }
        });
        (Self { most_at_once, probed }, builder)
    }

    /// Waits until the client has asked what the server can do.
    async fn probed(&mut self) {
        with_timeout(self.probed.wait_for(|&probed| probed)).await.unwrap();
    }
}

/// One connection of a server.
struct Session {
    io: DuplexStream,
    number: usize,
    framing: Framing,
    oracle: SharedOracle,
    most_at_once: Arc<AtomicUsize>,
    all_asked: Arc<Barrier>,
}

impl Session {
    /// Serves until the connection ends, and says whether it was a probe.
    async fn converse(mut self) -> bool {
        let mut is_probe = false;
        let mut received = String::new();
        let mut all_asked = Some(Arc::clone(&self.all_asked));
        while let Some(segment) = self.read().await {
            if let Some(all_asked) = all_asked.take() {
                all_asked.wait().await;
            }
            is_probe |= segment.contains(PROBE);
            let requests = segment.matches('\n').count();
            if !is_probe {
                self.most_at_once.fetch_max(requests, Ordering::SeqCst);
            }
            received += &segment;
            let Some(answers) = self.answers(&mut received) else {
                break;
            };
            if self.io.write_all(answers.as_bytes()).await.is_err() {
                break;
            }
        }
        is_probe
    }

    /// Reads a segment: all that the client sends until it waits for an answer. A probe waits between
    /// its segments, and each is answered at once.
    async fn read(&mut self) -> Option<String> {
        let mut segment = Vec::with_capacity(64 * 1024);
        if self.io.read_buf(&mut segment).await.ok()? == 0 {
            return None;
        }
        if !segment.windows(PROBE.len()).any(|part| part == PROBE.as_bytes()) {
            time::sleep(LATENCY).await;
            let _ = self.io.read_buf(&mut segment).now_or_never();
        }
        String::from_utf8(segment).ok()
    }

    /// Answers what has been received; `None` ends the connection.
    fn answers(&self, received: &mut String) -> Option<String> {
        let segment = match self.framing {
            Framing::Lines | Framing::BlankLine => {
                let whole = received.rfind('\n').map_or(0, |end| end + 1);
                received.drain(..whole).collect::<String>()
            }
            Framing::Wedges if received.matches('\n').count() != 1 || !received.ends_with('\n') => {
                return Some(String::new());
            }
            _ => std::mem::take(received),
        };
        let mut lines = segment.lines();
        let answer = |line| self.oracle.lock().unwrap().answer(self.number, line);
        let is_one = segment.lines().count() == 1;
        match self.framing {
            Framing::FirstOfSegment => answer(lines.next()?),
            Framing::OneError if !is_one => Some(WRONG_COMMAND.into()),
            Framing::Closes if !is_one => None,
            Framing::Merged => {
                let answers = lines.map(answer).collect::<Option<Vec<_>>>()?;
                let data = answers.iter().map(|answer| answer.strip_prefix("ok\n"));
                let data = data.map(|data| data?.strip_suffix('\n')).collect::<Option<String>>();
                Some(data.map_or_else(|| WRONG_COMMAND.into(), |data| format!("ok\n{data}\n")))
            }
            Framing::BlankLine => lines.map(|line| Some(answer(line)? + "\n")).collect(),
            _ => lines.map(answer).collect(),
        }
    }
}
