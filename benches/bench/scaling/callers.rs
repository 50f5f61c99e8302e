//! Cost of a put by the number of callers that share a connection.

use std::error::Error;

use super::{
    Scale,
    chart::{Chart, Line},
    client::Job,
    memory::MemoryRow,
};
use crate::scenario::{
    interleave::Rounds,
    put::{self, Peers},
};

/// Each caller awaits each of its puts, on a current-thread runtime. The baselines take turns, and so do
/// crowds of all sizes.
pub(super) fn measure(scale: &Scale) -> Result<Chart, Box<dyn Error>> {
    let peers = Peers::start()?;
    let mut comparisons = Vec::new();
    for &callers in scale.callers {
        comparisons.push((callers, put::by(callers, &peers)?));
    }
    let mut lines: Vec<Line> = Vec::new();
    for _ in 0..scale.rounds.count {
        for (callers, comparison) in &mut comparisons {
            let rounds = comparison.rounds(&Rounds { count: 1, ..scale.rounds });
            for (place, rounds) in rounds.into_iter().enumerate() {
                if place == lines.len() {
                    lines.push(Line::new(comparison.candidates[place].name));
                }
                rounds.into_iter().for_each(|round| lines[place].push(*callers, 1e6 / round.rate));
            }
        }
    }
    Ok(Chart {
        file: "put-by-callers",
        title: "A put, by callers that share a connection",
        x: "callers",
        y: "µs",
        lines,
    })
}

/// What the client needs for each caller that waits.
pub(super) fn memory(scale: &Scale) -> Result<Option<MemoryRow>, Box<dyn Error>> {
    let Some(&callers) = scale.callers.last() else {
        return Ok(None);
    };
    let growth = Job::Wait(callers).measure()?;
    Ok(Some(MemoryRow {
        what: format!("client, each of {callers} callers that wait, with its Tokio task"),
        measured: growth as f64 / callers as f64,
        unit: "B",
        limit: None,
    }))
}
