//! `/render` against graphite-web: the same points, the same requests, equal answers.

use std::{fmt::Write, time::SystemTime};

use super::{graphite_web::GraphiteWeb, request};
use crate::{
    Outcome, folder,
    load::fill,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::{hundredths, name},
};

const SERIES: usize = 100;
const POINTS: i64 = 1_000;
const STEP: i64 = 10;

/// What is asked for: the points as they are, and what a dashboard shows of them.
const TARGETS: [(&str, &str); 3] = [
    ("100 series × 1,000 points", "target=rack*.cpu.user"),
    ("the same, at most 300 points each", "target=rack*.cpu.user&maxDataPoints=300"),
    (
        "`sumSeries(movingAverage(rack*.cpu.user,10))`",
        "target=sumSeries(movingAverage(rack*.cpu.user,10))",
    ),
];

pub(super) fn run(options: &Options, report: &mut Report) -> Outcome {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let last = i64::try_from(seconds)? / STEP * STEP - STEP;
    let points = |key| (0..POINTS).rev().map(move |at| (last - at * STEP, key));
    let dir = folder(options)?;
    let mut series = Vec::new();
    for key in 0..SERIES {
        let points: Vec<_> = points(key)
            .map(|(second, key)| (second, hundredths(key, second) as f64 / 100.0))
            .collect();
        series.push(serde_json::json!({ "path": name(key), "step": STEP, "points": points }));
    }
    let Some(reference) = GraphiteWeb::start(dir.path(), &serde_json::to_string(&series)?)? else {
        let reason = "SKIPPED `/render` beside graphite-web, which is not installed: `apt-get install graphite-web`";
        eprintln!("{reason}");
        report.note(reason);
        return Ok(());
    };
    let peer = Peer::memory_with_http()?;
    let mut lines = (0..SERIES).flat_map(points);
    fill(peer.addr(), |block| {
        let (second, key) = lines.next()?;
        let value = hundredths(key, second) as f64 / 100.0;
        // Writing to memory does not fail.
        let mut line = String::new();
        _ = writeln!(line, "put {} {value} {second}", name(key));
        block.extend_from_slice(line.as_bytes());
        Some(1)
    })?;
    let rounds = options.choose(1, 3, 21);
    for (what, target) in TARGETS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first answer of graphite-web reads its files, and is not counted.
        for round in 0..=rounds {
            let from = last - POINTS * STEP;
            let form =
                format!("{target}&from={from}&until={last}&now={last}&format=json&noCache=1");
            let head = "POST /render HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded";
            let (their_body, their_time) = request(reference.addr(), head, &form)?;
            let (our_body, our_time) = request(peer.http_addr(), head, &form)?;
            compare(&their_body, &our_body)?;
            if round > 0 {
                ours.push(1.0 / our_time.as_secs_f64());
                theirs.push(1.0 / their_time.as_secs_f64());
            }
        }
        let row =
            Row::rounds(format!("`/render`, {what}"), Unit::Rate, &ours, "graphite-web", &theirs);
        report.push(row.bar(Bar::RatioAtLeast(20.0)));
    }
    Ok(())
}

/// Fails unless both answers have the same series and the same number of points.
fn compare(theirs: &[u8], ours: &[u8]) -> Outcome {
    let shape = |body: &[u8]| {
        let answer: Vec<serde_json::Value> = serde_json::from_slice(body)?;
        let lens = answer.iter().map(|series| {
            (series["target"].to_string(), series["datapoints"].as_array().map_or(0, Vec::len))
        });
        Ok::<_, serde_json::Error>(lens.collect::<Vec<_>>())
    };
    let (theirs, ours) = (shape(theirs)?, shape(ours)?);
    if theirs != ours {
        return Err(format!("answers differ: {theirs:?} and {ours:?}").into());
    }
    if ours.is_empty() { Err("no series".into()) } else { Ok(()) }
}
