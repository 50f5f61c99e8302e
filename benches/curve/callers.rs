//! By how many callers share one connection.

use std::error::Error;

use super::{
    Scale,
    chart::{Chart, Line},
    client::Job,
    memory::Row,
};
use crate::contest::put::{self, Peers};

/// Each caller awaits each of its puts, on a current-thread runtime; the rivals take turns.
pub(super) fn measure(scale: &Scale) -> Result<Chart, Box<dyn Error>> {
    let peers = Peers::start()?;
    let mut lines: Vec<Line> = Vec::new();
    for &callers in scale.callers {
        let mut contest = put::by(callers, &peers)?;
        let rates = contest.rates(&scale.turns);
        for (place, (contender, rates)) in contest.contenders.iter().zip(rates).enumerate() {
            if place == lines.len() {
                lines.push(Line::new(contender.name));
            }
            for rate in rates {
                lines[place].push(callers, 1e6 / rate);
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
pub(super) fn memory(scale: &Scale) -> Result<Option<Row>, Box<dyn Error>> {
    let Some(&callers) = scale.callers.last() else {
        return Ok(None);
    };
    let growth = Job::Wait(callers).measure()?;
    Ok(Some(Row {
        what: format!("client, each of {callers} callers that wait, with its Tokio task"),
        measured: growth as f64 / callers as f64,
        unit: "B",
        bar: None,
    }))
}
