//! The same points with the same durability, in other databases: InfluxDB and SQLite.
//!
//! Each write is on disk before it is acknowledged. SQLite runs in this process and needs no socket, so the store is
//! measured in both ways: in this process, and as a server.

use std::time::{Duration, Instant};

use metrics_client::{Key, Point};
use tempfile::TempDir;

use crate::{
    Outcome, folder,
    options::Options,
    recording::Recording,
    report::{Report, Row, Unit},
};

mod influx;
mod ours;
mod sqlite;

/// A database that is compared.
trait Database {
    fn name(&self) -> &'static str;

    /// Stores a batch, durably.
    fn put(&mut self, batch: &[(Key, Point)]) -> Outcome;

    /// Lets many writers put, each one batch after the other: `batches` has those of each writer. All are
    /// durable when it returns.
    fn put_by_many(&mut self, batches: Vec<Vec<Vec<(Key, Point)>>>) -> Outcome;

    /// Waits until nothing changes any more, and returns how many bytes its files take on
    /// the disk.
    fn settle(&mut self) -> Outcome<u64>;

    /// Reads all points, and returns how many there are.
    fn scan(&mut self) -> Outcome<usize>;

    /// Reads the points of a key, and returns how many there are.
    fn get(&mut self, key: &Key) -> Outcome<usize>;
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    puts(options, &mut Databases::open(options)?, report)?;
    // New ones, so that what the puts have left is neither counted nor reused.
    recorded(options, &mut Databases::open(options)?, report)
}

/// The databases that are compared: both of ours, and then the others.
struct Databases {
    all: Vec<Box<dyn Database>>,
    /// Removed when the databases have ended.
    _dir: TempDir,
}

impl Databases {
    /// Opens them, empty.
    fn open(options: &Options) -> Outcome<Self> {
        let dir = folder(options)?;
        let mut all: Vec<Box<dyn Database>> = vec![
            Box::new(ours::Embedded::open(&dir.path().join("embedded"))?),
            Box::new(ours::Served::open(&dir.path().join("served"))?),
            Box::new(sqlite::Sqlite::open(&dir.path().join("sqlite"))?),
        ];
        match influx::Influx::start(&dir.path().join("influx"))? {
            Some(influx) => all.push(Box::new(influx)),
            None => eprintln!(
                "\nSKIPPED: the comparison with InfluxDB, which is not installed here.\n\
                 SKIPPED: `apt-get install influxdb`, and run this again.\n"
            ),
        }
        Ok(Self { all, _dir: dir })
    }

    /// Adds a row for each pair: the embedded store and SQLite, the server and InfluxDB.
    fn report(&self, report: &mut Report, what: &str, unit: Unit, measured: &[Vec<f64>]) {
        for (ours, theirs) in [(0, 2), (1, 3)] {
            let (Some(database), Some(other)) = (self.all.get(ours), self.all.get(theirs)) else {
                continue;
            };
            let what = format!("{what}: {}", database.name());
            let (ours, theirs) = (&measured[ours], &measured[theirs]);
            report.push(Row::rounds(what, unit, ours, other.name(), theirs));
        }
    }
}

/// How many writers put at the same time.
const WRITERS: usize = 64;

/// Puts to 1,000 keys, in rounds: batches of one, of ten by many writers, and of a thousand.
fn puts(options: &Options, databases: &mut Databases, report: &mut Report) -> Outcome {
    let rounds = options.choose(1, 3, 7);
    let (ones, tens, thousands) = options.choose((2, 1, 1), (50, 5, 20), (300, 40, 100));
    let keys = crate::workload::keys(1_000);
    let mut second = crate::workload::FIRST_SECOND;
    let mut rates =
        [const { Vec::new() }; 3].map(|_: Vec<f64>| vec![Vec::new(); databases.all.len()]);
    for _ in 0..rounds {
        for (index, database) in databases.all.iter_mut().enumerate() {
            let point =
                |key: usize, second: i64| (keys[key].clone(), crate::workload::point(key, second));
            let from = second;
            let start = Instant::now();
            for put in 0..ones {
                database.put(&[point(put % 1_000, from)])?;
            }
            rates[0][index].push(rate(ones, start.elapsed()));

            // Each writer has 10 keys, so no key has two writers.
            let batches: Vec<Vec<Vec<_>>> = (0..WRITERS)
                .map(|writer| {
                    let batch = |at| {
                        (0..10).map(|key| point(writer * 10 + key, from + 1 + at as i64)).collect()
                    };
                    (0..tens).map(batch).collect()
                })
                .collect();
            let start = Instant::now();
            database.put_by_many(batches)?;
            rates[1][index].push(rate(WRITERS * tens * 10, start.elapsed()));

            let from = from + 1 + tens as i64;
            let batches: Vec<Vec<_>> = (0..thousands)
                .map(|at| (0..1_000).map(|key| point(key, from + at as i64)).collect())
                .collect();
            let start = Instant::now();
            batches.iter().try_for_each(|batch| database.put(batch))?;
            rates[2][index].push(rate(thousands * 1_000, start.elapsed()));
        }
        second += 1 + (tens + thousands) as i64;
    }
    let whats = ["puts, one at a time", "puts, 64 writers × 10", "puts, batches of 1,000"];
    for (what, rates) in whats.into_iter().zip(rates) {
        databases.report(report, what, Unit::Rate, &rates);
    }
    Ok(())
}

/// The recording under some names of hosts: what it takes when it has settled, a scan, and reads of one key.
fn recorded(options: &Options, databases: &mut Databases, report: &mut Report) -> Outcome {
    let recording = Recording::read()?;
    let hosts = options.choose(1, 2, 10);
    let seconds = options.choose(20, 1_200, 1_200);
    let keys = recording.keys(hosts);
    let series = recording.series.len();
    let mut rates = vec![Vec::new(); databases.all.len()];
    let mut bytes = rates.clone();
    let mut scans = rates.clone();
    let mut gets = rates.clone();
    let mut points = 0;
    for (index, database) in databases.all.iter_mut().enumerate() {
        let start = Instant::now();
        points = 0;
        // Ten seconds of a host at once.
        for recorded in recording.seconds().take(seconds).collect::<Vec<_>>().chunks(10) {
            for host in 0..hosts {
                let batch: Vec<_> = recorded
                    .iter()
                    .flat_map(|second| second.iter())
                    .map(|&(index, point)| (keys[host * series + index].clone(), point))
                    .collect();
                database.put(&batch)?;
                points += batch.len();
            }
        }
        rates[index].push(rate(points, start.elapsed()));
        bytes[index].push(database.settle()? as f64 / points as f64);
        let stored = database.scan()?;
        if stored != points {
            let name = database.name();
            return Err(format!("{name} has {stored} points, not {points}").into());
        }
    }
    for _ in 0..options.choose(1, 3, 7) {
        for (index, database) in databases.all.iter_mut().enumerate() {
            let start = Instant::now();
            let scanned = database.scan()?;
            scans[index].push(rate(scanned, start.elapsed()));
        }
    }
    for get in 0..options.choose(3, 100, 1_000) {
        let key = &keys[get * 7_919 % keys.len()];
        for (index, database) in databases.all.iter_mut().enumerate() {
            let start = Instant::now();
            let read = database.get(key)?;
            gets[index].push(start.elapsed().as_secs_f64());
            if read != seconds {
                return Err(format!("{} has {read} points of {key}", database.name()).into());
            }
        }
    }
    let millions = points as f64 / 1e6;
    databases.report(
        report,
        &format!("the recording, {hosts} hosts, {millions:.1} M points, batches of 1,410"),
        Unit::Rate,
        &rates,
    );
    databases.report(report, "what it takes, settled, a point", Unit::BytesAPoint, &bytes);
    databases.report(report, "reading everything", Unit::Rate, &scans);
    databases.report(report, &format!("reading one key of {seconds} points"), Unit::Seconds, &gets);
    Ok(())
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
