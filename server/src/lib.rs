#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "graphite")]
#[cfg_attr(docsrs, doc(cfg(feature = "graphite")))]
pub mod graphite;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
#[cfg(feature = "influx")]
#[cfg_attr(docsrs, doc(cfg(feature = "influx")))]
pub mod influx;
mod log_condition;
mod net;
/// The pages of documentation, whose examples are tested.
#[cfg(all(doctest, feature = "disk"))]
mod docs {
    #[doc = include_str!("../../docs/disk-store.md")]
    mod disk_store {}
}

#[cfg(feature = "relay")]
#[cfg_attr(docsrs, doc(cfg(feature = "relay")))]
pub mod relay;
mod server;
mod session;
pub mod stats;
pub mod store;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls;

pub use server::{Server, serve_connection};
pub use session::Limits;
pub use store::{MemoryStore, Store};
