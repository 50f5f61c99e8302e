//! A task that puts and gets, and checks everything that it gets.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use metrics_client::{Delivery, Error, Metrics, MetricsClient, Sample};
use tokio::time;

use crate::{
    oracle::Oracle,
    workload::{self, Call, Checker, put_sample},
};

/// One task's puts: the `n`th has a value that says whose it is and which, and shares key and
/// second with the one beside it.
#[derive(Debug)]
pub(crate) struct ChaosAgent {
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

impl ChaosAgent {
    pub(crate) fn new(client: MetricsClient, id: u32, rng: Rng) -> Self {
        Self { client, id, rng, puts: Vec::new(), gets: 0 }
    }

    /// Makes one call, or a few, which may fail only with errors that the network explains.
    pub(crate) async fn call(&mut self) {
        let keys = (0..KEYS).map(|at| self.key(at)).collect::<Vec<_>>();
        let call = Call::random(&mut self.rng, 30, keys);
        let client = self.client.clone();
        workload::make(call, &client, self).await;
    }

    /// Puts until a put succeeds.
    pub(crate) async fn recover(&mut self) {
        let works = async {
            loop {
                let (put, sample) = self.begin_put();
                let result = put_sample(&self.client, &sample).await;
                let is_ok = result.is_ok();
                self.end_put(put, Some(result));
                if is_ok {
                    break;
                }
                // It may have failed at once.
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(HANG, works).await.expect("the client does not work again");
    }

    /// Compares what it knows with what the server stored.
    pub(crate) fn check_stored_puts(&self, oracle: &Oracle) {
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

    /// Checks that each value has the key and second of its put, also for puts of other agents.
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

    /// Checks that acknowledged puts are stored, unless a later put of the same second replaced them.
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

impl Checker for ChaosAgent {
    type Put = usize;
    /// The key, unless it is a get of everything.
    type Get = Option<String>;

    fn begin_put(&mut self) -> (usize, Sample) {
        let put = self.puts.len();
        self.puts.push(Known::Nothing);
        (put, self.sample(put))
    }

    fn end_put(&mut self, put: usize, result: Option<Result<(), Error>>) {
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

    fn end_put_all(&mut self, puts: &[usize], result: Option<Result<(), Error>>) {
        let stored = match result {
            Some(Ok(())) => puts.len(),
            Some(Err(Error::Batch(batch))) => {
                assert_sound(batch.first_error().1);
                assert!(batch.acknowledged() >= batch.first_error().0, "{batch:?}");
                batch.first_error().0
            }
            Some(Err(error)) => panic!("put_all fails with {error:?}"),
            None => 0,
        };
        for &put in &puts[..stored] {
            self.puts[put] = Known::Stored;
        }
    }

    fn begin_get(&mut self, key: Option<&str>) -> Option<String> {
        self.gets += 1;
        key.map(str::to_owned)
    }

    fn end_get(&mut self, key: Option<String>, result: Option<Result<Metrics, Error>>) {
        let Some(metrics) = result.and_then(|result| result.inspect_err(assert_sound).ok()) else {
            return;
        };
        self.check(&metrics);
        if let Some(key) = key {
            assert!(metrics.keys().all(|found| *found == *key), "{metrics:?} for {key}");
            self.check_stored(&key, |timestamp| {
                let points = metrics.points(&key);
                points.iter().find(|p| p.timestamp == timestamp).map(|p| p.value)
            });
        }
    }

    async fn in_time<T: Send>(&mut self, call: impl Future<Output = T> + Send) -> T {
        time::timeout(HANG, call).await.expect("a call outlived its deadline")
    }

    async fn patiently<T: Send>(
        &mut self,
        _: u32,
        call: impl Future<Output = T> + Send,
    ) -> Option<T> {
        if self.rng.u8(..5) == 0 {
            let patience = Duration::from_micros(self.rng.u64(..10_000));
            return time::timeout(patience, call).await.ok();
        }
        Some(self.in_time(call).await)
    }
}

/// The network may fail and the queue be full, but the server is sound, and so is what it was sent.
fn assert_sound(error: &Error) {
    match error {
        Error::Timeout { .. } | Error::QueueFull { .. } => {}
        Error::Connection { source: fault, .. } if !fault.is_protocol_violation() => {}
        error => panic!("{error:?}"),
    }
}
