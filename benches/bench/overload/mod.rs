//! Thousands of hostile peers, a server with its limits at their defaults, and an honest client: how
//! much memory the server needs, and how fast the client still is.
//!
//! It fails where the server holds more than it may, writes too many lines to its log, or leaves the
//! client without an answer, or in a full run with too little of its rate. Memory is read from `/proc`,
//! so this runs on Linux only.

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use attack::Attack;
use metrics_client::{MetricsClient, Sample, client::Pipelining, tls::TlsConnector};
use tokio::runtime::{Builder, Runtime};

use crate::support::{
    memory::Memory,
    mode::Mode,
    server_process::{Behavior, CERTIFICATE, ServerProcess, is_store_on_disk},
};

mod attack;

/// Runs the attacks that are named, or all.
pub(crate) fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let scale = match Mode::current() {
        Mode::Test => AttackScale { peers: 200, time: Duration::from_millis(1000) },
        Mode::Quick => AttackScale { peers: 2_000, time: Duration::from_secs(2) },
        Mode::Full => AttackScale { peers: 10_000, time: Duration::from_secs(60) },
    };
    // Before a server is started, which inherits it.
    let needed = scale.peers as u64 + 200;
    let allowed = rlimit::increase_nofile_limit(needed)?;
    if allowed < needed {
        return Err(format!(
            "{needed} file descriptors are needed, and {allowed} allowed: raise `ulimit -Hn`"
        )
        .into());
    }
    let is_chosen = |attack: &Attack| args.is_empty() || args.contains(&attack.name());
    println!("{} hostile peers, {:?} each\n\n{HEAD}", scale.peers, scale.time);
    let mut failures = Vec::new();
    for attack in Attack::EACH.into_iter().filter(is_chosen) {
        let outcome = withstand(attack, &scale)?;
        println!("{}", outcome.row(attack));
        failures.extend(outcome.faults(attack));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

struct AttackScale {
    peers: usize,
    /// How long each attack takes.
    time: Duration,
}

/// A server of its own, attacked in one way.
fn withstand(attack: Attack, scale: &AttackScale) -> Result<AttackOutcome, Box<dyn Error>> {
    let server = ServerProcess::start(attack.behavior())?;
    // The attack has a thread to itself, as the client has.
    let hostile = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let honest = Builder::new_current_thread().enable_all().build()?;
    let client = honest.block_on(connect(attack, &server))?;

    let alone = serve_for(&honest, &client, (scale.time / 2).min(Duration::from_secs(3)));
    let attackers = {
        let _on = hostile.enter();
        attack.begin(server.addr(), scale.peers)
    };
    // Until most have come, the client would have been as if alone.
    let come = Instant::now();
    while come.elapsed() < scale.time / 3 {
        thread::sleep(Duration::from_millis(10));
    }
    let besieged = serve_for(&honest, &client, scale.time);
    let memory = Memory::of(server.id())?;
    drop(attackers);
    hostile.shutdown_timeout(Duration::from_secs(10));
    drop(client);
    drop(honest);
    let log_lines = server.end()?.trim().parse()?;
    let least = if scale.time >= Duration::from_secs(60) { LEAST_FRACTION } else { 0.0 };
    Ok(AttackOutcome { alone, besieged, peak: memory.peak, log_lines, time: scale.time, least })
}

async fn connect(attack: Attack, server: &ServerProcess) -> Result<MetricsClient, Box<dyn Error>> {
    let builder = MetricsClient::builder(format!("localhost:{}", server.addr().port()))
        .pipelining(Pipelining::On)
        .request_timeout(HANG)
        .stall_timeout(HANG);
    let client = match attack.behavior() {
        Behavior::LoggedTls => {
            builder.connector(TlsConnector::with_root_certificates(CERTIFICATE)?).connect().await?
        }
        _ => builder.connect().await?,
    };
    let stored: Result<Vec<_>, _> =
        attack::stored().map(|(key, at)| Sample::new(key, 0.5, at)).collect();
    client.put_all(&stored?).await?;
    Ok(client)
}

/// What an honest client was given.
struct Served {
    answers: usize,
    failures: usize,
    time: Duration,
    slowest: Duration,
}

impl Served {
    fn rate(&self) -> f64 {
        self.answers as f64 / self.time.as_secs_f64()
    }
}

/// Puts one after the other, and now and then a get.
fn serve_for(honest: &Runtime, client: &MetricsClient, time: Duration) -> Served {
    honest.block_on(async {
        let begin = Instant::now();
        let mut served =
            Served { answers: 0, failures: 0, time: Duration::ZERO, slowest: Duration::ZERO };
        while begin.elapsed() < time || served.answers + served.failures < LEAST_ANSWERS {
            let asked = Instant::now();
            let outcome = match served.answers % 10 {
                0 => client.get("honest").await.map(drop),
                second => client.put_at("honest", 1.0, second as i64).await,
            };
            served.slowest = served.slowest.max(asked.elapsed());
            match outcome {
                Ok(()) => served.answers += 1,
                // A store that is full says so, which is an answer as well.
                Err(metrics_client::Error::Rejected { .. }) => served.answers += 1,
                Err(error) => {
                    eprintln!("an honest request failed: {error}");
                    served.failures += 1;
                }
            }
        }
        served.time = begin.elapsed();
        served
    })
}

struct AttackOutcome {
    alone: Served,
    besieged: Served,
    /// The most that the server held, in bytes.
    peak: u64,
    log_lines: usize,
    time: Duration,
    /// The fraction of its rate that the client must keep.
    least: f64,
}

impl AttackOutcome {
    fn fraction(&self) -> f64 {
        self.besieged.rate() / self.alone.rate()
    }

    fn row(&self, attack: Attack) -> String {
        let Self { alone, besieged, peak, log_lines, .. } = self;
        format!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} % | {:.0} | {log_lines} |",
            attack.name(),
            *peak as f64 / MIB as f64,
            alone.rate(),
            besieged.rate(),
            100.0 * self.fraction(),
            besieged.slowest.as_secs_f64() * 1e3,
        )
    }

    fn faults(&self, attack: Attack) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(format!("{}: {fault}", attack.name()));
            }
        };
        let ceiling = attack.ceiling();
        check(
            self.peak <= ceiling,
            format!("the server held {} bytes, {ceiling} is the most", self.peak),
        );
        check(
            self.besieged.failures == 0,
            format!("{} honest requests failed", self.besieged.failures),
        );
        check(
            self.fraction() >= self.least,
            format!("the client kept {:.3} of its rate", self.fraction()),
        );
        // Two kinds of line at most for an attack, of each six in ten seconds, and some to begin with.
        let lines = 20 + 12 * (2 * self.time.as_secs() as usize).div_ceil(10);
        check(
            self.log_lines <= lines,
            format!("{} lines of log, {lines} are the most", self.log_lines),
        );
        faults
    }
}

impl Attack {
    fn name(self) -> String {
        let name = format!("{self:?}");
        let mut words = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !words.is_empty() {
                words.push('_');
            }
            words.extend(c.to_lowercase());
        }
        words
    }

    fn behavior(self) -> Behavior {
        match self {
            Self::Handshakes => Behavior::LoggedTls,
            _ => Behavior::Logged,
        }
    }

    /// The most memory that the server may have held, in bytes.
    fn ceiling(self) -> u64 {
        match self {
            // What the store may hold by itself, and what peers may cost.
            Self::NewPoints | Self::SlowReads | Self::All => (store_mib() + 768) * MIB,
            _ => 768 * MIB,
        }
    }
}

const HEAD: &str = "| attack | most memory, MiB | alone, answers/s | besieged, answers/s | \
    fraction | slowest answer, ms | lines of log |\n|---|--:|--:|--:|--:|--:|--:|";

const MIB: u64 = 1024 * 1024;

/// Returns how much memory the store may take: the points of a `MemoryStore`; the names of 10 million keys and two
/// heads of a `DiskStore`.
fn store_mib() -> u64 {
    if is_store_on_disk() { 1_750 + 256 } else { 1024 }
}

/// How many answers the client must get, however long it takes.
const LEAST_ANSWERS: usize = 20;

/// How much of its rate the client must keep, where each attack takes a minute: half of the least that
/// was seen on two cores. Without turns it keeps some thousandths.
const LEAST_FRACTION: f64 = 0.05;

/// Only an answer that never comes takes this long.
const HANG: Duration = Duration::from_secs(60);
