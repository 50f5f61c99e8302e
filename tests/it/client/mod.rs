//! The client, against a peer that the test plays, with paused time.

mod address;
mod allocations;
mod basics;
mod cancel;
mod close;
mod coop_budget;
mod deadlines;
mod errors;
mod failover;
mod hangup;
mod lifetime;
mod limits;
mod log_events;
mod pipelining;
mod pool;
mod put_all;
mod quirks;
mod reconnect;
mod runtime_stall;
mod sample_stream;
mod short_connections;
mod sink;
mod state;
#[cfg(unix)]
mod unix;
mod zero_settings;
