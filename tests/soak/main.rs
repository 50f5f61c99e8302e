//! A long time of mixed load with faults, after which memory, file descriptors, tasks and threads
//! must be what they were before.
//!
//! A program of its own, for what it counts is counted for a process. `METRICS_TEST_SOAK_SECONDS` says how
//! long; without it nothing runs, so that `cargo test` of a user is short.

// `unwrap` is how a test says that something must hold.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    env, panic,
    process::{self, ExitCode},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tokio::{runtime::Handle, task::JoinSet, time};

use self::{
    load::{CALLERS, Caller, Tally},
    usage::Usage,
    world::{HANG, Harness},
};

mod load;
#[path = "../it/chaos/proxy.rs"]
mod proxy;
mod usage;
#[path = "../it/workload.rs"]
mod workload;
mod world;

/// The variable that says how long the load lasts, in seconds. Without it the soak is skipped.
const SECONDS: &str = "METRICS_TEST_SOAK_SECONDS";

/// The load before memory is measured for the first time: a quarter of the whole, up to this.
const WARM_UP: Duration = Duration::from_secs(120);

/// How often the server restarts.
const RESTART: Duration = Duration::from_secs(5);

const REPORT: Duration = Duration::from_secs(60);

/// How much more memory may be resident at the end, in KiB. Buffers that happen to be larger, and
/// pages that the allocator has not given back; what leaks with each call is far more in an hour.
const ALLOWANCE: usize = 4 * 1024;

fn main() -> ExitCode {
    if env::args().skip(1).any(|filter| !filter.starts_with('-') && !"soak".contains(&*filter)) {
        return ExitCode::SUCCESS;
    }
    let is_ci = env::var_os("CI").is_some();
    if !cfg!(target_os = "linux") {
        eprintln!("\nSKIPPED: the soak: it counts what it holds in Linux's /proc\n");
        return if is_ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let seconds = match env::var(SECONDS).as_deref().map(str::parse) {
        Err(_) => {
            println!("soak: skipped; {SECONDS}=15 runs it for that long");
            return ExitCode::SUCCESS;
        }
        Ok(Ok(seconds)) => seconds,
        Ok(Err(error)) => {
            eprintln!("soak: {SECONDS} is not a number of seconds: {error}");
            return ExitCode::from(2);
        }
    };
    // A panic in any task ends the program, also in a task that is never joined.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tell(info);
        process::exit(101);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // The threads that resolve names are gone soon after.
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(soak(Duration::from_secs(seconds))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("soak: FAILED: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(time: Duration) -> Result<(), String> {
    let mut rng = Rng::new();
    let tally: &'static Tally = Box::leak(Box::default());
    let nothing = now();
    let mut world = Harness::new(&mut rng).await;
    let at_rest = world.at_rest(&nothing);

    run(&mut world, WARM_UP.min(time / 4), &mut rng, tally).await;
    let before = settle(at_rest, "after the warm-up").await?;
    println!("soak: before: {before}");
    run(&mut world, time, &mut rng, tally).await;
    let after = settle(at_rest, "after the load").await?;
    println!("soak: after: {after}, with {}", tally.line());
    if after.resident > before.resident + ALLOWANCE {
        return Err(format!("memory has grown from {before} to {after}"));
    }
    world.end().await;
    settle(nothing, "when everything is closed").await?;
    Ok(())
}

/// Loads the world for so long, and lets it come to rest.
async fn run(world: &mut Harness, time: Duration, rng: &mut Rng, tally: &'static Tally) {
    let begin = Instant::now();
    world.proxy.set_calm(false);
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::new(number, world, rng.fork(), tally);
        callers.spawn(caller.call_until((begin + time).into()));
    }
    let mut restart = time::interval(RESTART);
    let mut report = time::interval(REPORT);
    restart.reset();
    report.reset();
    loop {
        tokio::select! {
            ended = callers.join_next() => match ended {
                Some(ended) => ended.unwrap(),
                None => break,
            },
            _ = restart.tick() => world.restart().await,
            _ = report.tick() => {
                println!("soak: {:?}: {}; {}", begin.elapsed(), now(), tally.line());
            }
        }
    }
    world.calm_down().await;
}

/// Waits until nothing is held but what is due, and says what is held then.
async fn settle(due: Usage, when: &str) -> Result<Usage, String> {
    let begin = Instant::now();
    loop {
        let now = now();
        if now.is_alike(&due) {
            return Ok(now);
        }
        if begin.elapsed() > HANG {
            return Err(format!(
                "{when}, {now} are held, but {} fds, {} tasks, {} threads are due",
                due.fds, due.tasks, due.threads
            ));
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

fn now() -> Usage {
    Usage::now(&Handle::current()).unwrap()
}

impl Tally {
    fn line(&self) -> String {
        let Self { calls, failed, dropped, clients, misbehaving } = self;
        format!(
            "{} calls, {} failed, {} dropped; {} clients came and went, {} peers misbehaved",
            calls.load(Relaxed),
            failed.load(Relaxed),
            dropped.load(Relaxed),
            clients.load(Relaxed),
            misbehaving.load(Relaxed)
        )
    }
}
