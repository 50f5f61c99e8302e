//! The samples and requests that every candidate sends.

use std::{error::Error, future::Future, io::Write};

use bytes::BytesMut;
use metrics_client::{
    Key, Point, Sample,
    codec::{Response, ServerCodec},
    error::InvalidKey,
};
use tokio::task::JoinSet;
use tokio_util::codec::Encoder;

use super::{
    cost::{Cost, Stopwatch},
    mode::Mode,
    values::reading,
};

/// The key of every single put.
pub(crate) const KEY: &str = "palm.cpu";

/// How many samples a bulk put has, and how many records a large answer.
pub(crate) const RECORDS: usize = KEYS * POINTS;

/// How many keys an agent has.
pub(crate) const KEYS: usize = 1_000;

const POINTS: usize = 1_000;
const FIRST_SECOND: i64 = 1_150_864_247;

/// The callers that share one connection.
pub(crate) const CALLERS: [usize; 4] = [1, 8, 64, 1024];

/// Reads [`KEYS`] sensors each second.
#[derive(Debug)]
pub(crate) struct Agent {
    keys: Vec<Key>,
    second: usize,
    value: fn(u64) -> f64,
}

impl Agent {
    pub(crate) fn new(value: fn(u64) -> f64) -> Result<Self, InvalidKey> {
        let keys = (0..KEYS).map(|host| Key::new(format!("rack{host:03}.cpu.user")));
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, second: 0, value })
    }

    /// The samples of the next `seconds`: of each second one of every key.
    pub(crate) fn samples(&mut self, seconds: usize) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(seconds * KEYS);
        for second in (self.second..).take(seconds) {
            samples.extend((0..KEYS).map(|sensor| self.sample(sensor, second)));
        }
        self.second += seconds;
        samples
    }

    fn sample(&self, sensor: usize, second: usize) -> Sample {
        let value = (self.value)((second * KEYS + sensor) as u64);
        let point = Point::new(value, FIRST_SECOND + second as i64);
        Sample { key: self.keys[sensor].clone(), point }
    }
}

/// The first [`RECORDS`] samples of an agent.
pub(crate) fn samples(value: fn(u64) -> f64) -> Result<Vec<Sample>, InvalidKey> {
    Ok(Agent::new(value)?.samples(POINTS))
}

/// The answer to `get *` of a server that stores [`samples`].
pub(crate) fn answer(value: fn(u64) -> f64) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut answer = BytesMut::new();
    let metrics = samples(value)?.into_iter().collect();
    ServerCodec::default().encode(Response::Ok(metrics), &mut answer)?;
    Ok(answer.into())
}

/// Returns `puts` puts of [`KEY`], as sent over a connection.
pub(crate) fn put_text(puts: usize) -> Vec<u8> {
    let line = |number| format!("put {KEY} {} {FIRST_SECOND}\n", reading(number));
    (0..puts as u64).map(line).collect::<String>().into()
}

/// How many seconds of an agent's samples a large store holds: 10 M points in all, fewer where a
/// bench is to be quick, and few where it is only to be seen to work.
pub(crate) fn stored_seconds() -> usize {
    match Mode::current() {
        Mode::Test => 10,
        Mode::Quick => 1_000,
        Mode::Full => 10_000,
    }
}

/// The answer to `get *` of a server that stores [`stored_seconds`] of an agent's samples.
pub(crate) fn stored_answer(value: fn(u64) -> f64) -> Result<Vec<u8>, Box<dyn Error>> {
    let agent = Agent::new(value)?;
    let mut answer = Vec::from(b"ok\n");
    for sensor in 0..KEYS {
        for second in 0..stored_seconds() {
            writeln!(answer, "{}", agent.sample(sensor, second))?;
        }
    }
    answer.push(b'\n');
    Ok(answer)
}

/// How long [`stored_answer`] is: its records all have the same length.
pub(crate) fn stored_answer_len(value: fn(u64) -> f64) -> Result<usize, InvalidKey> {
    let record = Agent::new(value)?.sample(0, 0).to_string().len() + b"\n".len();
    Ok(b"ok\n".len() + stored_seconds() * KEYS * record + b"\n".len())
}

/// A client that can put.
pub(crate) trait Put: Send + 'static {
    /// Puts `value`, and waits until it is acknowledged.
    fn put(&mut self, value: f64) -> impl Future<Output = ()> + Send;
}

/// What `puts` cost by one caller.
pub(crate) async fn put_alone(client: &mut impl Put, puts: u64) -> Cost {
    let clock = Stopwatch::start();
    for number in 0..puts {
        client.put(reading(number)).await;
    }
    clock.stop()
}

/// What `puts` cost in all by `callers`, of which each awaits every one of its own.
pub(crate) async fn put_by(client: &(impl Put + Clone), callers: usize, puts: u64) -> Cost {
    let callers = callers as u64;
    let clock = Stopwatch::start();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let mut client = client.clone();
        tasks.spawn(async move {
            for number in (caller..puts).step_by(callers as usize) {
                client.put(reading(number)).await;
            }
        });
    }
    while let Some(caller) = tasks.join_next().await {
        caller.expect("each put is acknowledged");
    }
    clock.stop()
}
