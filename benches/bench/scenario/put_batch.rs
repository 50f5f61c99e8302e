//! `put_all` and `get` of a million samples.

use std::{
    error::Error,
    rc::Rc,
    time::{Duration, Instant},
};

use metrics_client::codec::Request;

use super::{Candidate, Comparison, Comparisons, codec};
use crate::{
    baseline::blocking::BlockingClient,
    support::{
        server_process::{Behavior, ServerProcess},
        values, workload,
    },
};

/// Putting a million samples, and getting a million records.
pub(super) fn comparisons() -> Comparisons {
    Ok(vec![put_all()?, get()?])
}

fn put_all() -> Result<Comparison, Box<dyn Error>> {
    let (runtime, peer) =
        (super::runtime(0)?, Rc::new(ServerProcess::start(Behavior::Acknowledge)?));
    let samples = workload::samples(values::reading)?;
    let requests: Vec<_> = samples.iter().cloned().map(Request::Put).collect();
    let candidates = vec![
        Candidate::connected(
            "metrics-client",
            &runtime,
            &peer,
            super::connect,
            async move |client, iterations| {
                client.put_all(samples.iter()).await.expect("the peer acknowledges"); // warms up
                let start = Instant::now();
                for _ in 0..iterations {
                    client.put_all(samples.iter()).await.expect("the peer acknowledges");
                }
                start.elapsed()
            },
        ),
        Candidate::connected(
            "two blocking threads",
            &runtime,
            &peer,
            async |addr| BlockingClient::connect(addr),
            async move |client, iterations| {
                client.put_all(&requests).expect("the peer acknowledges"); // warms up
                let start = Instant::now();
                for _ in 0..iterations {
                    client.put_all(&requests).expect("the peer acknowledges");
                }
                start.elapsed()
            },
        )
        .min_ratio(0.8),
    ];
    Ok(Comparison { name: "put_all".into(), elements: workload::RECORDS as u64, candidates })
}

fn get() -> Result<Comparison, Box<dyn Error>> {
    let (runtime, peer) = (super::runtime(0)?, Rc::new(ServerProcess::start(Behavior::Retrieve)?));
    let answer: Rc<[u8]> = workload::answer(values::reading)?.into();
    let len = answer.len();
    let candidates = vec![
        Candidate::connected(
            "metrics-client",
            &runtime,
            &peer,
            super::connect,
            async |client, iterations| {
                client.get_all().await.expect("the peer answers"); // warms the connection up
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    let metrics = client.get_all().await.expect("the peer answers");
                    time += start.elapsed();
                    assert_eq!(metrics.point_count(), workload::RECORDS);
                }
                time
            },
        ),
        // At most 1.3 times its time.
        codec::decoder("decode alone", &answer).min_ratio(1.0 / 1.3),
        // What the socket takes of that, by itself.
        Candidate::connected(
            "read alone",
            &runtime,
            &peer,
            async |addr| BlockingClient::connect(addr),
            async move |client, iterations| {
                client.ping(b"get *\n", len).expect("the peer answers"); // warms the connection up
                let start = Instant::now();
                for _ in 0..iterations {
                    client.ping(b"get *\n", len).expect("the peer answers");
                }
                start.elapsed()
            },
        ),
    ];
    Ok(Comparison { name: "get".into(), elements: workload::RECORDS as u64, candidates })
}
