//! Who is measured against whom, at what: defined once, for criterion and for `compare`.

use std::{error::Error, time::Duration};

use criterion::{Criterion, SamplingMode, Throughput};

pub(crate) mod bulk;
pub(crate) mod codec;
pub(crate) mod put;

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
    run: Box<dyn FnMut(u64) -> Duration>,
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
        group.warm_up_time(Duration::from_secs(1));
        group.measurement_time(Duration::from_secs(3));
        for contender in &mut self.contenders {
            group.bench_function(contender.name, |bencher| {
                bencher.iter_custom(|iterations| contender.run(iterations));
            });
        }
        group.finish();
    }
}

impl Contender {
    fn new(name: &'static str, run: impl FnMut(u64) -> Duration + 'static) -> Self {
        Self { name, bar: None, run: Box::new(run) }
    }

    fn bar(self, bar: f64) -> Self {
        Self { bar: Some(bar), ..self }
    }

    /// Does so many iterations, and says how long they took.
    pub(crate) fn run(&mut self, iterations: u64) -> Duration {
        (self.run)(iterations)
    }
}
