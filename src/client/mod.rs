//! What a [client](crate::MetricsClient) is configured with and reports: connectors, policies,
//! connection state, statistics, and the stream of samples.

mod address;
mod backoff;
mod batch;
mod budgeted;
pub(crate) mod builder;
mod connection;
mod connector;
mod default_connector;
mod dialer;

mod driver;
mod driver_log;
pub(crate) mod durations;
mod greeting;
pub(crate) mod handle;
mod hangup;
#[cfg(test)]
#[cfg(loom_model)]
mod loom_tests;
mod outcomes;
mod pipeline;
mod pool;
mod probe;
mod probe_backoff;
#[cfg(feature = "tower")]
mod reservation;
mod resolver;
mod retirement;
mod send_window;
mod settings;
mod shared;
mod sink;
mod state;
mod state_watcher;
mod stats;
mod stream;
mod sync;
mod tcp;
mod timer;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod turn;
#[cfg(unix)]
mod unix;
mod write_coalescing;

pub use address::{Address, Addresses, ToAddresses};
pub use backoff::ReconnectPolicy;
pub use connector::{BoxConnection, BoxConnector, Connector, ConnectorFn, connector_fn};
pub use default_connector::{DefaultConnection, DefaultConnector};
#[cfg(any(feature = "reporter", feature = "tower"))]
pub(crate) use handle::MetricsClient;
#[cfg(feature = "reporter")]
pub(crate) use hangup::ENOUGH_PROOFS;
#[cfg(feature = "reporter")]
pub(crate) use outcomes::{Outcomes, SampleOutcome};
#[cfg(feature = "tower")]
pub(crate) use reservation::{CallFuture, Reservations};
pub use settings::{Pipelining, ServerOrder, WhenFull};
pub use sink::SampleSink;
pub use state::ConnectionState;
pub use state_watcher::StateWatcher;
pub use stats::ClientStats;
pub use stream::SampleStream;
pub use tcp::TcpConnector;
#[cfg(unix)]
pub use unix::UnixConnector;
