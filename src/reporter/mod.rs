//! What a [reporter](crate::Reporter) is built with and reports: its builder, policies, handles of
//! single keys, guard and statistics.

mod attempts;
mod builder;
mod bulk;
mod dispatcher;
mod flush;
mod guard;
pub(crate) mod handle;
mod in_flight;
mod interner;
mod log;
mod outbox;
mod poison;
mod queue;
#[cfg(any(feature = "recorder", feature = "opentelemetry"))]
mod report_clock;
mod self_metrics;
mod settings;
mod settlement;
mod shared;
#[cfg(all(test, any(feature = "recorder", feature = "opentelemetry")))]
mod sink;
#[cfg_attr(not(feature = "spool"), path = "no_spool.rs")]
pub(crate) mod spool;
mod stats;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod worker;

pub use builder::ReporterBuilder;
#[cfg(feature = "recorder")]
pub(crate) use bulk::ReportDrops;
pub use guard::FlushGuard;
pub(crate) use handle::Reporter;
pub use handle::SeriesHandle;
#[cfg(any(feature = "recorder", feature = "opentelemetry"))]
pub(crate) use report_clock::{Stamp, UniqueSeconds, WallClock, whole_seconds};
#[cfg(all(test, any(feature = "recorder", feature = "opentelemetry")))]
pub(crate) use sink::Sink;
pub use stats::{DropCounts, DropReason, FlushError, ReporterStats};
