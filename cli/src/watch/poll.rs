//! Asking a server again and again, without keeping it busy.

use std::{collections::HashMap, panic::resume_unwind, time::Duration};

use metrics_client::{Error, Key, Metrics, MetricsClient, Sample, Selector};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{connect::ServerArgs, failure::Failure, selection::Selection};

/// Reads the selected keys of a server again and again.
///
/// The protocol has neither patterns nor a range of time: `get KEY` sends all points of a key, `get *` those of all
/// keys. A pattern is therefore read with `get *`, and between two of these, where that is much less, with a `get KEY`
/// for each key that was found. What takes long is done less often.
pub(super) struct Poller<'a> {
    client: MetricsClient,
    server: &'a ServerArgs,
    selection: &'a Selection,
    interval: Duration,
    /// The selected keys that were found.
    found: Vec<FoundKey>,
    /// How many points all keys have, if that is known.
    points: Option<u64>,
    all: Schedule,
    single: Schedule,
}

/// A selected key.
#[derive(Clone, Debug)]
struct FoundKey {
    key: Key,
    /// How many points it has, if that is known.
    points: Option<u64>,
}

/// What one read was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadSummary {
    /// Selected keys that were left out because there are too many.
    pub(super) left_out: usize,
    /// How many points the server sent.
    pub(super) points: u64,
    /// How long it took.
    pub(super) cost: Duration,
}

/// When something is read again.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    next: Instant,
    /// How long it took.
    cost: Duration,
}

/// After a read nothing is read for nine times as long as it took: reads take at most a tenth of the time.
const REST: u32 = 9;

/// How many keys are read one by one at most: a server may answer one at a time, over a long way.
const MAX_SINGLE_KEYS: usize = 256;

/// How many keys are followed at most. Each takes about a kilobyte.
const MAX_FOUND: usize = 100_000;

/// An answer with at most this many points is held in memory, and comes over the open connection. A longer one is
/// streamed over a connection of its own.
const MAX_HELD_POINTS: u64 = 20_000;

/// How many keys are asked for at once.
const MAX_IN_FLIGHT: usize = 32;

impl<'a> Poller<'a> {
    pub(super) fn new(
        client: MetricsClient,
        server: &'a ServerArgs,
        selection: &'a Selection,
        interval: Duration,
    ) -> Self {
        let now = Schedule { next: Instant::now(), cost: Duration::ZERO };
        let keys = selection.keys().unwrap_or_default().iter();
        let found = keys.map(|key| FoundKey { key: key.clone(), points: None }).collect();
        Self { client, server, selection, interval, found, points: None, all: now, single: now }
    }

    /// Waits until it is time, and reads the selected keys. Passes each of their points to `each`.
    ///
    /// # Errors
    ///
    /// Returns an error if the server fails; some points may have been passed then.
    pub(super) async fn read(
        &mut self,
        mut each: impl FnMut(Sample),
    ) -> Result<ReadSummary, Failure> {
        let is_all = match self.selection.keys() {
            Some(_) => false,
            None => !self.reads_single_keys() || self.all.next <= self.single.next,
        };
        sleep_until(if is_all { self.all.next } else { self.single.next }).await;
        let begin = Instant::now();
        let read = if is_all {
            self.read_all(&mut each).await
        } else {
            self.read_single(&mut each)
                .await
                .map(|points| ReadSummary { points, ..ReadSummary::default() })
        };
        let end = Instant::now();
        let cost = end - begin;
        match read {
            Ok(summary) => {
                let schedule =
                    Schedule { next: end + pause(self.interval, cost, summary.points), cost };
                if is_all {
                    self.all = schedule;
                    // Their values were in it.
                    self.single.next = end + self.interval;
                } else {
                    self.single = schedule;
                }
                Ok(ReadSummary { cost, ..summary })
            }
            Err(error) => {
                // A stream says at once that there is no server, and a get waits for one.
                self.points = None;
                self.found.iter_mut().for_each(|found| found.points = None);
                let retry = end + self.interval.saturating_sub(cost);
                (self.all.next, self.single.next) = (retry, retry);
                Err(self.server.failure(error))
            }
        }
    }

    /// Returns true if it is worth while to read keys one by one between two reads of all.
    fn reads_single_keys(&self) -> bool {
        let points = self.found.iter().map(|found| found.points.unwrap_or(u64::MAX));
        let points = points.fold(0_u64, u64::saturating_add);
        self.points.is_some_and(|all_points| points < all_points / 2)
            && self.found.len() <= MAX_SINGLE_KEYS
            && self.single.cost < self.all.cost
            && self.all.next > self.single.next
    }

    async fn read_all(&mut self, each: &mut impl FnMut(Sample)) -> Result<ReadSummary, Error> {
        let mut search = Search {
            selection: self.selection,
            found: HashMap::new(),
            last: None,
            points: 0,
            left_out: 0,
        };
        if self.points.is_some_and(|points| points <= MAX_HELD_POINTS) {
            for sample in self.client.get_all().await?.into_samples() {
                search.look_at(sample, each);
            }
        } else {
            let mut samples = self.client.stream(&Selector::All).await?;
            while let Some(sample) = samples.next().await {
                search.look_at(sample?, each);
            }
        }
        self.points = Some(search.points);
        let found = search.found.into_iter();
        self.found = found.map(|(key, points)| FoundKey { key, points: Some(points) }).collect();
        Ok(ReadSummary {
            left_out: search.left_out,
            points: search.points,
            ..ReadSummary::default()
        })
    }

    async fn read_single(&mut self, each: &mut impl FnMut(Sample)) -> Result<u64, Error> {
        let is_small =
            |found: &FoundKey| found.points.is_some_and(|points| points <= MAX_HELD_POINTS);
        let (small, large) = self.found.iter_mut().partition::<Vec<_>, _>(|found| is_small(found));
        let mut points = 0;
        for found in large {
            let mut samples = self.client.stream(&found.key).await?;
            let mut points_of_key = 0;
            while let Some(sample) = samples.next().await {
                points_of_key += 1;
                each(sample?);
            }
            found.points = Some(points_of_key);
            points += points_of_key;
        }
        let mut gets = JoinSet::new();
        for found in small {
            if gets.len() == MAX_IN_FLIGHT
                && let Some(done) = gets.join_next().await
            {
                points += pass_on(done, each)?;
            }
            let (client, key) = (self.client.clone(), found.key.clone());
            gets.spawn(async move { client.get(&key).await });
        }
        while let Some(done) = gets.join_next().await {
            points += pass_on(done, each)?;
        }
        Ok(points)
    }
}

/// Passes on the samples of a task that has ended, and returns how many there were.
fn pass_on(
    done: Result<Result<Metrics, Error>, JoinError>,
    each: &mut impl FnMut(Sample),
) -> Result<u64, Error> {
    let metrics = match done {
        Ok(metrics) => metrics?,
        Err(error) => resume_unwind(error.into_panic()),
    };
    let points = metrics.point_count() as u64;
    metrics.into_samples().for_each(each);
    Ok(points)
}

/// A look through all points for those of selected keys.
struct Search<'a> {
    selection: &'a Selection,
    /// The selected keys, and how many points each has.
    found: HashMap<Key, u64>,
    /// The key of the last point, and if it is selected: most points have the same as the one before.
    last: Option<(Key, bool)>,
    points: u64,
    left_out: usize,
}

impl Search<'_> {
    fn look_at(&mut self, sample: Sample, each: &mut impl FnMut(Sample)) {
        self.points += 1;
        let is_selected = match &self.last {
            Some((key, is_selected)) if *key == sample.key => *is_selected,
            _ => {
                let is_selected = self.select(&sample.key);
                self.last = Some((sample.key.clone(), is_selected));
                is_selected
            }
        };
        if is_selected {
            if let Some(points) = self.found.get_mut(&sample.key) {
                *points += 1;
            }
            each(sample);
        }
    }

    fn select(&mut self, key: &Key) -> bool {
        if !self.selection.matches(key) {
            return false;
        }
        if self.found.len() >= MAX_FOUND && !self.found.contains_key(key) {
            self.left_out += 1;
            return false;
        }
        self.found.entry(key.clone()).or_default();
        true
    }
}

/// Returns the pause after a read of `points` points that took `cost`. The time of a small read is latency of the link,
/// not load on the server, and causes no pause.
fn pause(interval: Duration, cost: Duration, points: u64) -> Duration {
    let rest = if points <= MAX_HELD_POINTS { Duration::ZERO } else { cost * REST };
    interval.saturating_sub(cost).max(rest)
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::{Arc, Mutex},
    };

    use clap::Parser;
    use metrics_client::client::connector_fn;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex, split};

    use super::*;

    #[derive(Parser)]
    struct TestArgs {
        #[command(flatten)]
        server: ServerArgs,
    }

    type Log = Arc<Mutex<Vec<(u64, String)>>>;

    /// Answers `get *` after `cost`, and a key at once. Logs requests with the second at which they came.
    async fn serve(io: DuplexStream, cost: Duration, begin: Instant, log: Log) {
        let (input, mut output) = split(io);
        let mut lines = BufReader::new(input).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "get *" || line == "get a1" {
                log.lock().unwrap().push((begin.elapsed().as_secs(), line.clone()));
            }
            let a = "a1 1.0 1\n";
            let records = if line == "get *" {
                tokio::time::sleep(cost).await;
                a.to_owned()
                    + &(0..MAX_HELD_POINTS).map(|n| format!("b {n} {n}\n")).collect::<String>()
            } else {
                a.to_owned()
            };
            // The client may have gone.
            let _ = output.write_all(format!("ok\n{records}\n").as_bytes()).await;
        }
    }

    /// Returns the requests of `reads` reads.
    async fn requests(pattern: &str, cost: Duration, reads: usize) -> Vec<(u64, String)> {
        let (log, begin) = (Log::default(), Instant::now());
        let connect = {
            let log = Arc::clone(&log);
            move |_| {
                let (io, peer) = duplex(1 << 20);
                tokio::spawn(serve(peer, cost, begin, Arc::clone(&log)));
                ready(Ok(io))
            }
        };
        let client = MetricsClient::builder("server:1").connector(connector_fn(connect));
        let client = client.connect().await.unwrap();
        let args = TestArgs::parse_from(["test"]);
        let selection = Selection::new(&[pattern]).unwrap();
        let mut poller = Poller::new(client, &args.server, &selection, Duration::from_secs(1));
        for _ in 0..reads {
            let mut samples = Vec::new();
            assert_eq!(poller.read(|sample| samples.push(sample)).await.unwrap().left_out, 0);
            assert!(samples.iter().any(|sample| sample.key == "a1"));
        }
        let log = log.lock().unwrap();
        log.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn fast_pattern_is_read_each_interval() {
        let requests = requests("a*", Duration::from_millis(10), 4).await;
        assert_eq!(requests, [0, 1, 2, 3].map(|second| (second, String::from("get *"))));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_pattern_is_read_rarely_and_its_keys_often() {
        let requests = requests("a*", Duration::from_secs(2), 20).await;
        let all = requests.iter().filter(|(_, line)| line == "get *").map(|(second, _)| *second);
        assert_eq!(all.collect::<Vec<_>>(), [0, 20]);
        let single =
            requests.iter().filter(|(_, line)| line == "get a1").map(|(second, _)| *second);
        let before = single.filter(|second| *second < 20);
        assert_eq!(before.collect::<Vec<_>>(), (3..20).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_pattern_of_most_points_is_only_read_rarely() {
        let requests = requests("*", Duration::from_secs(2), 3).await;
        assert_eq!(requests, [0, 20, 40].map(|second| (second, String::from("get *"))));
    }

    #[tokio::test(start_paused = true)]
    async fn key_is_read_without_all() {
        let requests = requests("a1", Duration::from_secs(2), 3).await;
        assert_eq!(requests, [0, 1, 2].map(|second| (second, String::from("get a1"))));
    }
}
