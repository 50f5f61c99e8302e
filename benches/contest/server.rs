//! The server's side: raw sockets ask, so that no client is what is measured.

use std::{
    error::Error,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Instant,
};

use bytes::BytesMut;
use metrics_client::{
    Sample,
    codec::{ClientCodec, Request},
};
use tokio_util::codec::Encoder;

use super::{Contender, Contest, Contests};
use crate::{
    baseline::blocking::BlockingClient,
    peer::{Peer, REDIS_SERVER, Role},
    workload::{self, Agent},
};

/// Taking puts as fast as they come, and answering `get *` from a large store.
///
/// Peers start when they have their first turn: whoever leaves these contests out need not wait until
/// ten million points are stored.
pub(super) fn contests() -> Contests {
    let mut contests = vec![get()?];
    if is_installed(REDIS_SERVER) {
        contests.push(puts()?);
    } else {
        eprintln!(
            "\nSKIPPED: the contest with {REDIS_SERVER}, which is not installed here.\n\
             SKIPPED: `apt-get install redis-server`, and run this again.\n"
        );
    }
    Ok(contests)
}

fn is_installed(command: &str) -> bool {
    let version = Command::new(command).arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// How many seconds of an agent's samples are one iteration.
const SECONDS: usize = 1;

/// Each second one put for every key, so that neighbours never share one and nothing is won by
/// looking at two at once; the other server gets the same keys in the same order. The seconds go on
/// from turn to turn: this crate's server stores ever more points, 16 bytes each, where the other
/// one replaces the value of the key.
fn puts() -> Result<Contest, Box<dyn Error>> {
    let contenders = vec![
        pipelined("metrics-client", Role::Store, encode_puts, b"ok\n\n")?,
        pipelined("redis-server", Role::RedisServer, encode_sets, b"+OK\r\n")?.bar(1.5),
    ];
    let elements = (SECONDS * workload::KEYS) as u64;
    Ok(Contest { name: "server, pipelined puts".into(), elements, contenders })
}

/// Sends what `encode` makes of an agent's samples, in blocks and without waiting for an answer.
fn pipelined(
    name: &'static str,
    role: Role,
    encode: fn(Vec<Sample>) -> Vec<u8>,
    answer: &'static [u8],
) -> Result<Contender, Box<dyn Error>> {
    let mut agent = Agent::new(workload::reading)?;
    let mut peer = None;
    Ok(Contender::new(name, move |iterations| {
        let peer = peer.get_or_insert_with(|| Peer::start(role).expect("the peer starts"));
        let samples = agent.samples(iterations as usize * SECONDS);
        let answers = samples.len() * answer.len();
        let requests = encode(samples);
        let client = BlockingClient::connect(peer.addr()).expect("the peer listens");
        let start = Instant::now();
        client.send(&requests, answers).expect("the peer answers");
        start.elapsed()
    }))
}

fn encode_puts(samples: Vec<Sample>) -> Vec<u8> {
    let mut codec = ClientCodec::default();
    let mut puts = BytesMut::new();
    for sample in samples {
        codec.encode(Request::Put(sample), &mut puts).expect("the values are finite");
    }
    puts.into()
}

/// `SET` of the key to the text of the value and the timestamp, as every Redis client sends it.
fn encode_sets(samples: Vec<Sample>) -> Vec<u8> {
    let mut sets = Vec::new();
    for sample in samples {
        let record = sample.to_string();
        let (key, value) = record.split_once(' ').expect("a record has a key");
        let lens = (key.len(), value.len());
        let set = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", lens.0, lens.1);
        sets.extend_from_slice(set.as_bytes());
    }
    sets
}

/// All that a large store holds, to a reader that only counts the bytes; and the same bytes from a
/// peer that has them ready.
fn get() -> Result<Contest, Box<dyn Error>> {
    let seconds = workload::stored_seconds();
    let elements = (seconds * workload::KEYS) as u64;
    let stored = Contender::retrieving("metrics-client", Role::Store, move |addr| {
        let client = BlockingClient::connect(addr).expect("the peer listens");
        let mut agent = Agent::new(workload::reading).expect("the keys are sound");
        for _ in 0..seconds / SECONDS_AT_ONCE {
            let samples = agent.samples(SECONDS_AT_ONCE);
            let answers = samples.len() * b"ok\n\n".len();
            client.send(&encode_puts(samples), answers).expect("the peer takes the puts");
        }
    })?;
    let ready = Contender::retrieving("a plain write", Role::RetrieveMany, |_| {})?.bar(0.35);
    Ok(Contest {
        name: format!("server, get * of {elements}"),
        elements,
        contenders: vec![stored, ready],
    })
}

/// How many seconds of samples are encoded at once when a store is filled.
const SECONDS_AT_ONCE: usize = 10;

impl Contender {
    /// One who gets everything from a peer in `role`, which is prepared first.
    fn retrieving(
        name: &'static str,
        role: Role,
        prepare: impl Fn(SocketAddr) + 'static,
    ) -> Result<Self, Box<dyn Error>> {
        let len = workload::stored_answer_len(workload::reading)?;
        let mut peer = None;
        Ok(Self::new(name, move |iterations| {
            let peer = peer.get_or_insert_with(|| {
                let peer = Peer::start(role).expect("the peer starts");
                prepare(peer.addr());
                peer
            });
            let client = BlockingClient::connect(peer.addr()).expect("the peer listens");
            let start = Instant::now();
            for _ in 0..iterations {
                client.send(b"get *\n", len).expect("the peer answers");
            }
            start.elapsed()
        }))
    }
}
