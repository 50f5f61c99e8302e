//! Cost by the number of points that are stored, in [`KEYS`] keys.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use metrics_client::{Key, MetricsClient, Point, Sample, Selector, error::InvalidKey};
use metrics_server::{
    MemoryStore, Store,
    store::{PutBatch, Snapshot, StoreError},
};
use tokio::task::JoinSet;

use super::{
    AGREED_POINTS, Scale, builder,
    chart::{Chart, Line},
    client::Job,
    memory::MemoryRow,
};
use crate::support::{
    memory::Memory,
    server_process::{Behavior, ServerProcess},
    values,
    workload::{Agent, KEYS},
};

/// The key of the get that always finds as many points.
const PROBE: &str = "probe";
const PROBE_POINTS: usize = 100;

/// What was measured, line by line.
struct PointLines {
    appended: Line,
    replaced: Line,
    got: Line,
    streamed: Line,
    looked_up: Line,
    asked: Line,
    held: Line,
    bare: Line,
    rows: Vec<MemoryRow>,
}

pub(super) fn measure(scale: &Scale) -> Result<([Chart; 4], Vec<MemoryRow>), Box<dyn Error>> {
    let mut lines = PointLines {
        appended: Line::new("append, store alone"),
        replaced: Line::new("replace, put_all"),
        got: Line::new("get_all"),
        streamed: Line::new("stream"),
        looked_up: Line::new("store alone"),
        asked: Line::new("get, 64 callers"),
        held: Line::new("server"),
        bare: Line::new("timestamp and value"),
        rows: Vec::new(),
    };
    let runtime = super::runtime()?;
    runtime.block_on(lines.measure_store(scale))?;
    runtime.block_on(lines.measure_server(scale))?;
    let PointLines { appended, replaced, got, streamed, looked_up, asked, held, bare, rows } =
        lines;
    let chart = |file, title, y, lines| Chart { file, title, x: "points stored", y, lines };
    let charts = [
        chart("put-by-points", "A put, by points stored", "ns", vec![appended, replaced]),
        chart(
            "get-by-points",
            "A record in a get of everything, by points stored",
            "ns",
            vec![got, streamed],
        ),
        chart(
            "get-of-a-key-by-points",
            "A get of one key of 100 points, by points stored",
            "µs",
            vec![looked_up, asked],
        ),
        chart(
            "memory-by-points",
            "Memory for a point, by points stored",
            "bytes",
            vec![held, bare],
        ),
    ];
    Ok((charts, rows))
}

impl PointLines {
    /// The store alone, for over a connection most of the time goes elsewhere.
    async fn measure_store(&mut self, scale: &Scale) -> Result<(), Box<dyn Error>> {
        for _ in 0..scale.rounds.count {
            for &points in scale.points {
                let mut writer = Writer::new().await?;
                writer.append(points / KEYS).await?;
                let seconds = (points / KEYS / 10).max(1);
                let time = writer.append(seconds).await?;
                self.appended.push(points, nanos(time, seconds * KEYS));
                self.looked_up.push(points, nanos(writer.get_probe().await?, GETS) / 1e3);
            }
        }
        Ok(())
    }

    /// Servers in processes of their own. They take turns, so that none of them has the machine
    /// while it is slow.
    async fn measure_server(&mut self, scale: &Scale) -> Result<(), Box<dyn Error>> {
        let mut servers = Vec::new();
        for &points in scale.points {
            let server = Filled::with(points).await?;
            self.held.push(points, server.growth / points as f64);
            self.bare.push(points, BARE);
            servers.push(server);
        }
        for _ in 0..scale.rounds.count {
            for Filled { points, client, newest, .. } in &servers {
                self.replaced.push(*points, nanos(replace(client, newest).await?, newest.len()));
                self.asked.push(*points, nanos(ask(client).await, GETS) / 1e3);
                self.got.push(*points, nanos(get_all(client, *points).await?, *points));
                self.streamed.push(*points, nanos(stream(client).await?, *points));
            }
        }
        if let Some(largest) = servers.last() {
            self.rows = rows(largest)?;
        }
        Ok(())
    }
}

/// A server that stores a number of points, and a client of it.
struct Filled {
    points: usize,
    server: ServerProcess,
    client: MetricsClient,
    /// By how many bytes the server has grown.
    growth: f64,
    /// The samples of the last second, many times.
    newest: Vec<Sample>,
}

impl Filled {
    async fn with(points: usize) -> Result<Self, Box<dyn Error>> {
        let server = ServerProcess::start(Behavior::Store)?;
        let client = builder(server.addr())
            .max_response_bytes(1024 * 1024 * 1024)
            .request_timeout(Duration::from_secs(60))
            .connect()
            .await?;
        client.put_all(probe()?).await?;
        let empty = Memory::of(server.id())?;
        let mut agent = Agent::new(values::reading)?;
        let mut newest = Vec::new();
        let mut stored = 0;
        while stored < points {
            let mut samples = agent.samples(((points - stored) / KEYS).min(1_000));
            client.put_all(samples.iter()).await?;
            stored += samples.len();
            newest = samples.split_off(samples.len() - KEYS);
        }
        let growth = Memory::of(server.id())?.growth(empty);
        let newest = newest.iter().cycle().take(100 * KEYS).cloned().collect();
        Ok(Self { points, server, client, growth, newest })
    }
}

/// What was agreed on, where most points are stored.
fn rows(largest: &Filled) -> Result<Vec<MemoryRow>, Box<dyn Error>> {
    let &Filled { points, growth, .. } = largest;
    let limit = |limit| (points == AGREED_POINTS).then_some(limit);
    let streaming = Job::Stream(largest.server.addr()).measure()?;
    Ok(vec![
        MemoryRow {
            what: format!("server, {points} points in {KEYS} keys, against 16 bytes each"),
            measured: growth / (points as f64 * BARE),
            unit: "×",
            limit: limit(1.5),
        },
        MemoryRow {
            what: format!("client, `stream` of {points} records"),
            measured: streaming as f64 / 1024.0 / 1024.0,
            unit: "MiB",
            limit: limit(16.0),
        },
    ])
}

/// A timestamp and a value, in bytes.
const BARE: f64 = size_of::<Point>() as f64;

/// How many gets of one key are timed at once.
const GETS: usize = 64 * 32;

fn nanos(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}

fn probe() -> Result<Vec<Sample>, InvalidKey> {
    let key = Key::new(PROBE)?;
    let point = |second| Point::new(values::reading(second as u64), second);
    Ok((0..PROBE_POINTS as i64).map(|at| Sample { key: key.clone(), point: point(at) }).collect())
}

/// How long it takes to put `samples` once more.
async fn replace(
    client: &MetricsClient,
    samples: &[Sample],
) -> Result<Duration, metrics_client::Error> {
    let start = Instant::now();
    client.put_all(samples).await?;
    Ok(start.elapsed())
}

/// How long it takes to get everything at once.
async fn get_all(client: &MetricsClient, points: usize) -> Result<Duration, metrics_client::Error> {
    let start = Instant::now();
    let metrics = client.get_all().await?;
    let time = start.elapsed();
    assert_eq!(metrics.point_count(), points + PROBE_POINTS);
    Ok(time)
}

/// How long it takes to stream everything.
async fn stream(client: &MetricsClient) -> Result<Duration, metrics_client::Error> {
    let start = Instant::now();
    let mut samples = client.stream("*").await?;
    while let Some(sample) = samples.next().await {
        sample?;
    }
    Ok(start.elapsed())
}

/// How long [`GETS`] gets of one key take 64 callers.
async fn ask(client: &MetricsClient) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..GETS / 64 {
                let metrics = client.get(PROBE).await.expect("the server answers");
                assert_eq!(metrics.point_count(), PROBE_POINTS);
            }
        });
    }
    tasks.join_all().await;
    start.elapsed()
}

/// A store, and who writes to it: a batch of puts for each second.
struct Writer {
    store: MemoryStore,
    agent: Agent,
    puts: PutBatch,
}

impl Writer {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let (store, agent) = (MemoryStore::new(), Agent::new(values::reading)?);
        let mut writer = Self { store, agent, puts: PutBatch::new() };
        writer.apply(&probe()?).await?;
        Ok(writer)
    }

    /// Measures how long the store takes for `seconds` more seconds of samples.
    async fn append(&mut self, seconds: usize) -> Result<Duration, StoreError> {
        let mut time = Duration::ZERO;
        for _ in 0..seconds {
            let samples = self.agent.samples(1);
            time += self.apply(&samples).await?;
        }
        Ok(time)
    }

    async fn apply(&mut self, samples: &[Sample]) -> Result<Duration, StoreError> {
        self.puts.clear();
        for sample in samples {
            self.puts.push(&sample.key, sample.point);
        }
        let start = Instant::now();
        self.store.apply(&self.puts).await?;
        Ok(start.elapsed())
    }

    /// How long the store takes over [`GETS`] gets of one key.
    async fn get_probe(&self) -> Result<Duration, Box<dyn Error>> {
        let selector = Selector::Key(Key::new(PROBE)?);
        let start = Instant::now();
        for _ in 0..GETS {
            let mut snapshot = self.store.get(&selector).await?;
            let mut points = 0;
            while let Some(block) = snapshot.next_block().await? {
                points += block.points.len();
            }
            assert_eq!(points, PROBE_POINTS);
        }
        Ok(start.elapsed())
    }
}
