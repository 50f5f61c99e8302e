//! A listener for StatsD: programs in any language report through the agent.
//!
//! `line` parses, `series` aggregates over an interval within bounds, with `timer` for what has percentiles, and
//! `listener` receives on a thread of its own.

mod line;
mod listener;
mod series;
mod timer;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use listener::Statsd;
pub(crate) use series::Aggregates;
use series::Aggregator;

/// What a [`Statsd`] listens on, and its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsdSettings {
    /// The address for UDP.
    pub udp: Option<SocketAddr>,
    /// The path of a Unix socket for datagrams.
    pub unix: Option<PathBuf>,
    /// The most series: names with their tags.
    pub max_series: usize,
    /// The most members of one set in an interval.
    pub max_set_members: usize,
    /// The percentiles of timers, from 0 to 100.
    pub percentiles: Vec<f64>,
    /// How long a gauge is sent again that no program sets.
    pub keep_gauges: Duration,
    /// The size of the sockets' buffers, in bytes, as far as the system allows.
    pub receive_buffer: usize,
}

impl Default for StatsdSettings {
    fn default() -> Self {
        Self {
            udp: None,
            unix: None,
            max_series: 10_000,
            max_set_members: 10_000,
            percentiles: vec![50.0, 90.0, 99.0],
            keep_gauges: Duration::from_secs(3600),
            receive_buffer: 4 * 1024 * 1024,
        }
    }
}

/// Counters of a [`Statsd`] since it has started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatsdStats {
    /// Datagrams that were received.
    pub packets: u64,
    /// Lines that were aggregated.
    pub lines: u64,
    /// Lines that are invalid.
    pub invalid: u64,
    /// Events and service checks, which have no value.
    pub skipped: u64,
    /// Lines of further series than the settings allow, of a kind that another program gives the same name, or with a
    /// name that is too long.
    pub refused: u64,
    /// Further members of a set than the settings allow.
    pub refused_members: u64,
    /// Datagrams that were longer than the receiver's buffer, whose end is lost.
    pub truncated: u64,
    /// Datagrams that the system has dropped because they came faster than they were read; on Linux.
    pub dropped: u64,
    /// Series that are known now.
    pub series: u64,
}

/// Parses and aggregates a packet as the listener does; panics if that breaks one of its rules. For fuzzing.
#[doc(hidden)]
pub fn fuzz_packet(packet: &[u8]) {
    let settings =
        StatsdSettings { max_series: 8, max_set_members: 4, ..StatsdSettings::default() };
    let mut aggregator = Aggregator::new(settings);
    let now = Duration::ZERO;
    for _ in 0..2 {
        aggregator.receive(packet, now);
        let stats = aggregator.stats();
        let lines = packet.split(|&byte| byte == b'\n').count() as u64;
        let seen = stats.lines + stats.invalid + stats.skipped + stats.refused;
        assert!(seen <= lines * stats.packets, "{stats:?}");
        assert!(stats.series <= 8, "{stats:?}");
        for (name, tags, value) in aggregator.take(now).values() {
            assert!(value.is_finite(), "{name} {tags:?} {value}");
            assert!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?}");
        }
    }
}
