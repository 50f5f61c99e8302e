//! Contenders that take turns, so that a machine which slows down slows all of them down.

use std::{fmt, time::Duration};

use super::{Contender, Contest};
use crate::workload::Cost;

/// How many turns there are, and how long each is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns {
    /// How often each contender has its turn.
    pub(crate) rounds: usize,
    /// What one turn should take.
    pub(crate) time: Duration,
}

/// What one turn of a contender says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Elements a second.
    pub(crate) rate: f64,
    /// Processor time of this process for each element, in nanoseconds.
    pub(crate) cpu: Option<f64>,
}

impl Contest {
    /// Lets the contenders take turns. For each of them, what each round says of it.
    pub(crate) fn rounds(&mut self, turns: &Turns) -> Vec<Vec<Round>> {
        let iterations: Vec<_> =
            self.contenders.iter_mut().map(|contender| turns.calibrate(contender)).collect();
        let mut rounds = vec![Vec::with_capacity(turns.rounds); iterations.len()];
        for _ in 0..turns.rounds {
            for (turn, contender) in self.contenders.iter_mut().enumerate() {
                let Cost { wall, cpu } = contender.run(iterations[turn]);
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

impl Turns {
    /// How many iterations fill a turn; finding out warms the contender up.
    fn calibrate(&self, contender: &mut Contender) -> u64 {
        let mut iterations = 1;
        loop {
            let time = contender.run(iterations).wall;
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
