//! Relays: what a store has applied is sent on to other systems.
//!
//! A [`Relay`] is attached to a [`Tee`](crate::store::Tee), so it gets the puts of every listener that puts through it, on
//! whatever store. Each relay has its own queue in memory and its own spool on disk, so a destination that is slow or
//! gone delays no put, and no other destination.
//!
//! ```
//! use metrics_server::{MemoryStore, Server, relay::{Destination, Relay}, store::Tee};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let other = Server::bind("127.0.0.1:0").await?;
//! # let other_addr = other.local_addr();
//! # tokio::spawn(other.serve());
//! # let spool = tempfile::tempdir()?;
//!
//! let destination: Destination = format!("metrics://{other_addr}").parse()?;
//! let relay = Relay::builder(destination).open(spool.path().join("other")).await?;
//! let store = Tee::new(MemoryStore::new(), 1024).observer(relay.observer());
//! let server = Server::bind("127.0.0.1:0").await?.store(store);
//! let client = metrics_client::MetricsClient::connect(server.local_addr()).await?;
//! tokio::spawn(server.serve());
//! client.put("palm.cpu", 23.7).await?;
//!
//! relay.close().await; // sends what is queued, or stores it
//! assert_eq!(relay.stats().delivered, 1);
//! # Ok(()) }
//! ```

mod backoff;
mod builder;
mod chunk;
mod destination;
mod events;
mod handle;
mod influx_url;
mod invalid_destination;
mod queue;
mod records;
mod rules;
mod sink;
mod spool;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

pub use builder::{RelayBuilder, RelayError};
pub use destination::Destination;
pub use handle::Relay;
pub use invalid_destination::InvalidDestination;
pub use rules::{InvalidRename, Rename, Rules};
pub use stats::{DroppedPoints, RelayStats};
