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

use crate::{
    workload::{self, Call, Checker},
    world::{Clients, HANG, Harness, KEYS, SECONDS, impatient, key, value},
};

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

/// The calls of one caller to one client.
struct Calls {
    /// Whether the network of the client is bad.
    may_fail: bool,
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
            _ => {
                let client = self.client();
                let mut calls = self.calls(!self.is_direct);
                calls.call(&client).await;
            }
        }
    }

    fn calls(&mut self, may_fail: bool) -> Calls {
        Calls { may_fail, rng: self.rng.fork(), tally: self.tally }
    }

    fn client(&mut self) -> MetricsClient {
        if self.is_direct {
            return self.clients.direct.clone();
        }
        self.rng.choice(&self.clients.disturbed).expect("there are some").clone()
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
            Err(error) => return self.tally.check_error(&error),
        };
        let mut seen = 0;
        while seen < wanted {
            match samples.next().await {
                Some(Ok(_)) => seen += 1,
                Some(Err(error)) => return self.tally.check_error(&error),
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
        let (mut first, mut second) = (self.calls(true), self.calls(true));
        join!(first.call(&client), second.call(&client));
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

impl Calls {
    /// Makes one call.
    async fn call(&mut self, client: &MetricsClient) {
        count(&self.tally.calls);
        let call = Call::random(&mut self.rng, SECONDS as usize, (0..KEYS).map(key));
        workload::make(call, client, self).await;
    }

    /// Counts a call that failed or was dropped, and returns the result of any other.
    fn check_outcome<T>(&self, outcome: Option<Result<T, Error>>) -> Option<T> {
        match outcome {
            Some(Ok(value)) => return Some(value),
            Some(Err(error)) => {
                assert!(self.may_fail, "only restarts disturb this client: {error:?}");
                self.tally.check_error(&error);
            }
            None => count(&self.tally.dropped),
        }
        None
    }
}

impl Checker for Calls {
    /// All puts are alike: each replaces a value of its key.
    type Put = ();
    /// The key, unless it is a get of everything.
    type Get = Option<String>;

    fn begin_put(&mut self) -> ((), Sample) {
        let (at, second) = (self.rng.usize(..KEYS), self.rng.i64(0..SECONDS));
        ((), Sample::new(key(at), value(at, self.rng.f64()), second).unwrap())
    }

    fn end_put(&mut self, (): (), result: Option<Result<(), Error>>) {
        self.check_outcome(result);
    }

    fn end_put_all(&mut self, _: &[()], result: Option<Result<(), Error>>) {
        self.check_outcome(result);
    }

    fn begin_get(&mut self, key: Option<&str>) -> Option<String> {
        key.map(str::to_owned)
    }

    /// No call gets the answer of another: the keys are those asked for, each with every second, and
    /// each value is its key's.
    fn end_get(&mut self, asked: Option<String>, result: Option<Result<Metrics, Error>>) {
        let Some(metrics) = self.check_outcome(result) else { return };
        let keys = (0..KEYS).filter(|&at| asked.as_ref().is_none_or(|asked| *asked == key(at)));
        assert_eq!(metrics.keys().count(), keys.clone().count(), "{metrics:?}");
        for at in keys {
            let points = metrics.points(&key(at));
            let seconds = points.iter().map(|point| point.timestamp);
            assert!(seconds.eq(0..SECONDS), "{at} in {metrics:?}");
            assert!(
                points.iter().all(|point| point.value.floor() == at as f64),
                "{at}: {points:?}"
            );
        }
    }

    async fn in_time<T: Send>(&mut self, call: impl Future<Output = T> + Send) -> T {
        time::timeout(HANG, call).await.expect("a call never ends")
    }

    async fn patiently<T: Send>(
        &mut self,
        _: u32,
        call: impl Future<Output = T> + Send,
    ) -> Option<T> {
        if self.rng.u8(..4) == 0 {
            // Some calls end earlier.
            let patience = Duration::from_micros(self.rng.u64(..5000));
            return time::timeout(patience, call).await.ok();
        }
        Some(self.in_time(call).await)
    }
}

impl Tally {
    /// Counts a failed call. The network may fail, but the server is sound.
    fn check_error(&self, error: &Error) {
        count(&self.failed);
        let error = if let Error::Batch(batch) = error { batch.first_error().1 } else { error };
        match error {
            Error::Timeout { .. } | Error::QueueFull { .. } | Error::Connect { .. } => {}
            Error::Connection { source: fault, .. } if !fault.is_protocol_violation() => {}
            _ => panic!("{error:?}"),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
