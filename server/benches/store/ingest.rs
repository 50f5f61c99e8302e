//! The same points by several connections: as lines of InfluxDB over HTTP, as lines of Graphite, and as puts.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    lines::{graphite, puts, seconds, single, telegraf},
    load,
    options::Options,
    peer::Peer,
    report::{Bar, Report, Row, Unit},
    workload::FIRST_SECOND,
};

const CONNECTIONS: usize = 4;

/// How many points with one field are in a write: telegraf's `metric_batch_size` is 1,000, and agents in front of many
/// hosts have 5,000.
const BATCHES: [usize; 2] = [1_000, 5_000];

/// What a connection sends.
struct WriteLoad {
    requests: Vec<Vec<u8>>,
    points: usize,
    /// The last key, and its last second.
    last: (String, i64),
}

/// How the loads are sent.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    /// All at once; each put is answered.
    Put,
    /// Each request after the answer to the one before it.
    Http,
    /// All at once; nothing is answered, so the last point of each connection is asked for.
    Graphite,
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome {
    let rounds = options.choose(1, 3, 11);
    let seconds = options.choose(1, 20, 100);
    let batches = BATCHES.map(|batch| options.choose(batch / 100, batch, batch));
    for batch in batches {
        let count = options.choose(1, seconds, seconds * 1_000 / batch);
        let put = loads(count, batch, puts);
        let influx = loads(count, batch, single).map(WriteLoad::over_http);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            theirs.push(rate(&put, Protocol::Put)?);
            ours.push(rate(&influx, Protocol::Http)?);
        }
        let what = format!("InfluxDB: writes of {batch} lines with one field");
        report.push(row(what, &ours, &theirs, 0.5));
    }
    let batch = batches[1];
    let count = options.choose(1, seconds, seconds / 5);
    let put = loads(count, batch, puts);
    let hosts =
        loads_of_telegraf(options.choose(1, 20, 60), seconds / 5 + 1).map(WriteLoad::over_http);
    let lines = loads(count, batch, graphite);
    let (mut telegraf, mut graphite, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        theirs.push(rate(&put, Protocol::Put)?);
        telegraf.push(rate(&hosts, Protocol::Http)?);
        graphite.push(rate(&lines, Protocol::Graphite)?);
    }
    report.push(row("InfluxDB: what telegraf sends of 60 hosts".into(), &telegraf, &theirs, 0.5));
    report.push(row("Graphite: lines over TCP".into(), &graphite, &theirs, 0.8));
    report.note(format!(
        "Points a second of {CONNECTIONS} connections into a `MemoryStore`; sender and server share the two cores."
    ));
    Ok(())
}

fn row(what: String, ours: &[f64], theirs: &[f64], bar: f64) -> Row {
    Row::rounds(what, Unit::Rate, ours, "puts", theirs).bar(Bar::RatioAtLeast(bar))
}

/// Returns what each connection sends: batches of keys of its own, a second each.
fn loads(
    count: usize,
    batch: usize,
    print: fn(Range<usize>, i64) -> String,
) -> [WriteLoad; CONNECTIONS] {
    std::array::from_fn(|connection| {
        let keys = connection * batch..(connection + 1) * batch;
        let requests = seconds(count).map(|second| print(keys.clone(), second).into_bytes());
        let last = graphite(keys.end - 1..keys.end, 0);
        let key = last.split(' ').next().unwrap_or_default().to_owned();
        let last = (key, FIRST_SECOND + count as i64 - 1);
        WriteLoad { requests: requests.collect(), points: count * batch, last }
    })
}

fn loads_of_telegraf(hosts: usize, count: usize) -> [WriteLoad; CONNECTIONS] {
    std::array::from_fn(|connection| {
        let (mut requests, mut points) = (Vec::new(), 0);
        for second in seconds(count) {
            let (text, more) = telegraf(connection * hosts..(connection + 1) * hosts, second);
            requests.push(text.into_bytes());
            points += more;
        }
        WriteLoad { requests, points, last: (String::new(), 0) }
    })
}

impl WriteLoad {
    fn over_http(mut self) -> Self {
        for body in &mut self.requests {
            let head = format!(
                "POST /write?db=metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            *body = [head.as_bytes(), body].concat();
        }
        self
    }
}

/// Sends the loads to a new server. Returns how many points were stored in a second.
fn rate(loads: &[WriteLoad], protocol: Protocol) -> Outcome<f64> {
    let peer = Peer::memory_with_http()?;
    let points: usize = loads.iter().map(|load| load.points).sum();
    let start = Instant::now();
    thread::scope(|scope| {
        let senders: Vec<_> = loads
            .iter()
            .map(|load| {
                scope.spawn(|| load.send(&peer, protocol).map_err(|error| error.to_string()))
            })
            .collect();
        senders.into_iter().try_for_each(|sender| sender.join().expect("sending does not panic"))
    })?;
    Ok(points as f64 / start.elapsed().as_secs_f64())
}

impl WriteLoad {
    fn send(&self, peer: &Peer, protocol: Protocol) -> Outcome {
        match protocol {
            Protocol::Put => {
                let mut requests = self.requests.iter();
                let count = self.points / self.requests.len();
                load::fill(peer.addr(), |block| {
                    block.extend_from_slice(requests.next()?);
                    Some(count)
                })?;
            }
            Protocol::Http => self.post(peer.http_addr())?,
            Protocol::Graphite => {
                let mut io = TcpStream::connect(peer.graphite_addr())?;
                for request in &self.requests {
                    io.write_all(request)?;
                }
                io.shutdown(Shutdown::Write)?;
                self.wait_for_last(peer.addr())?;
            }
        }
        Ok(())
    }

    fn post(&self, addr: SocketAddr) -> Outcome {
        let mut io = TcpStream::connect(addr)?;
        io.set_nodelay(true)?;
        let mut answer = [0; 1024];
        for request in &self.requests {
            io.write_all(request)?;
            let mut len = 0;
            while !answer[..len].ends_with(b"\r\n\r\n") {
                match io.read(&mut answer[len..])? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    more => len += more,
                }
            }
            if !answer.starts_with(b"HTTP/1.1 204") {
                return Err(String::from_utf8_lossy(&answer[..len]).into());
            }
        }
        Ok(())
    }

    /// Gets the last key until it has its last point.
    fn wait_for_last(&self, addr: SocketAddr) -> Outcome {
        let (key, second) = &self.last;
        let last = format!(" {second}\n");
        let mut io = TcpStream::connect(addr)?;
        loop {
            io.write_all(format!("get {key}\n").as_bytes())?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\n\n") {
                let mut block = [0; 4096];
                let len = io.read(&mut block)?;
                answer.extend_from_slice(&block[..len]);
            }
            if String::from_utf8(answer)?.contains(&last) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
