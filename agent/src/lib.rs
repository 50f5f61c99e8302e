//! Measures a host, and sends what it measures to a metrics server.
//!
//! - [`Host`]: what cpu, memory, disks, network, processes and temperatures are now.
//! - [`Names`]: the keys of measurements, with the host's name, labels and filters.
//! - [`Schedule`]: when to measure, aligned to the wall clock.
//! - [`Statsd`]: what programs of the host report by StatsD.
//! - [`Agent`]: measures at each due second and records that in a [`Reporter`](metrics_client::Reporter).

mod agent;
mod filter;
mod host;
mod names;
mod schedule;
mod statsd;

pub use agent::{Agent, AgentSettings};
pub use filter::{Filter, InvalidFilter};
pub use host::{Host, Measurement};
pub use names::{InvalidLabels, KeyStyle, Names};
pub use schedule::{Schedule, WallClock};
#[doc(hidden)]
pub use statsd::fuzz_packet;
pub use statsd::{Statsd, StatsdSettings, StatsdStats};
