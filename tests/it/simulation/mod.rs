//! Clients and servers on a simulated network, repeatable from a seed.

use std::{
    env, panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use metrics_server::Limits;

use self::{
    fault_injector::{FaultInjector, LATENCY},
    history::VIOLATION,
    network::{SERVERS, SimNetwork},
    scenario::Scenario,
};

mod failover;
mod fault_injector;
mod history;
mod network;
mod scenario;
mod store;
mod workload;

/// How many simulations are run, unless this variable says otherwise.
const SIMULATIONS: (&str, u64) = ("METRICS_TEST_SIMULATIONS", 40);

/// The seed of the first, instead of a new one each time.
const SEED: &str = "METRICS_TEST_SIMULATION_SEED";

/// How many of the last events a failure tells, unless it is the only simulation: then all.
const EVENTS: usize = 40;

/// How often messages are delivered. Half of it takes twice as long to simulate.
const TICK: Duration = Duration::from_millis(2);

#[test]
fn guarantees_hold_on_a_simulated_network() {
    let count = number(SIMULATIONS.0).unwrap_or(SIMULATIONS.1);
    let first = first_seed();
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let work = || loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            let seed = first.wrapping_add(at);
            // The seed is printed also after a panic.
            let result = panic::catch_unwind(|| simulate(seed)).unwrap_or_else(|_| Err(vec![]));
            if let Err(log) = result {
                // One failure is enough: the others stop too.
                next.store(count, Ordering::Relaxed);
                let from = if count == 1 { 0 } else { log.len().saturating_sub(EVENTS) };
                let violations = log[..from].iter().filter(|line| line.contains(VIOLATION));
                let told = violations.chain(&log[from..]).map(String::as_str).collect::<Vec<_>>();
                panic!("{SEED}={seed} {}=1\n{}", SIMULATIONS.0, told.join("\n"));
            }
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let workers = (0..workers).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        for worker in workers {
            if let Err(failure) = worker.join() {
                panic::resume_unwind(failure);
            }
        }
    });
}

#[test]
fn simulation_repeats_with_the_same_seed() {
    let first = first_seed();
    let mut events = 0;
    for seed in (0..4).map(|at| first.wrapping_add(at)) {
        let run = || thread::spawn(move || simulate(seed)).join().unwrap();
        let (once, again) = (run(), run());
        let (Ok(once) | Err(once), Ok(again) | Err(again)) = (once, again);
        let parting = once.iter().zip(&again).find(|(once, again)| once != again);
        assert_eq!(parting, None, "{SEED}={seed}");
        assert_eq!(once.len(), again.len(), "{SEED}={seed}");
        events += once.len();
    }
    assert!(events > 100, "only {events} events from {SEED}={first} on");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

fn first_seed() -> u64 {
    number(SEED).unwrap_or_else(|| fastrand::u64(..u64::from(u32::MAX)))
}

/// Simulates some clients and servers, and returns what happened; as an error if something did that
/// must not.
fn simulate(seed: u64) -> Result<Vec<String>, Vec<String>> {
    // Also for the client's own jitter: a simulation has its thread to itself.
    fastrand::seed(seed);
    let segment = [5, 60, 1400, 100_000][fastrand::usize(..4)];
    let faults = Duration::from_millis(fastrand::u64(1000..5000));
    let world = SimNetwork::new(segment, faults);
    let mut sim = turmoil::Builder::new();
    sim.rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(faults + Duration::from_secs(60))
        .max_message_latency(LATENCY);
    if fastrand::bool() {
        sim.enable_random_order();
    }
    let mut sim = sim.build();

    let limits = Limits::default()
        .idle_timeout(Duration::from_millis([200, 600_000][fastrand::usize(..2)]))
        .max_unsent_bytes([1, 300, 128 * 1024][fastrand::usize(..3)]);
    for server in SERVERS {
        let world = world.clone();
        sim.host(server, move || world.clone().serve(limits));
    }
    let plans = (0..fastrand::usize(1..=3)).map(|_| Scenario::new(faults)).collect::<Vec<_>>();
    let clients = (0..plans.len()).map(|id| format!("client{id}")).collect::<Vec<_>>();
    for (id, plan) in plans.iter().enumerate() {
        world.history.lock().unwrap().note(format_args!("client {id}: {plan:?}"));
        sim.client(&*clients[id], plan.clone().live(world.clone(), id));
    }
    let mut weather = FaultInjector::new(world.clone(), clients, faults);
    world.history.lock().unwrap().note(weather.kinds());
    let end = loop {
        weather.pass(&mut sim);
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
    };

    let mut history = world.history.lock().unwrap();
    if let Err(error) = end {
        history.violation(error);
    }
    history.judge(&plans.iter().map(|plan| plan.retry).collect::<Vec<_>>());
    let reading = world.store.everything().now_or_never();
    let found = reading.expect("the store does not wait").unwrap();
    let stored = history.series(&found);
    if stored != history.stored {
        history.violation(format_args!("the store has {stored:?}"));
    }
    let log = std::mem::take(&mut history.log);
    if history.violations.is_empty() { Ok(log) } else { Err(log) }
}
