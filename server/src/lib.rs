#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod server;
mod session;
pub mod store;

pub use server::{Server, serve_connection};
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use session::TlsAcceptor;
pub use session::{Limits, Monitor, ServerStats};
pub use store::{MemoryStore, Store};
