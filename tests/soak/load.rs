//! Callers that make one call after another, and peers that misbehave.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fastrand::Rng;
use metrics_client::{
    Error, Metrics, MetricsClient, Sample,
    client::{Pipelining, WhenFull},
};
use tokio::{
    io::AsyncWriteExt,
    join,
    net::TcpSocket,
    time::{self, Instant},
};

use crate::world::{Clients, HANG, Harness, KEYS, SECONDS, impatient, key, value};

/// What callers have seen so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) calls: AtomicU64,
    /// Calls that the bad network made fail.
    pub(crate) failed: AtomicU64,
    /// Calls whose futures were dropped before their end.
    pub(crate) dropped: AtomicU64,
    /// Clients that came and went.
    pub(crate) clients: AtomicU64,
    /// Peers that did not behave.
    pub(crate) misbehaving: AtomicU64,
}

/// One caller.
pub(crate) struct Caller {
    clients: Clients,
    /// Whether it uses the client that may not fail.
    is_direct: bool,
    server: SocketAddr,
    proxy: SocketAddr,
    rng: Rng,
    tally: &'static Tally,
}

/// How many callers there are; every other one uses the client that may not fail.
pub(crate) const CALLERS: usize = 16;

/// How long a caller waits between two calls, at most.
const PAUSE: Duration = Duration::from_millis(200);

impl Caller {
    pub(crate) fn new(number: usize, world: &Harness, rng: Rng, tally: &'static Tally) -> Self {
        let is_direct = number.is_multiple_of(2);
        let (clients, server, proxy) = (world.clients.clone(), world.server, world.proxy.address);
        Self { clients, is_direct, server, proxy, rng, tally }
    }

    /// Calls, until it is time to stop.
    pub(crate) async fn call_until(mut self, end: Instant) {
        while Instant::now() < end {
            time::timeout(HANG, self.step()).await.expect("a call never ends");
            time::sleep(PAUSE.mul_f64(self.rng.f64())).await;
        }
    }

    async fn step(&mut self) {
        match self.rng.u8(..20) {
            0 => self.churn().await,
            1 => self.misbehave().await,
            2 | 3 => self.stream().await,
            4..8 => {
                // Some of these are over before the patience is.
                let patience = Duration::from_micros(self.rng.u64(..5000));
                let client = self.client();
                let call = call(&client, &mut self.rng, self.tally);
                match time::timeout(patience, call).await {
                    Ok(outcome) => self.check_outcome(outcome),
                    Err(_) => count(&self.tally.dropped),
                }
            }
            _ => {
                let client = self.client();
                let outcome = call(&client, &mut self.rng, self.tally).await;
                self.check_outcome(outcome);
            }
        }
    }

    fn client(&mut self) -> MetricsClient {
        if self.is_direct {
            return self.clients.direct.clone();
        }
        self.rng.choice(&self.clients.disturbed).expect("there are some").clone()
    }

    fn check_outcome(&self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            assert!(!self.is_direct, "nothing is in this client's way but restarts: {error:?}");
            self.check_error(&error);
        }
    }

    /// The network may fail, but the server is sound.
    fn check_error(&self, error: &Error) {
        count(&self.tally.failed);
        let error = if let Error::Batch(batch) = error { batch.first_error().1 } else { error };
        match error {
            Error::Timeout { .. } | Error::QueueFull { .. } | Error::Connect { .. } => {}
            Error::Connection { source: fault, .. } if !fault.is_protocol_violation() => {}
            _ => panic!("{error:?}"),
        }
    }

    /// Reads everything, or leaves in the middle.
    async fn stream(&mut self) {
        count(&self.tally.calls);
        let client = self.client();
        let all = KEYS * SECONDS as usize;
        let wanted = if self.rng.bool() { all + 1 } else { self.rng.usize(..all) };
        let mut samples = match client.stream("*").await {
            Ok(samples) => samples,
            // It has a connection of its own, which a restart of the server may end.
            Err(error) => return self.check_error(&error),
        };
        let mut seen = 0;
        while seen < wanted {
            match samples.next().await {
                Some(Ok(_)) => seen += 1,
                Some(Err(error)) => return self.check_error(&error),
                None => {
                    assert_eq!(seen, all, "a stream ended early, and said nothing");
                    return;
                }
            }
        }
        assert!(seen < all, "a stream of more than there is");
        count(&self.tally.dropped);
    }

    /// A client that is made, used a little, and closed or only dropped.
    async fn churn(&mut self) {
        count(&self.tally.clients);
        let pipelining = if self.rng.bool() { Pipelining::Auto } else { Pipelining::On };
        // A name, which is resolved on a thread beside the runtime's.
        let address = format!("localhost:{}", self.proxy.port());
        let client = impatient(address, pipelining, WhenFull::Wait);
        let mut other = self.rng.fork();
        let (first, second) =
            join!(call(&client, &mut self.rng, self.tally), call(&client, &mut other, self.tally));
        for error in [first, second].into_iter().filter_map(Result::err) {
            self.check_error(&error);
        }
        if self.rng.bool() {
            let _ = client.close().await;
        }
    }

    /// A peer that sends half a line, or asks and never reads, and stays until it is disconnected or has
    /// had enough.
    async fn misbehave(&mut self) {
        count(&self.tally.misbehaving);
        let socket = TcpSocket::new_v4().unwrap();
        // Else the kernel buffers megabytes of answers before the server notices that they are not read.
        socket.set_recv_buffer_size(4096).unwrap();
        let Ok(mut peer) = socket.connect(self.server).await else { return };
        let requests =
            if self.rng.bool() { "put half a li".into() } else { "get *\n".repeat(2000) };
        let patience = Duration::from_millis(self.rng.u64(..2000));
        let _ = time::timeout(patience, async {
            // Fails when the server has had enough.
            let _ = peer.write_all(requests.as_bytes()).await;
            time::sleep(patience).await;
        })
        .await;
    }
}

/// Puts or gets, and looks at what it is given.
async fn call(client: &MetricsClient, rng: &mut Rng, tally: &Tally) -> Result<(), Error> {
    count(&tally.calls);
    let at = rng.usize(..KEYS);
    match rng.u8(..8) {
        0..4 => {
            let (part, second) = (rng.f64(), rng.i64(0..SECONDS));
            client.put_at(key(at), value(at, part), second).await
        }
        4 => {
            let samples = (0..rng.i64(1..=SECONDS))
                .map(|second| Sample::new(key(at), value(at, rng.f64()), second).unwrap());
            client.put_all(samples.collect::<Vec<_>>()).await
        }
        5 | 6 => client.get(key(at)).await.map(|metrics| check(&metrics, at..=at)),
        _ => client.get_all().await.map(|metrics| check(&metrics, 0..=KEYS - 1)),
    }
}

/// No call gets the answer of another: the keys are those asked for, each with every second, and
/// each value is its key's.
fn check(metrics: &Metrics, keys: std::ops::RangeInclusive<usize>) {
    assert_eq!(metrics.keys().count(), keys.clone().count(), "{metrics:?}");
    for at in keys {
        let points = metrics.points(&key(at));
        assert!(points.iter().map(|point| point.timestamp).eq(0..SECONDS), "{at} in {metrics:?}");
        assert!(points.iter().all(|point| point.value.floor() == at as f64), "{at}: {points:?}");
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
