//! InfluxDB's lines: our parser, which writes a key for each field, against the crate `influxdb-line-protocol`,
//! which writes none.

use std::{hint::black_box, time::Instant};

use metrics_server::influx::read_lines;

use crate::{
    Outcome,
    lines::{single, telegraf},
    options::Options,
    report::{Bar, Report, Row, Unit},
    workload::FIRST_SECOND,
};

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let rounds = options.choose(1, 5, 21);
    let hosts = options.choose(2, 60, 60);
    let (telegraf, _) = telegraf(0..hosts, FIRST_SECOND);
    let single = single(0..hosts * 40, FIRST_SECOND);
    for (what, body) in [("lines of telegraf", telegraf), ("lines with one field", single)] {
        let lines = body.lines().count() as f64;
        let passes = options.choose(1, 20, 40);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(lines * f64::from(passes) / seconds(passes, || of_ours(&body))?);
            theirs.push(lines / seconds(1, || of_crate(&body))?);
        }
        let row = Row::rounds(what, Unit::Rate, &ours, "`influxdb-line-protocol` 2.0", &theirs);
        report.push(row.bar(Bar::RatioAtLeast(8.0)));
    }
    report
        .note("Lines a second, on one thread. Ours writes the key of each field, the crate none.");
    Ok(())
}

fn seconds(passes: i32, parse: impl Fn() -> Outcome) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..passes {
        parse()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn of_ours(body: &str) -> Outcome {
    let mut bad = 0;
    let put = |key: &str, point| {
        black_box((key.len(), point));
    };
    read_lines(black_box(body.as_bytes()), 7, put, |_, _| bad += 1);
    if bad > 0 { Err("a line has an error".into()) } else { Ok(()) }
}

fn of_crate(body: &str) -> Outcome {
    for line in influxdb_line_protocol::parse_lines(black_box(body)) {
        black_box(line?);
    }
    Ok(())
}
