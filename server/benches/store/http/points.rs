//! `/api/v1/points` against a `get` of the same points over the protocol.

use super::request;
use crate::{
    Outcome,
    load::{fill_lines, get},
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::{Lines, name},
};

pub(super) fn run(options: &Options, report: &mut Report) -> Outcome {
    let points = options.choose(1_000, 100_000, 1_000_000);
    let rounds = options.choose(1, 5, 21);
    for keys in [1, 1_000] {
        let peer = Peer::memory_with_http()?;
        fill_lines(peer.addr(), &mut Lines::new(0..keys), points / keys)?;
        let (selector, query) = match keys {
            1 => (name(0), format!("key={}", name(0))),
            _ => ("*".into(), "match=*".into()),
        };
        let (mut json, mut csv, mut gets) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (format, times) in [("json", &mut json), ("csv", &mut csv)] {
                let head = format!("GET /api/v1/points?{query}&format={format} HTTP/1.1");
                let (body, took) = request(peer.http_addr(), &head, "")?;
                // Each point has a second of ten digits.
                if body.len() < 16 * points {
                    return Err(format!("an answer of {} bytes", body.len()).into());
                }
                times.push(took.as_secs_f64());
            }
            gets.push(get(peer.addr(), &selector)?.1.as_secs_f64());
        }
        for (format, times) in [("JSON", json), ("CSV", csv)] {
            let what = format!("`/api/v1/points`, {keys} keys, {points} points in all, {format}");
            let row = Row::rounds(what, Unit::Seconds, &times, "`get` over the protocol", &gets);
            report.push(row.bar(Bar::RatioAtMost(2.0)));
        }
    }
    Ok(())
}
