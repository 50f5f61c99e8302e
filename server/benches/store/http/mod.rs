//! What HTTP costs: rendering against graphite-web, points against the protocol, live browsers, and nothing when idle.

mod browsers;
mod graphite_web;
mod points;
mod render;
pub(crate) mod siege;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    load::Load,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
};

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    render::run(options, report)?;
    points::run(options, report)?;
    browsers::run(options, report)?;
    idle(options, report)
}

/// The rate of puts with an idle HTTP listener, and without one.
fn idle(options: &Options, report: &mut Report) -> Outcome {
    let rounds = options.choose(1, 5, 41);
    let time = Duration::from_millis(options.choose(50, 500, 500));
    let (with, without) = (Peer::memory_with_http()?, Peer::memory()?);
    let mut ours = Load::connect(with.addr(), 64, 10)?;
    let mut theirs = Load::connect(without.addr(), 64, 10)?;
    let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Neither is always the first.
        if round % 2 == 0 {
            our_rates.push(ours.run(time)?);
        }
        their_rates.push(theirs.run(time)?);
        if round % 2 == 1 {
            our_rates.push(ours.run(time)?);
        }
    }
    let what = "puts, 64 connections × 10, with an idle HTTP listener";
    let row = Row::rounds(what, Unit::Rate, &our_rates, "without it", &their_rates);
    report.push(row.bar(Bar::RatioAtLeast(0.95)));
    Ok(())
}

/// Sends a request, and returns the body of the answer, chunks as they are, and how long it took.
fn request(addr: SocketAddr, head: &str, body: &str) -> Outcome<(Vec<u8>, Duration)> {
    let mut stream = TcpStream::connect(addr)?;
    let start = Instant::now();
    let len = body.len();
    let request = format!(
        "{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut block = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut block)? {
            0 => break,
            len => answer.extend_from_slice(&block[..len]),
        }
    }
    let took = start.elapsed();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no answer")?;
    let is_good = answer.get(9..12) == Some(b"200");
    if !is_good {
        return Err(String::from_utf8_lossy(&answer[..answer.len().min(500)]).into());
    }
    answer.drain(..head + 4);
    Ok((answer, took))
}
