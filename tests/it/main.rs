//! All integration tests, as one binary.

// `unwrap` is how a test says that something must hold.
#![allow(clippy::unwrap_used, missing_docs)]
mod client;
mod faults;
mod models;
mod peer;
mod truth;
