//! A task that puts and gets, and believes nothing that it cannot check.

use std::{collections::BTreeMap, future::Future, time::Duration};

use fastrand::Rng;
use metrics_client::{Delivery, Error, Metrics, MetricsClient, Sample};
use tokio::{join, select, time};

use crate::oracle::Oracle;

/// One task's puts: the `n`th has a value that says whose it is and which, and shares key and
/// second with the one beside it.
#[derive(Debug)]
pub(crate) struct Agent {
    client: MetricsClient,
    id: u32,
    rng: Rng,
    /// What is known of each put.
    puts: Vec<Known>,
    pub(crate) gets: u64,
}

/// What is known of a put.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Stored,
    NotSent,
    Nothing,
}

/// How long a call may take at the very most: a hang is much longer, a busy machine hopefully not.
const HANG: Duration = Duration::from_secs(10);

/// How many puts an agent may make; its values are this far apart from the next one's.
const MANY: u32 = 1_000_000;

const KEYS: usize = 3;

impl Agent {
    pub(crate) fn new(client: MetricsClient, id: u32, rng: Rng) -> Self {
        Self { client, id, rng, puts: Vec::new(), gets: 0 }
    }

    /// Makes one call, or a few, which may go wrong in any way but a wrong one.
    pub(crate) async fn call(&mut self) {
        let client = self.client.clone();
        match self.rng.u8(..12) {
            0..4 => {
                let put = self.next();
                let sample = self.sample(put);
                let result = self.patiently(put_sample(&client, &sample)).await;
                self.learn(put, result);
            }
            4 => {
                let (first, second) = (self.next(), self.next());
                let samples = [self.sample(first), self.sample(second)];
                let [a, b] = samples.each_ref().map(|sample| put_sample(&client, sample));
                let (a, b) = in_time(async { join!(biased; a, b) }).await;
                self.learn(first, Some(a));
                self.learn(second, Some(b));
            }
            5 => {
                let (first, second) = (self.next(), self.next());
                let samples = [self.sample(first), self.sample(second)];
                let [a, b] = samples.each_ref().map(|sample| put_sample(&client, sample));
                let (at, result) = in_time(async {
                    select! {
                        biased;
                        result = a => (first, result),
                        result = b => (second, result),
                    }
                })
                .await;
                self.learn(at, Some(result));
            }
            6 => self.put_all().await,
            7..11 => {
                let at = self.rng.usize(..KEYS);
                let key = self.key(at);
                self.gets += 1;
                let found = self.patiently(client.get(&key)).await;
                if let Some(metrics) = checked(found) {
                    assert!(metrics.keys().all(|found| *found == *key), "{metrics:?} for {key}");
                    self.check(&metrics);
                    self.check_stored(&key, |timestamp| {
                        let points = metrics.points(&key);
                        points.iter().find(|p| p.timestamp == timestamp).map(|p| p.value)
                    });
                }
            }
            _ => {
                self.gets += 1;
                let found = self.patiently(client.get_all()).await;
                if let Some(metrics) = checked(found) {
                    self.check(&metrics);
                }
            }
        }
    }

    /// Puts until it works.
    pub(crate) async fn recover(&mut self) {
        let works = async {
            loop {
                let put = self.next();
                let sample = self.sample(put);
                let result = put_sample(&self.client, &sample).await;
                let is_ok = result.is_ok();
                self.learn(put, Some(result));
                if is_ok {
                    break;
                }
                // It may have failed at once.
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(HANG, works).await.expect("the client does not work again");
    }

    /// Holds what it knows against what has happened.
    pub(crate) fn judge(&self, oracle: &Oracle) {
        for (put, known) in self.puts.iter().enumerate() {
            let value = self.value(put);
            let is_there = oracle.log.iter().any(|put| put.value == value);
            match known {
                Known::Stored => assert!(is_there, "put {put} of {} was acknowledged", self.id),
                Known::NotSent => assert!(!is_there, "put {put} of {} was not sent", self.id),
                Known::Nothing => {}
            }
        }
        for at in 0..KEYS {
            let key = self.key(at);
            let series = oracle.series.get(&key);
            self.check_stored(&key, |timestamp| series?.get(&timestamp).copied());
        }
    }

    /// How many puts it has made, and how many of them it knows to be stored.
    pub(crate) fn puts(&self) -> (u64, u64) {
        let stored = self.puts.iter().filter(|&&known| known == Known::Stored).count();
        (self.puts.len() as u64, stored as u64)
    }

    async fn put_all(&mut self) {
        let first = self.puts.len();
        let puts = (0..self.rng.usize(1..30)).map(|_| self.next()).collect::<Vec<_>>();
        let samples = puts.iter().map(|&put| self.sample(put)).collect::<Vec<_>>();
        let client = self.client.clone();
        let result = self.patiently(client.put_all(&samples)).await;
        let stored = match result {
            Some(Ok(())) => samples.len(),
            Some(Err(Error::Batch(batch))) => {
                assert_sound(batch.first_error().1);
                assert!(batch.acknowledged() >= batch.first_error().0, "{batch:?}");
                batch.first_error().0
            }
            Some(Err(error)) => panic!("{error:?}"),
            None => 0,
        };
        self.puts[first..first + stored].fill(Known::Stored);
    }

    /// Awaits the call, or leaves before it is over.
    async fn patiently<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        if self.rng.u8(..5) == 0 {
            let patience = Duration::from_micros(self.rng.u64(..10_000));
            return time::timeout(patience, call).await.ok();
        }
        Some(in_time(call).await)
    }

    fn next(&mut self) -> usize {
        self.puts.push(Known::Nothing);
        self.puts.len() - 1
    }

    fn learn(&mut self, put: usize, result: Option<Result<(), Error>>) {
        self.puts[put] = match result {
            Some(Ok(())) => Known::Stored,
            Some(Err(error)) => {
                assert_sound(&error);
                match error.delivery() {
                    Delivery::NotSent => Known::NotSent,
                    _ => Known::Nothing,
                }
            }
            None => Known::Nothing,
        };
    }

    fn sample(&self, put: usize) -> Sample {
        let second = put / 2;
        Sample::new(self.key(second % KEYS), self.value(put), second as i64).unwrap()
    }

    fn key(&self, at: usize) -> String {
        format!("agent{}.{at}", self.id)
    }

    fn value(&self, put: usize) -> f64 {
        f64::from(self.id * MANY + put as u32)
    }

    /// Each value stands where its put has put it, whoever's it is.
    fn check(&self, metrics: &Metrics) {
        for (key, points) in metrics {
            for point in points {
                let (id, put) = (point.value as u32 / MANY, point.value as u32 % MANY);
                let second = put as usize / 2;
                assert_eq!(*key, format!("agent{id}.{}", second % KEYS), "{point:?}");
                assert_eq!(point.timestamp, second as i64, "{point:?}");
                if id == self.id {
                    let known = self.puts.get(put as usize).expect("it was put");
                    assert_ne!(*known, Known::NotSent, "{point:?}");
                }
            }
        }
    }

    /// What was acknowledged is there, unless a later put of the same second has replaced it.
    fn check_stored(&self, key: &str, found: impl Fn(i64) -> Option<f64>) {
        let mut last = BTreeMap::new();
        for (put, _) in self.puts.iter().enumerate().filter(|&(_, &known)| known == Known::Stored) {
            let second = put / 2;
            if self.key(second % KEYS) == key {
                last.insert(second as i64, self.value(put));
            }
        }
        for (timestamp, value) in last {
            let found = found(timestamp);
            assert!(found.is_some_and(|found| found >= value), "{key}: {found:?}, not {value}");
        }
    }
}

async fn put_sample(client: &MetricsClient, sample: &Sample) -> Result<(), Error> {
    client.put_at(&sample.key, sample.point.value, sample.point.timestamp).await
}

async fn in_time<T>(call: impl Future<Output = T>) -> T {
    time::timeout(HANG, call).await.expect("a call outlived its deadline")
}

fn checked(found: Option<Result<Metrics, Error>>) -> Option<Metrics> {
    found?.inspect_err(assert_sound).ok()
}

/// The network may fail and the queue be full, but the server is sound, and so is what it was sent.
fn assert_sound(error: &Error) {
    match error {
        Error::Timeout { .. } | Error::QueueFull { .. } => {}
        Error::Connection { source: fault, .. } if !fault.is_protocol_violation() => {}
        error => panic!("{error:?}"),
    }
}
