//! A test oracle: a sound server over TCP that records what is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use tokio::net::TcpListener;

use crate::mock_server::{self, Reply};

/// What is stored, and how it came to be.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) series: BTreeMap<String, BTreeMap<i64, f64>>,
    /// Every put that was carried out, in order.
    pub(crate) log: Vec<StoredPut>,
    /// The connections on which the client looks for a request at which the server closes: there
    /// the first put is a question, and comes again in its turn.
    pub(crate) checked: BTreeSet<usize>,
    /// The newest connection that has put anything for a key.
    newest: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredPut {
    pub(crate) connection: usize,
    pub(crate) key: String,
    pub(crate) timestamp: i64,
    pub(crate) value: f64,
}

pub(crate) type SharedOracle = Arc<Mutex<Oracle>>;

/// What begins the keys of the question whether a server can pipeline.
pub(crate) const PROBE: &str = "pipelining-probe.";

/// What begins the keys of the question whether a server answers at all.
pub(crate) const HANGUP_PROBE: &str = "hangup-probe.";

/// What a server answers to what is no request.
pub(crate) const WRONG_COMMAND: &str = "error\nwrong command\n\n";

impl Oracle {
    /// Carries out a request of a connection, and returns the answer.
    ///
    /// A client has one connection at a time for a key, so what comes over an older one is what a slow
    /// network brings of requests whose callers were told long ago that their fate is unknown.
    /// It gets no response, so that a test knows which put of a second was the last.
    pub(crate) fn answer(&mut self, connection: usize, request: &str) -> Option<String> {
        let key = request.split_whitespace().nth(1).unwrap_or_default();
        if self.newest.get(key).is_some_and(|&newest| connection < newest) {
            return None;
        }
        Some(self.carry_out(connection, request).unwrap_or_else(|| WRONG_COMMAND.into()))
    }

    fn carry_out(&mut self, connection: usize, request: &str) -> Option<String> {
        match *request.split_whitespace().collect::<Vec<_>>() {
            ["put", key, value, timestamp] => {
                let (value, timestamp) = (value.parse().ok()?, timestamp.parse().ok()?);
                self.newest.insert(key.into(), connection);
                self.series.entry(key.into()).or_default().insert(timestamp, value);
                self.log.push(StoredPut { connection, key: key.into(), timestamp, value });
                Some("ok\n\n".into())
            }
            ["get", selector] => {
                if selector.starts_with(HANGUP_PROBE) {
                    self.checked.insert(connection);
                }
                let series = self.series.iter();
                let wanted = series.filter(|(key, _)| selector == "*" || *key == selector);
                let records = wanted.flat_map(|(key, points)| {
                    points
                        .iter()
                        .map(move |(timestamp, value)| format!("{key} {value:?} {timestamp}\n"))
                });
                Some(format!("ok\n{}\n", records.collect::<String>()))
            }
            _ => None,
        }
    }
}

/// Serves by line, for ever.
pub(crate) async fn serve(listener: TcpListener, oracle: SharedOracle) {
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let oracle = Arc::clone(&oracle);
        tokio::spawn(mock_server::serve_connection(stream, move |request| {
            let answer = oracle.lock().unwrap().answer(connection, request);
            answer.map_or(Reply::Close, |answer| Reply::Text(answer.into()))
        }));
    }
}
