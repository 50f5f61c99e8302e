//! The codec alone, without a socket.

use std::{
    error::Error,
    fmt::Write,
    hint::black_box,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use metrics_client::{
    Sample,
    codec::{ClientCodec, Request},
};
use tokio_util::codec::{Decoder, Encoder};

use super::{Candidate, Comparison, Comparisons};
use crate::{
    baseline::split_parse,
    support::{values, workload},
};

/// Encoding puts, and decoding a large answer, with short numbers and with long ones.
pub(super) fn comparisons() -> Comparisons {
    Ok(vec![
        encode("encode", values::reading)?,
        encode("encode, 17 digits", values::computed)?,
        decode("decode", values::reading)?,
        decode("decode, 17 digits", values::computed)?,
    ])
}

/// How many puts are encoded into one buffer.
const BATCH: usize = 1_000;

fn encode(name: &str, value: fn(u64) -> f64) -> Result<Comparison, Box<dyn Error>> {
    let samples: Rc<[Sample]> = workload::samples(value)?.into_iter().take(BATCH).collect();
    let requests: Vec<_> = samples.iter().cloned().map(Request::Put).collect();
    let mut buffer = BytesMut::new();
    let mut codec = ClientCodec::default();
    let ours = Candidate::new("ClientCodec", move |iterations| {
        let encode = |requests: Vec<_>| {
            buffer.clear();
            let start = Instant::now();
            for request in requests {
                codec.encode(request, &mut buffer).expect("the values are finite");
            }
            black_box(&buffer);
            start.elapsed()
        };
        // The codec consumes what it encodes; that there is something to consume takes no time here.
        (0..iterations).map(|_| requests.clone()).map(encode).sum::<Duration>()
    });
    let mut buffer = String::new();
    let theirs = Candidate::new("write!", move |iterations| {
        timed(iterations, || {
            buffer.clear();
            for Sample { key, point } in &*samples {
                let written = writeln!(buffer, "put {key} {} {}", point.value, point.timestamp);
                written.expect("a string takes everything");
            }
            black_box(&buffer);
        })
    });
    let candidates = vec![ours, theirs.min_ratio(3.0)];
    Ok(Comparison { name: name.into(), elements: BATCH as u64, candidates })
}

fn decode(name: &str, value: fn(u64) -> f64) -> Result<Comparison, Box<dyn Error>> {
    let answer: Rc<[u8]> = workload::answer(value)?.into();
    let candidates = vec![
        decoder("ClientCodec", &answer),
        Candidate::new("split and parse", move |iterations| {
            (0..iterations)
                .map(|_| {
                    let start = Instant::now();
                    let series = split_parse::split_and_parse(black_box(&answer));
                    let time = start.elapsed();
                    assert!(series.is_some(), "the answer is sound");
                    time
                })
                .sum::<Duration>()
        })
        .min_ratio(3.0),
    ];
    Ok(Comparison { name: name.into(), elements: workload::RECORDS as u64, candidates })
}

/// Decodes `answer`, which is all there; what was decoded is given back outside the time taken.
pub(super) fn decoder(name: &'static str, answer: &Rc<[u8]>) -> Candidate {
    let answer = Rc::clone(answer);
    Candidate::new(name, move |iterations| {
        (0..iterations)
            .map(|_| {
                let mut bytes = BytesMut::from(&*answer);
                let start = Instant::now();
                let response = ClientCodec::default().decode(&mut bytes);
                let time = start.elapsed();
                assert!(matches!(response, Ok(Some(_))), "the answer is sound");
                time
            })
            .sum::<Duration>()
    })
}

fn timed(iterations: u64, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        work();
    }
    start.elapsed()
}
