//! The client, against a peer that the test plays, with paused time.

mod allocations;
mod basics;
mod bounds;
mod cancel;
mod deadlines;
mod events;
mod hangup;
mod outcomes;
mod peculiar;
mod pipelining;
mod pool;
mod reconnect;
mod short_lived;
mod stream;
#[cfg(all(unix, feature = "server"))]
mod unix;
