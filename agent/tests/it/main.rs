//! Tests of the agent from outside: corpora of fuzz targets, clients of others, many agents.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod clients;
mod corpus;
#[cfg(target_os = "linux")]
mod fleet;
