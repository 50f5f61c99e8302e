//! A server on a pipe, for tests of reports.

#![allow(clippy::unwrap_used, reason = "it is a part of tests")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex, split};

use crate::client::{MetricsClient, Pipelining};

/// The puts that were received, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<(String, i64, f64)>>>);

impl Sink {
    /// Returns a sink, and a client that sends to it.
    pub(crate) fn connected() -> (Self, MetricsClient) {
        let (near, far) = duplex(64 * 1024);
        let sink = Self::default();
        tokio::spawn(sink.clone().serve(far));
        (sink, MetricsClient::builder("a pipe").pipelining(Pipelining::On).with_io(near))
    }

    /// Returns the points of a key as a server stores them: the last value of each second.
    pub(crate) fn points(&self, key: &str) -> Vec<(i64, f64)> {
        let mut points = std::collections::BTreeMap::new();
        for (of, second, value) in &*self.0.lock().unwrap() {
            if of == key {
                points.insert(*second, *value);
            }
        }
        points.into_iter().collect()
    }

    pub(crate) fn values(&self, key: &str) -> Vec<f64> {
        self.points(key).into_iter().map(|(_, value)| value).collect()
    }

    /// Returns the seconds of all puts of a key, in the order of arrival.
    pub(crate) fn seconds(&self, key: &str) -> Vec<i64> {
        let puts = self.0.lock().unwrap();
        puts.iter().filter(|(of, ..)| of == key).map(|(_, second, _)| *second).collect()
    }

    async fn serve(self, io: DuplexStream) {
        let (read, mut write) = split(io);
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let fields: Vec<_> = line.split(' ').collect();
            let ["put", key, value, second] = fields[..] else { panic!("{line}") };
            let put = (key.to_string(), second.parse().unwrap(), value.parse().unwrap());
            self.0.lock().unwrap().push(put);
            write.write_all(b"ok\n\n").await.unwrap();
        }
    }
}
