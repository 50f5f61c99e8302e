//! A server that takes one request at a time, over one connection and over several.

use std::{rc::Rc, time::Instant};

use metrics_client::{MetricsClient, Sample, client::Pipelining};

use super::{Candidate, Comparison, Comparisons};
use crate::support::{
    server_process::{Behavior, ServerProcess},
    values,
    workload::{self, Agent},
};

/// Putting one second of an agent's samples, all of different keys.
pub(super) fn comparisons() -> Comparisons {
    let (runtime, peer) =
        (super::runtime(0)?, Rc::new(ServerProcess::start(Behavior::OneAtATime)?));
    let samples: Rc<[Sample]> = Agent::new(values::reading)?.samples(1).into();
    let candidate = |name, connections| {
        let samples = Rc::clone(&samples);
        Candidate::connected(
            name,
            &runtime,
            &peer,
            async move |addr| {
                let client = MetricsClient::builder(addr).pipelining(Pipelining::Off);
                client.max_connections(connections).connect().await
            },
            async move |client, iterations| {
                client.put_all(samples.iter()).await.expect("the peer acknowledges"); // makes the connections
                let start = Instant::now();
                for _ in 0..iterations {
                    client.put_all(samples.iter()).await.expect("the peer acknowledges");
                }
                start.elapsed()
            },
        )
    };
    let candidates = vec![candidate("4 connections", 4), candidate("1 connection", 1)];
    let elements = workload::KEYS as u64;
    Ok(vec![Comparison { name: "put_all, one at a time".into(), elements, candidates }])
}
