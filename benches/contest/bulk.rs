//! A million samples at once, there and back.

use std::{error::Error, rc::Rc, time::Instant};

use metrics_client::{MetricsClient, Request};

use super::{Contender, Contest, Contests, codec, put};
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
    let peer = Rc::new(Peer::start(Role::Acknowledge)?);
    let samples = workload::samples(workload::reading)?;
    let requests: Vec<_> = samples.iter().cloned().map(Request::Put).collect();
    let blocking = BlockingClient::connect(peer.addr())?;
    let contenders = vec![
        ours(&peer, async move |client| client.put_all(&samples).await)?,
        Contender::new("two blocking threads", move |iterations| {
            let _serves = &peer;
            let start = Instant::now();
            for _ in 0..iterations {
                blocking.put_all(&requests).expect("the peer acknowledges");
            }
            start.elapsed()
        }),
    ];
    Ok(Contest { name: "put_all".into(), elements: workload::RECORDS as u64, contenders })
}

fn get() -> Result<Contest, Box<dyn Error>> {
    let peer = Rc::new(Peer::start(Role::Retrieve)?);
    let answer = workload::answer(workload::reading)?.into();
    let contenders = vec![
        ours(&peer, async |client| client.get_all().await)?,
        codec::decoder("decode alone", &answer),
    ];
    Ok(Contest { name: "get".into(), elements: workload::RECORDS as u64, contenders })
}

/// The client, doing `work` on a runtime that is its own thread. What the work brings is given back
/// outside the time taken.
fn ours<T>(
    peer: &Rc<Peer>,
    work: impl AsyncFn(&MetricsClient) -> Result<T, metrics_client::Error> + 'static,
) -> Result<Contender, Box<dyn Error>> {
    let peer = Rc::clone(peer);
    let runtime = put::runtime(0)?;
    let client = runtime.block_on(put::connect(peer.addr()))?;
    Ok(Contender::new("metrics-client", move |iterations| {
        let _serves = &peer;
        let once = |_| {
            let start = Instant::now();
            let brought = runtime.block_on(work(&client));
            let time = start.elapsed();
            brought.expect("the peer answers");
            time
        };
        (0..iterations).map(once).sum()
    }))
}
