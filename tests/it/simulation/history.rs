//! The events of a simulation in order, and the checks of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics_client::{Delivery, Error, Metrics, Sample, Selector};
use metrics_server::store::PutBatch;

/// A place in the order of all events. A simulation runs on one thread, so there is one order.
pub(super) type Moment = usize;

/// Which put wrote the value of each key and second.
pub(super) type PutsByKey = BTreeMap<String, BTreeMap<i64, PutId>>;

pub(super) type PutId = usize;

/// The prefix of log lines about what must not happen.
pub(super) const VIOLATION: &str = "VIOLATION";

pub(super) type SharedHistory = Arc<Mutex<History>>;

/// Every event of a simulation, as a record for the checks and as a line of the log.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) log: Vec<String>,
    /// The time, where no simulated host is running.
    pub(super) now: Duration,
    pub(super) puts: Vec<PutRecord>,
    pub(super) applied: Vec<Applied>,
    pub(super) connections: BTreeMap<SocketAddr, Connection>,
    /// The connections on which a client looks for a request at which the server closes: there the
    /// first put is a question, and comes again in its turn.
    pub(super) checked: BTreeSet<SocketAddr>,
    /// At what the server has closed a connection because the store failed for a while.
    hangups: Vec<Hangup>,
    pub(super) stored: PutsByKey,
    /// What must not have happened.
    pub(super) violations: Vec<String>,
}

#[derive(Debug)]
pub(super) struct PutRecord {
    pub(super) client: usize,
    pub(super) agent: usize,
    pub(super) sample: Sample,
    pub(super) begun: Moment,
    pub(super) ended: Option<(Moment, PutOutcome)>,
}

/// What a caller knows of its put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    Acknowledged,
    Rejected,
    NotSent,
    /// Sent, or its future was dropped.
    Unknown,
}

/// A put was carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) put: PutId,
    pub(super) connection: SocketAddr,
    pub(super) at: Moment,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: usize,
    pub(super) made: Moment,
    /// When the client dropped its end.
    pub(super) given_up: Option<Moment>,
}

/// The store fails for a while at a request, and the server closes its client's connection.
#[derive(Debug, PartialEq, Eq)]
enum Hangup {
    Put(PutId),
    Get { client: usize, key: Option<String> },
}

/// How often that has to happen to a request until a client may take the request for the cause.
const ENOUGH_HANGUPS: usize = 5;

/// What was stored when a get began.
#[derive(Debug)]
pub(super) struct Reading {
    client: usize,
    hangups: usize,
    key: Option<String>,
    stored: PutsByKey,
    applied: usize,
}

impl From<&Result<(), Error>> for PutOutcome {
    fn from(result: &Result<(), Error>) -> Self {
        match result.as_ref().map_err(Error::delivery) {
            Ok(()) => Self::Acknowledged,
            Err(Delivery::NotSent) => Self::NotSent,
            Err(Delivery::Rejected) => Self::Rejected,
            Err(_) => Self::Unknown,
        }
    }
}

impl History {
    /// Writes down that something happens now.
    pub(super) fn note(&mut self, event: impl Display) -> Moment {
        let now = turmoil::sim_elapsed().unwrap_or(self.now);
        self.log.push(format!("{:>6} {event}", now.as_millis()));
        self.log.len()
    }

    /// Writes down what must not happen.
    pub(super) fn violation(&mut self, what: impl Display) {
        self.note(format_args!("{VIOLATION}: {what}"));
        self.violations.push(what.to_string());
    }

    /// A put begins. Its value says which it is.
    pub(super) fn begin_put(
        &mut self,
        (client, agent): (usize, usize),
        key: &str,
        timestamp: i64,
    ) -> (PutId, Sample) {
        let put = self.puts.len();
        // Short decimals, long ones and whole numbers take different ways through the codecs.
        let value = put as f64 + [0.0, 0.5, 1.0 / 3.0, 0.1][put % 4];
        let sample = Sample::new(key, value, timestamp).unwrap();
        let begun = self.note(format_args!("{client}.{agent} puts {put}: {key} at {timestamp}"));
        self.puts.push(PutRecord { client, agent, sample: sample.clone(), begun, ended: None });
        (put, sample)
    }

    pub(super) fn end_put(&mut self, put: PutId, outcome: PutOutcome) {
        let ended = self.note(format_args!("put {put} ends: {outcome:?}"));
        self.puts[put].ended = Some((ended, outcome));
    }

    pub(super) fn connected(&mut self, client: usize, address: SocketAddr, server: &str) {
        let made = self.note(format_args!("client {client} connects to {server} as {address}"));
        self.connections.insert(address, Connection { client, made, given_up: None });
    }

    pub(super) fn gave_up(&mut self, address: SocketAddr) {
        let moment = self.note(format_args!("{address} is dropped"));
        if let Some(connection) = self.connections.get_mut(&address) {
            connection.given_up = Some(moment);
        }
    }

    /// The connections that a client has made and not dropped.
    pub(super) fn kept(&self, client: usize) -> impl Iterator<Item = SocketAddr> {
        let kept = self.connections.iter().filter(move |(_, connection)| {
            connection.client == client && connection.given_up.is_none()
        });
        kept.map(|(&address, _)| address)
    }

    /// The store carries out a batch that came over a connection, all of it at this moment.
    pub(super) fn apply(&mut self, connection: SocketAddr, puts: &PutBatch) {
        let ids = puts
            .iter()
            .filter_map(|(key, point)| self.identify(key, point.timestamp, point.value))
            .collect::<Vec<_>>();
        let at = self.note(format_args!("{connection} stores {ids:?}"));
        for put in ids {
            let sample = &self.puts[put].sample;
            replace(&mut self.stored, sample, put);
            self.applied.push(Applied { put, connection, at });
        }
    }

    pub(super) fn hangs_up_at_puts(&mut self, connection: SocketAddr, puts: &PutBatch) {
        for (key, point) in puts {
            if let Some(put) = self.identify(key, point.timestamp, point.value) {
                self.hangups.push(Hangup::Put(put));
            }
        }
        self.note(format_args!("the store fails, and {connection} is hung up"));
    }

    pub(super) fn hangs_up_at_get(&mut self, connection: SocketAddr, selector: &Selector) {
        let client = self.connections[&connection].client;
        let key = if let Selector::Key(key) = selector { Some(key.to_string()) } else { None };
        self.note(format_args!("the store fails, and {connection} is hung up at {key:?}"));
        self.hangups.push(Hangup::Get { client, key });
    }

    /// Whether the store has failed so often at this put that it looks like the cause.
    pub(super) fn seems_to_be_the_cause(&self, put: PutId) -> bool {
        let hangups = self.hangups.iter().filter(|hangup| **hangup == Hangup::Put(put));
        hangups.count() >= ENOUGH_HANGUPS
    }

    /// The same for a get, since it began.
    pub(super) fn get_seems_to_be_the_cause(&self, reading: &Reading) -> bool {
        let (client, key) = (reading.client, reading.key.clone());
        let get = Hangup::Get { client, key };
        let hangups = self.hangups[reading.hangups..].iter().filter(|hangup| **hangup == get);
        hangups.count() >= ENOUGH_HANGUPS
    }

    /// A get begins, of a key or of all.
    pub(super) fn begin_get(&mut self, who: (usize, usize), key: Option<&str>) -> Reading {
        self.note(format_args!("{}.{} gets {}", who.0, who.1, key.unwrap_or("*")));
        Reading {
            client: who.0,
            hangups: self.hangups.len(),
            key: key.map(str::to_string),
            stored: self.stored.clone(),
            applied: self.applied.len(),
        }
    }

    /// A get has found this: was it ever true since it began?
    pub(super) fn end_get(&mut self, reading: Reading, found: &Metrics) {
        self.note(format_args!("a get has found {} points", found.point_count()));
        let series = self.series(found);
        let Reading { key, mut stored, applied, .. } = reading;
        let is_wanted = |name: &str| key.as_deref().is_none_or(|key| key == name);
        stored.retain(|name, _| is_wanted(name));
        let mut was_true = stored == series;
        for batch in self.applied[applied..].chunk_by(|one, next| one.at == next.at) {
            for applied in batch {
                let sample = &self.puts[applied.put].sample;
                if is_wanted(sample.key.as_str()) {
                    replace(&mut stored, sample, applied.put);
                }
            }
            was_true |= stored == series;
        }
        if !was_true {
            self.violation(format_args!("never true while {key:?} was read: {series:?}"));
        }
    }

    /// Which puts wrote these points.
    pub(super) fn series(&mut self, found: &Metrics) -> PutsByKey {
        let mut series = PutsByKey::new();
        for (key, points) in found {
            for point in points {
                if let Some(put) = self.identify(key.as_str(), point.timestamp, point.value) {
                    series.entry(key.to_string()).or_default().insert(point.timestamp, put);
                }
            }
        }
        series
    }

    /// Which put wrote this, if there is one that can have.
    fn identify(&mut self, key: &str, timestamp: i64, value: f64) -> Option<PutId> {
        let id = value as PutId;
        let known = self.puts.get(id).is_some_and(|PutRecord { sample, .. }| {
            (sample.key.as_str(), sample.point.timestamp, sample.point.value)
                == (key, timestamp, value)
        });
        if !known {
            self.violation(format_args!("{key} {value} {timestamp} was never put"));
        }
        known.then_some(id)
    }

    /// Holds everything that has happened against what was promised. `retries` says of each client
    /// whether it may send a put again.
    pub(super) fn judge(&mut self, retries: &[bool]) {
        let mut violations = Vec::new();
        self.check_applied(retries, &mut violations);
        self.check_order(&mut violations);
        self.check_outcomes(&mut violations);
        self.check_last(&mut violations);
        violations.into_iter().for_each(|violation| self.violation(violation));
    }

    /// A put is carried out over a connection of its client that was there before
    /// it ended, once for each, and more than once only if that was allowed.
    fn check_applied(&self, retries: &[bool], violations: &mut Vec<String>) {
        let mut known = BTreeSet::new();
        let mut before = BTreeSet::new();
        let mut checked = self.checked.clone();
        for applied in &self.applied {
            let &Applied { put: id, connection: address, at } = applied;
            let is_question = checked.remove(&address);
            let (put, connection) = (&self.puts[id], &self.connections[&address]);
            if put.client != connection.client {
                violations.push(format!("put {id} came over another client's connection"));
            }
            if !is_question && !known.insert((id, address)) {
                violations.push(format!("put {id} came twice over one connection"));
            }
            if !before.insert(id) && !retries[put.client] {
                violations.push(format!("put {id} came twice, against its client's orders"));
            }
            if let Some((ended, outcome)) = put.ended {
                if outcome == PutOutcome::NotSent {
                    violations.push(format!("put {id} was not sent, and came"));
                }
                let was_sent_again = is_question
                    || retries[put.client]
                        && connection.given_up.is_some_and(|moment| moment < ended);
                if outcome == PutOutcome::Rejected && !was_sent_again {
                    violations.push(format!("put {id} was refused, and came"));
                }
                if connection.made > ended {
                    violations.push(format!("put {id} was sent again after it had ended"));
                }
                if outcome == PutOutcome::Acknowledged && at > ended && !self.is_straggler(applied)
                {
                    violations.push(format!("put {id} came again after it was acknowledged"));
                }
            }
        }
    }

    /// Over one connection the puts of an agent come in the order in which it made them.
    fn check_order(&self, violations: &mut Vec<String>) {
        let mut last = BTreeMap::new();
        let mut checked = self.checked.clone();
        for &Applied { put, connection, .. } in &self.applied {
            if checked.remove(&connection) {
                continue;
            }
            let before = last.insert((connection, self.puts[put].agent), put);
            if let Some(before) = before.filter(|&before| before > put) {
                violations.push(format!("put {put} came after {before} over one connection"));
            }
        }
    }

    /// Every put has ended, and every acknowledged one was stored between its call and its return.
    fn check_outcomes(&self, violations: &mut Vec<String>) {
        let mut applied = BTreeMap::<PutId, Vec<Moment>>::new();
        for &Applied { put, at, .. } in &self.applied {
            applied.entry(put).or_default().push(at);
        }
        for (id, put) in self.puts.iter().enumerate() {
            let Some((ended, outcome)) = put.ended else {
                violations.push(format!("put {id} has never ended"));
                continue;
            };
            let moments = applied.get(&id).map_or(&[][..], Vec::as_slice);
            let meanwhile = moments.iter().any(|at| (put.begun..ended).contains(at));
            if outcome == PutOutcome::Acknowledged && !meanwhile {
                violations.push(format!("put {id} was acknowledged, and is lost"));
            }
        }
    }

    /// What stands for a key and second in the end is not older than a put that was acknowledged,
    /// unless it came late: over a connection that its client had abandoned, or, with another
    /// client's put acknowledged in between, from a caller that got `Delivery::Unknown`.
    fn check_last(&self, violations: &mut Vec<String>) {
        let last =
            self.applied.iter().map(|applied| (applied.put, applied)).collect::<BTreeMap<_, _>>();
        for (key, points) in &self.stored {
            for (&timestamp, &id) in points {
                let put = &self.puts[id];
                let newer = self.puts.iter().enumerate().find(|(_, newer)| {
                    let sample = &newer.sample;
                    (sample.key.as_str(), sample.point.timestamp) == (key, timestamp)
                        && matches!(newer.ended, Some((_, PutOutcome::Acknowledged)))
                        && put.ended.is_some_and(|(ended, outcome)| {
                            ended < newer.begun
                                && (put.client == newer.client
                                    || outcome == PutOutcome::Acknowledged)
                        })
                });
                if let Some((newer, _)) = newer
                    && !self.is_straggler(last[&id])
                {
                    violations.push(format!("put {newer} was acknowledged, and {id} is there"));
                }
            }
        }
    }

    /// Returns whether it came over a connection that its client had abandoned: then its time is unknown.
    fn is_straggler(&self, applied: &Applied) -> bool {
        self.connections[&applied.connection].given_up.is_some_and(|moment| moment < applied.at)
    }
}

fn replace(series: &mut PutsByKey, sample: &Sample, put: PutId) {
    series.entry(sample.key.to_string()).or_default().insert(sample.point.timestamp, put);
}
