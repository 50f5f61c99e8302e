//! A server that takes one request at a time, over one connection and over several.

use std::{rc::Rc, time::Instant};

use metrics_client::{MetricsClient, Sample, client::Pipelining};

use super::{Contender, Contest, Contests};
use crate::{
    peer::{Peer, Role},
    workload::{self, Agent},
};

/// Putting one second of an agent's samples, all of different keys.
pub(super) fn contests() -> Contests {
    let (runtime, peer) = (super::runtime(0)?, Rc::new(Peer::start(Role::OneAtATime)?));
    let samples: Rc<[Sample]> = Agent::new(workload::reading)?.samples(1).into();
    let contender = |name, connections| {
        let samples = Rc::clone(&samples);
        Contender::connected(
            name,
            &runtime,
            &peer,
            async move |addr| {
                let client = MetricsClient::builder(addr).pipelining(Pipelining::Off);
                client.connections(connections).connect().await
            },
            async move |client, iterations| {
                client.put_all(&samples).await.expect("the peer acknowledges"); // makes the connections
                let start = Instant::now();
                for _ in 0..iterations {
                    client.put_all(&samples).await.expect("the peer acknowledges");
                }
                start.elapsed()
            },
        )
    };
    let contenders = vec![contender("4 connections", 4), contender("1 connection", 1)];
    let elements = workload::KEYS as u64;
    Ok(vec![Contest { name: "put_all, one at a time".into(), elements, contenders }])
}
