//! The comparisons and their candidates, for `throughput` and `compare`.

use std::{error::Error, fmt::Debug, io, net::SocketAddr, rc::Rc, time::Duration};

use criterion::{Criterion, SamplingMode, Throughput};
use metrics_client::{MetricsClient, client::Pipelining};
use tokio::runtime::{self, Runtime};

use crate::support::{cost::Cost, mode::Mode, server_process::ServerProcess};

mod codec;
mod float_text;
pub(crate) mod interleave;
mod metrics_facade;
pub(crate) mod open_loop;
mod pool;
pub(crate) mod put;
mod put_batch;
mod record;
mod server;

/// All comparisons.
pub(crate) const ALL: [fn() -> Comparisons; 8] = [
    put::comparisons,
    put_batch::comparisons,
    pool::comparisons,
    record::comparisons,
    metrics_facade::comparisons,
    codec::comparisons,
    float_text::comparisons,
    server::comparisons,
];

/// One thing to do, and several who do it.
pub(crate) struct Comparison {
    /// What is done.
    pub(crate) name: String,
    /// How many puts or records one iteration is.
    pub(crate) elements: u64,
    /// The first one is held against each of the others.
    pub(crate) candidates: Vec<Candidate>,
}

/// One who does it.
pub(crate) struct Candidate {
    /// Who it is.
    pub(crate) name: &'static str,
    /// How many times as fast as this one the first candidate has to be, where that was agreed.
    pub(crate) min_ratio: Option<f64>,
    /// How much of the processor time of this one the first candidate may use for the same, at most.
    pub(crate) max_cpu_ratio: Option<f64>,
    run: Box<dyn FnMut(u64) -> Cost>,
}

/// Returns a multi-thread runtime with this number of workers, or a current-thread runtime for 0.
fn runtime(workers: usize) -> io::Result<Rc<Runtime>> {
    let runtime = match workers {
        0 => runtime::Builder::new_current_thread().enable_all().build(),
        _ => runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build(),
    };
    runtime.map(Rc::new)
}

/// Connects, and says what the peer can do instead of finding it out while the clock runs.
async fn connect(addr: SocketAddr) -> Result<MetricsClient, metrics_client::Error> {
    MetricsClient::builder(addr).pipelining(Pipelining::On).connect().await
}

/// Comparisons, or why they could not be set up.
pub(crate) type Comparisons = Result<Vec<Comparison>, Box<dyn Error>>;

impl Comparison {
    /// Runs each candidate once, to see that it works.
    pub(crate) fn run_once(&mut self) {
        for candidate in &mut self.candidates {
            println!("{}: {}", self.name, candidate.name);
            candidate.run(1);
        }
    }

    /// Measures each candidate with criterion, one after the other.
    pub(crate) fn bench(&mut self, criterion: &mut Criterion, mode: Mode) {
        let is_quick = mode == Mode::Quick;
        let mut group = criterion.benchmark_group(&self.name);
        group.throughput(Throughput::Elements(self.elements));
        // An iteration takes milliseconds, and samples that become longer would take many of them.
        group.sampling_mode(SamplingMode::Flat);
        group.sample_size(if is_quick { 10 } else { 20 });
        group.warm_up_time(Duration::from_millis(if is_quick { 50 } else { 500 }));
        group.measurement_time(Duration::from_millis(if is_quick { 200 } else { 1500 }));
        for candidate in &mut self.candidates {
            group.bench_function(candidate.name, |bencher| {
                bencher.iter_custom(|iterations| candidate.run(iterations).wall);
            });
        }
        group.finish();
    }
}

impl Candidate {
    fn new<C: Into<Cost>>(name: &'static str, mut run: impl FnMut(u64) -> C + 'static) -> Self {
        let run = Box::new(move |iterations| run(iterations).into());
        Self { name, min_ratio: None, max_cpu_ratio: None, run }
    }

    /// One who works over a connection.
    ///
    /// Each turn has a new one. On a busy machine the scheduler may favour one connection over
    /// another for as long as both last, by a factor of five; so no candidate keeps its luck.
    fn connected<C, E: Debug, W: Into<Cost>>(
        name: &'static str,
        runtime: &Rc<Runtime>,
        peer: &Rc<ServerProcess>,
        connect: impl AsyncFn(SocketAddr) -> Result<C, E> + 'static,
        work: impl AsyncFn(&mut C, u64) -> W + 'static,
    ) -> Self {
        let (runtime, peer) = (Rc::clone(runtime), Rc::clone(peer));
        Self::new(name, move |iterations| {
            runtime.block_on(async {
                let mut client = connect(peer.addr()).await.expect("the peer listens");
                work(&mut client, iterations).await
            })
        })
    }

    fn min_ratio(self, min_ratio: f64) -> Self {
        Self { min_ratio: Some(min_ratio), ..self }
    }

    /// Runs the iterations, and returns their cost.
    pub(crate) fn run(&mut self, iterations: u64) -> Cost {
        (self.run)(iterations)
    }
}
