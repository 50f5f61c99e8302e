//! Who is measured against whom, at what: defined once, for criterion and for `compare`.

use std::{env, error::Error, fmt::Debug, io, net::SocketAddr, rc::Rc, time::Duration};

use criterion::{Criterion, SamplingMode, Throughput};
use metrics_client::{MetricsClient, client::Pipelining};
use tokio::runtime::{self, Runtime};

use crate::{peer::Peer, workload::Cost};

mod bulk;
mod codec;
mod facade;
mod floats;
pub(crate) mod open_loop;
mod pool;
pub(crate) mod put;
mod record;
mod server;
pub(crate) mod turns;

/// What there is to win.
pub(crate) const ALL: [fn() -> Contests; 8] = [
    put::contests,
    bulk::contests,
    pool::contests,
    record::contests,
    facade::contests,
    codec::contests,
    floats::contests,
    server::contests,
];

/// One thing to do, and several who do it.
pub(crate) struct Contest {
    /// What is done.
    pub(crate) name: String,
    /// How many puts or records one iteration is.
    pub(crate) elements: u64,
    /// The first one is held against each of the others.
    pub(crate) contenders: Vec<Contender>,
}

/// One who does it.
pub(crate) struct Contender {
    /// Who it is.
    pub(crate) name: &'static str,
    /// How many times as fast as this one the first contender has to be, where that was agreed.
    pub(crate) bar: Option<f64>,
    /// How much of the processor time of this one the first contender may use for the same, at most.
    pub(crate) cpu_bar: Option<f64>,
    run: Box<dyn FnMut(u64) -> Cost>,
}

/// A runtime with so many workers, or one that is its own thread.
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

/// Contests, or why they could not be set up.
pub(crate) type Contests = Result<Vec<Contest>, Box<dyn Error>>;

impl Contest {
    /// Measures each contender with criterion, one after the other.
    pub(crate) fn bench(&mut self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(&self.name);
        group.throughput(Throughput::Elements(self.elements));
        // An iteration takes milliseconds, and ever longer samples would take ever more of them.
        group.sampling_mode(SamplingMode::Flat);
        group.sample_size(20);
        group.warm_up_time(Duration::from_millis(500));
        // Criterion goes on for so long where the machine is too busy for its quick mode to be sure.
        let is_quick = env::args().any(|arg| arg == "--quick");
        group.measurement_time(Duration::from_millis(if is_quick { 200 } else { 1500 }));
        for contender in &mut self.contenders {
            group.bench_function(contender.name, |bencher| {
                bencher.iter_custom(|iterations| contender.run(iterations).wall);
            });
        }
        group.finish();
    }
}

impl Contender {
    fn new<C: Into<Cost>>(name: &'static str, mut run: impl FnMut(u64) -> C + 'static) -> Self {
        let run = Box::new(move |iterations| run(iterations).into());
        Self { name, bar: None, cpu_bar: None, run }
    }

    /// One who works over a connection.
    ///
    /// Each turn has a new one. On a busy machine the scheduler may favour one connection over
    /// another for as long as both last, by a factor of five; so no contender keeps its luck.
    fn connected<C, E: Debug, W: Into<Cost>>(
        name: &'static str,
        runtime: &Rc<Runtime>,
        peer: &Rc<Peer>,
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

    fn bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    fn cpu_bar(self, bar: f64) -> Self {
        Self { cpu_bar: Some(bar), ..self }
    }

    /// Does so many iterations, and returns what they cost.
    pub(crate) fn run(&mut self, iterations: u64) -> Cost {
        (self.run)(iterations)
    }
}
