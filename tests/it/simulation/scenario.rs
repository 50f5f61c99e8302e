//! One client of a simulation: its settings, and its life from the first call to its end.

use std::time::Duration;

use metrics_client::{
    MetricsClient,
    client::{ConnectionState, Pipelining, ReconnectPolicy, WhenFull},
};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    network::{Dialer, NAME, PORT, SERVERS, SimNetwork},
    workload::{SimAgent, TOLERANCE, Tally, adds_up},
};

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// Whether it knows the servers by their own names, and not by the one that leads to any of them.
    pub(super) has_list: bool,
    pub(super) request_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) stall_timeout: Duration,
    /// The ceilings of the first wait and of the longest before the client dials again.
    pub(super) backoff: (Duration, Duration),
    pub(super) pipelining: Pipelining,
    pub(super) max_in_flight: usize,
    pub(super) max_buffered_bytes: usize,
    pub(super) fails_when_full: bool,
    pub(super) retry: bool,
    pub(super) agents: usize,
    /// When it is closed in the middle of everything, if it is.
    pub(super) close_at: Option<Duration>,
    /// Until when things go wrong.
    pub(super) faults: Duration,
}

/// What dialling, asking, and waiting for a few others takes at most while nothing is wrong.
const ROUND_TRIPS: Duration = Duration::from_millis(300);

/// How long the client gives a connection to be shut down on which everything is answered.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The least that a client takes.
const SHORTEST_STALL: Duration = Duration::from_millis(200);

impl Scenario {
    pub(super) fn new(faults: Duration) -> Self {
        let millis = |range| Duration::from_millis(fastrand::u64(range));
        let request_timeout = millis(100..1000);
        let pipelining = [Pipelining::Auto, Pipelining::On, Pipelining::Off];
        let first = millis(1..100);
        Self {
            has_list: fastrand::bool(),
            request_timeout,
            connect_timeout: millis(50..1000),
            stall_timeout: request_timeout.mul_f64(0.3 + 1.7 * fastrand::f64()).max(SHORTEST_STALL),
            backoff: (first, first + millis(0..400)),
            pipelining: pipelining[fastrand::usize(..3)],
            max_in_flight: [1, 2, 7, 4096][fastrand::usize(..4)],
            max_buffered_bytes: [0, 100, 1000, 1 << 20][fastrand::usize(..4)],
            fails_when_full: fastrand::bool(),
            retry: fastrand::u8(..4) > 0,
            agents: fastrand::usize(1..=4),
            close_at: (fastrand::u8(..6) == 0).then(|| faults.mul_f64(fastrand::f64())),
            faults,
        }
    }

    fn build(&self, world: SimNetwork, client: usize) -> MetricsClient {
        let names = if self.has_list { &SERVERS[..] } else { &[NAME] };
        let servers = names.iter().map(|name| (*name, PORT)).collect::<Vec<_>>();
        MetricsClient::builder(servers)
            .connector(Dialer { world, client })
            .request_timeout(self.request_timeout)
            .connect_timeout(self.connect_timeout)
            .stall_timeout(self.stall_timeout)
            .reconnect(ReconnectPolicy::backoff(self.backoff.0, self.backoff.1))
            .pipelining(self.pipelining)
            .max_in_flight(self.max_in_flight)
            .max_buffered_bytes(self.max_buffered_bytes)
            .when_full(if self.fails_when_full { WhenFull::Fail } else { WhenFull::Wait })
            .resend_unacknowledged(self.retry)
            .connect_lazy()
            .unwrap()
    }

    /// Lives one client's life.
    pub(super) async fn live(self, world: SimNetwork, id: usize) -> turmoil::Result {
        let client = self.build(world.clone(), id);
        let agent = |agent| SimAgent {
            client: client.clone(),
            id: (id, agent),
            plan: self.clone(),
            history: world.history.clone(),
            tally: Tally::default(),
        };
        let agents = (0..self.agents).map(|at| agent(at).work()).collect::<JoinSet<_>>();
        let mut own = agent(self.agents);
        if let Some(at) = self.close_at {
            until(at).await;
            self.close(&client, &world, id).await;
        } else {
            until(self.faults + TOLERANCE).await;
            let state = client.state();
            let is_asking = world.history.lock().unwrap().kept(id).next().is_some();
            own.recover(self.recovery_time(state, is_asking)).await;
        }
        let tallies = [vec![own.tally], agents.join_all().await].concat();
        drop(own);
        self.check_stats(&client, &world, &tallies);
        if self.close_at.is_none() {
            self.end(client, &world, id).await;
        }
        let history = &mut *world.history.lock().unwrap();
        let kept = history.kept(id).next();
        if let Some(address) = kept {
            history.violation(format_args!("client {id} is closed, and keeps {address}"));
        }
        Ok(())
    }

    /// How long after all faults the client works again at the latest: it finds out what has become
    /// of the connection that it has or is making, if any, and waits once before it dials. While it looks
    /// for a request at which the server closes, it is still connecting when it `is_asking` the server
    /// something first, and that answer may take as long as any.
    fn recovery_time(&self, state: ConnectionState, is_asking: bool) -> Duration {
        let finding_out = match state {
            ConnectionState::Connected => self.stall_timeout,
            ConnectionState::Connecting if is_asking => self.stall_timeout,
            ConnectionState::Connecting => self.connect_timeout,
            _ => Duration::ZERO,
        };
        // A round of the list passes the servers that are gone, and may be under way when that one comes back.
        let rounds = if self.has_list {
            2 * (self.connect_timeout + self.backoff.1)
        } else {
            Duration::ZERO
        };
        finding_out + self.backoff.1 + rounds + ROUND_TRIPS
    }

    /// Closes explicitly, or by dropping the last handle.
    async fn end(&self, client: MetricsClient, world: &SimNetwork, id: usize) {
        if fastrand::bool() {
            self.close(&client, world, id).await;
            return;
        }
        let mut state = client.watch_state();
        drop(client);
        let limit = SHUTDOWN + TOLERANCE;
        let closed = state.wait_for(|state| state == ConnectionState::Closed);
        if time::timeout(limit, closed).await.is_err() {
            let violation = format!("client {id} has no handle, and is not closed after {limit:?}");
            world.history.lock().unwrap().violation(violation);
        }
    }

    async fn close(&self, client: &MetricsClient, world: &SimNetwork, id: usize) {
        world.history.lock().unwrap().note(format_args!("client {id} closes"));
        let begun = Instant::now();
        // Each call that failed has returned its error.
        let _ = client.close().await;
        let (taken, limit) = (begun.elapsed(), self.request_timeout + SHUTDOWN + TOLERANCE);
        let state = client.state();
        if taken > limit || state != ConnectionState::Closed {
            let violation = format!("client {id} is {state:?} {taken:?} after it was closed");
            world.history.lock().unwrap().violation(violation);
        }
    }

    /// Every request has one outcome, and it is the one that its caller got.
    fn check_stats(&self, client: &MetricsClient, world: &SimNetwork, tallies: &[Tally]) {
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
        let stats = client.stats();
        let other = sum(|tally| tally.other);
        let is_told = |counted: u64, told: u64| (told..=told + other).contains(&counted);
        let is_true = adds_up(&stats)
            && (stats.in_flight, stats.queued) == (0, 0)
            && is_told(stats.acknowledged, sum(|tally| tally.acknowledged))
            && is_told(stats.rejected, sum(|tally| tally.rejected))
            && is_told(stats.failed, sum(|tally| tally.failed))
            && stats.cancelled <= other
            && stats.accepted <= sum(|tally| tally.made);
        if !is_true {
            let violation = format!("{stats:?} of {tallies:?}");
            world.history.lock().unwrap().violation(violation);
        }
    }
}

/// Waits until the simulation has run for so long.
async fn until(at: Duration) {
    let now = turmoil::sim_elapsed().unwrap_or_default();
    time::sleep(at.saturating_sub(now)).await;
}
