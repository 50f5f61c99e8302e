//! The server alone: the requests come from raw sockets.

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

use super::{Candidate, Comparison, Comparisons};
use crate::{
    baseline::blocking::BlockingClient,
    support::{
        server_process::{Behavior, REDIS_SERVER, ServerProcess},
        values,
        workload::{self, Agent},
    },
};

/// Taking puts as fast as they come, and answering `get *` from a large store.
///
/// Peers start in their first round: a run without these comparisons need not wait until
/// ten million points are stored.
pub(super) fn comparisons() -> Comparisons {
    let mut comparisons = vec![get()?];
    if is_installed(REDIS_SERVER) {
        comparisons.push(puts()?);
    } else {
        eprintln!(
            "\nSKIPPED: the comparison with {REDIS_SERVER}, which is not installed here.\n\
             SKIPPED: `apt-get install redis-server`, and run this again.\n"
        );
    }
    Ok(comparisons)
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
fn puts() -> Result<Comparison, Box<dyn Error>> {
    let candidates = vec![
        pipelined("metrics-client", Behavior::Store, encode_puts, b"ok\n\n")?,
        pipelined("redis-server", Behavior::RedisServer, encode_sets, b"+OK\r\n")?.min_ratio(1.5),
    ];
    let elements = (SECONDS * workload::KEYS) as u64;
    Ok(Comparison { name: "server, pipelined puts".into(), elements, candidates })
}

/// Sends what `encode` makes of an agent's samples, in blocks and without waiting for an answer.
fn pipelined(
    name: &'static str,
    behavior: Behavior,
    encode: fn(Vec<Sample>) -> Vec<u8>,
    answer: &'static [u8],
) -> Result<Candidate, Box<dyn Error>> {
    let mut agent = Agent::new(values::reading)?;
    let mut peer = None;
    Ok(Candidate::new(name, move |iterations| {
        let peer =
            peer.get_or_insert_with(|| ServerProcess::start(behavior).expect("the peer starts"));
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
fn get() -> Result<Comparison, Box<dyn Error>> {
    let seconds = workload::stored_seconds();
    let elements = (seconds * workload::KEYS) as u64;
    let stored = Candidate::retrieving("metrics-client", Behavior::Store, move |addr| {
        let client = BlockingClient::connect(addr).expect("the peer listens");
        let mut agent = Agent::new(values::reading).expect("the keys are sound");
        for _ in 0..seconds / SECONDS_AT_ONCE {
            let samples = agent.samples(SECONDS_AT_ONCE);
            let answers = samples.len() * b"ok\n\n".len();
            client.send(&encode_puts(samples), answers).expect("the peer takes the puts");
        }
    })?;
    let ready =
        Candidate::retrieving("a plain write", Behavior::RetrieveMany, |_| {})?.min_ratio(0.35);
    Ok(Comparison {
        name: format!("server, get * of {elements}"),
        elements,
        candidates: vec![stored, ready],
    })
}

/// How many seconds of samples are encoded at once when a store is filled.
const SECONDS_AT_ONCE: usize = 10;

impl Candidate {
    /// One who gets everything from a peer in `behavior`, which is prepared first.
    fn retrieving(
        name: &'static str,
        behavior: Behavior,
        prepare: impl Fn(SocketAddr) + 'static,
    ) -> Result<Self, Box<dyn Error>> {
        let len = workload::stored_answer_len(values::reading)?;
        let mut peer = None;
        Ok(Self::new(name, move |iterations| {
            let peer = peer.get_or_insert_with(|| {
                let peer = ServerProcess::start(behavior).expect("the peer starts");
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
