//! Interleaves candidates, so that a machine that slows down slows all of them down.

use std::{fmt, time::Duration};

use super::{Candidate, Comparison};
use crate::support::cost::Cost;

/// How many turns there are, and how long each is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// How often each candidate runs.
    pub(crate) count: usize,
    /// What one turn should take.
    pub(crate) time: Duration,
}

/// What one turn of a candidate says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Elements a second.
    pub(crate) rate: f64,
    /// Processor time of this process for each element, in nanoseconds.
    pub(crate) cpu: Option<f64>,
}

impl Comparison {
    /// Lets the candidates take turns. For each of them, what each round says of it.
    pub(crate) fn rounds(&mut self, plan: &Rounds) -> Vec<Vec<Round>> {
        let iterations: Vec<_> =
            self.candidates.iter_mut().map(|candidate| plan.calibrate(candidate)).collect();
        let mut rounds = vec![Vec::with_capacity(plan.count); iterations.len()];
        for _ in 0..plan.count {
            for (turn, candidate) in self.candidates.iter_mut().enumerate() {
                let Cost { wall, cpu } = candidate.run(iterations[turn]);
                let elements = (iterations[turn] * self.elements) as f64;
                rounds[turn].push(Round {
                    rate: elements / wall.as_secs_f64(),
                    cpu: cpu.map(|cpu| cpu.as_nanos() as f64 / elements),
                });
            }
        }
        rounds
    }
}

impl Rounds {
    /// How many iterations fill a turn; finding out warms the candidate up.
    fn calibrate(&self, candidate: &mut Candidate) -> u64 {
        let mut iterations = 1;
        loop {
            let time = candidate.run(iterations).wall;
            if time >= self.time / 4 {
                let fill = self.time.as_secs_f64() / time.as_secs_f64();
                return ((iterations as f64 * fill) as u64).max(1);
            }
            iterations *= 2;
        }
    }
}

/// The middle of what was measured, and how far it spreads.
pub(crate) struct Quartiles {
    lower: f64,
    pub(crate) median: f64,
    upper: f64,
}

impl Quartiles {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() * quarter / 4).min(values.len() - 1)];
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.lower, self.upper)
    }
}
