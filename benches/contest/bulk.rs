//! A million samples at once, there and back.

use std::{
    error::Error,
    rc::Rc,
    time::{Duration, Instant},
};

use metrics_client::codec::Request;

use super::{Contender, Contest, Contests, codec};
use crate::{
    baseline::blocking::BlockingClient,
    peer::{Peer, Role},
    workload,
};

/// Putting a million samples, and getting a million records.
pub(super) fn contests() -> Contests {
    Ok(vec![put_all()?, get()?])
}

fn put_all() -> Result<Contest, Box<dyn Error>> {
    let (runtime, peer) = (super::runtime(0)?, Rc::new(Peer::start(Role::Acknowledge)?));
    let samples = workload::samples(workload::reading)?;
    let requests: Vec<_> = samples.iter().cloned().map(Request::Put).collect();
    let contenders = vec![
        Contender::connected(
            "metrics-client",
            &runtime,
            &peer,
            super::connect,
            async move |client, iterations| {
                client.put_all(&samples).await.expect("the peer acknowledges"); // warms up
                let start = Instant::now();
                for _ in 0..iterations {
                    client.put_all(&samples).await.expect("the peer acknowledges");
                }
                start.elapsed()
            },
        ),
        Contender::connected(
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
        .bar(0.8),
    ];
    Ok(Contest { name: "put_all".into(), elements: workload::RECORDS as u64, contenders })
}

fn get() -> Result<Contest, Box<dyn Error>> {
    let (runtime, peer) = (super::runtime(0)?, Rc::new(Peer::start(Role::Retrieve)?));
    let answer: Rc<[u8]> = workload::answer(workload::reading)?.into();
    let len = answer.len();
    let contenders = vec![
        Contender::connected(
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
        codec::decoder("decode alone", &answer).bar(1.0 / 1.3),
        // What the socket takes of that, by itself.
        Contender::connected(
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
    Ok(Contest { name: "get".into(), elements: workload::RECORDS as u64, contenders })
}
