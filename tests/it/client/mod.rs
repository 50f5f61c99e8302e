//! The client, against a peer that the test plays, with paused time.

mod address;
mod allocations;
mod basics;
mod bounds;
mod budget;
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
mod standstill;
mod state;
mod stream;
#[cfg(unix)]
mod unix;
mod zeros;
