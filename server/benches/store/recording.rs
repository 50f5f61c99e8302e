//! A recording of a Linux host: 141 series, one point a second, 20 minutes.

use std::io::Read;

use lzma_rust2::XzReader;
use metrics_client::{Key, Point};

use crate::Outcome;

/// `put` lines, compressed by `xz`: what an agent for `/proc` has sent.
const RECORDING: &[u8] = include_bytes!("host-metrics-1200s.put.xz");

/// The points of a recording, in the order of their time.
#[derive(Debug)]
pub(crate) struct Recording {
    /// The part of each name behind the first.
    pub(crate) series: Vec<String>,
    /// Each point with the index of its series.
    pub(crate) points: Vec<(usize, Point)>,
}

impl Recording {
    pub(crate) fn read() -> Outcome<Self> {
        let mut text = String::new();
        XzReader::new(RECORDING, true).read_to_string(&mut text)?;
        let mut recording = Self { series: Vec::new(), points: Vec::new() };
        let mut indices = std::collections::HashMap::new();
        for line in text.lines() {
            let mut words = line.split(' ').skip(1);
            let mut word = || words.next().ok_or("a line of the recording is incomplete");
            let (key, value) = (word()?, word()?.parse::<f64>()?);
            let second = word()?.parse()?;
            let series = key.strip_prefix("host.").unwrap_or(key);
            let index = *indices.entry(series).or_insert_with(|| {
                recording.series.push(series.into());
                recording.series.len() - 1
            });
            recording.points.push((index, Point::new(value, second)));
        }
        Ok(recording)
    }

    /// Returns the keys under some names of hosts: those of the first host, then those of the second.
    pub(crate) fn keys(&self, hosts: usize) -> Vec<Key> {
        let names = (0..hosts).flat_map(|host| {
            self.series.iter().map(move |series| format!("host{host:02}.{series}"))
        });
        names.map(|name| Key::new(name).expect("the recorded names are valid")).collect()
    }

    /// Iterates over the points of each second, with the indices of their series.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = &[(usize, Point)]> {
        self.points.chunk_by(|(_, one), (_, other)| one.timestamp == other.timestamp)
    }
}
