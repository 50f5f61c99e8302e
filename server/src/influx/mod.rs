//! What InfluxDB's clients and agents send: the line protocol and its HTTP endpoints.

pub(crate) mod line;

#[doc(hidden)]
pub use line::fuzz as fuzz_line;
