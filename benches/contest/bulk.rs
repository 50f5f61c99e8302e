//! A million samples at once, there and back.

use std::{error::Error, time::Instant};

use metrics_client::Request;

use super::{Contender, Contest, Contests, codec};
use crate::{
    baseline::blocking::BlockingClient,
    peer::{Peer, Role},
    workload,
};

/// Putting a million samples, and getting a million records.
pub(crate) fn contests() -> Contests {
    Ok(vec![put_all()?, get()?])
}

fn put_all() -> Result<Contest, Box<dyn Error>> {
    let peer = Peer::start(Role::Acknowledge)?;
    let samples = workload::samples(workload::reading)?;
    let puts: Vec<_> = samples.into_iter().map(Request::Put).collect();
    let client = BlockingClient::connect(peer.addr())?;
    let blocking = Contender::new("two blocking threads", move |iterations| {
        let _serves = &peer;
        let start = Instant::now();
        for _ in 0..iterations {
            client.put_all(&puts).expect("the peer acknowledges");
        }
        start.elapsed()
    });
    let contenders = vec![blocking];
    Ok(Contest { name: "put_all".into(), elements: workload::RECORDS as u64, contenders })
}

fn get() -> Result<Contest, Box<dyn Error>> {
    let answer = workload::answer(workload::reading)?.into();
    let contenders = vec![codec::decoder("decode alone", &answer)];
    Ok(Contest { name: "get".into(), elements: workload::RECORDS as u64, contenders })
}
