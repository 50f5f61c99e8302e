//! An async Tokio client for metrics servers that speak a line protocol.
//!
//! A [`MetricsClient`] stores measurements and reads them back over one connection that all tasks
//! share. It pipelines requests where the server allows it, reconnects by itself, resends
//! unacknowledged puts in order, and ends every call by its deadline.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = metrics_server::Server::bind("127.0.0.1:0").await?;
//! # let address = server.local_addr();
//! # tokio::spawn(server.serve_until(std::future::pending::<()>()));
//! use metrics_client::MetricsClient;
//!
//! let client = MetricsClient::connect(address).await?;
//! client.put("palm.cpu", 23.7).await?;
//! client.put_at("palm.cpu", 0.5, 1150864247).await?;
//!
//! let metrics = client.get("palm.cpu").await?;
//! assert_eq!(metrics.points("palm.cpu")[0].value, 0.5);
//! client.close().await?;
//! # Ok(()) }
//! ```
//!
//! # Where to find what
//!
//! - [`MetricsClient`] and [`ClientBuilder`]: calls, settings and their limits; [`client`] has what they take and return.
//! - [`Error`] and [`Delivery`]: why a call failed, and what may have happened to the data; [`error`] has the details.
//! - [`Key`], [`Point`], [`Sample`], [`Selector`], [`Metrics`]: the values.
//! - [`codec`]: the wire format, for programs that bring their own transport or server.
//! - `Reporter` and `reporter` (feature `reporter`): record without waiting, send in the background.
//! - `spool` (feature `spool`): keeps samples on disk while the server is unreachable.
//! - `recorder` (feature `recorder`): the `metrics` facade.
//! - `opentelemetry` (feature `opentelemetry`): an exporter for the SDK's periodic reader.
//! - `tls` (feature `tls`), `service` (feature `tower`).
//!
//! # Pipelining
//!
//! ```text
//!         one at a time                            pipelined
//!  client            server                 client            server
//!    | put a ------->  |                      | put a, put b -> |
//!    | <--------- ok   |                      | put c --------> |
//!    | put b ------->  |                      | <-------- ok ok |
//!    | <--------- ok   |                      | <----------- ok |
//!    | put c ------->  |
//!    | <--------- ok   |
//! ```
//!
//! Requests of all tasks that are queued at the same time leave with one write. Many servers cannot take
//! two requests at once, so by default the client probes the server first: see [`client::Pipelining`].
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any time, in `select!` or by a timeout. A request
//! that has not been sent is removed from the queue. The answer to one that has been sent is read and
//! discarded. No other call is affected.
//!
//! # Runtime
//!
//! A client needs a Tokio runtime, of either flavour, with IO and time enabled. Its background task runs
//! on the runtime where the client was created; when that runtime ends, calls fail with
//! [`Error::RuntimeGone`].
//!
//! # Features
//!
//! No feature is on by default. Features are additive.
//!
//! | feature | what it adds |
//! |---|---|
//! | `reporter` | recording without waiting |
//! | `spool` | samples wait on disk; implies `reporter` |
//! | `recorder` | a recorder for the `metrics` facade; implies `reporter` |
//! | `opentelemetry` | an exporter for OpenTelemetry's SDK; implies `reporter` |
//! | `serde` | `Serialize` and `Deserialize` for values and statistics |
//! | `tls` | TLS by rustls, with ring |
//! | `tower` | the client as a `tower` service |
//!
//! The package holds further pages as Markdown, in `docs`: guarantees and faults, pipelining, connecting,
//! the reporter, the spool, decisions, dependencies, testing.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "tls")]
mod certificates;
pub mod client;
pub mod codec;
pub mod error;
#[doc(hidden)]
pub mod internal;
mod log_limit;
mod log_state;
#[cfg(all(test, feature = "reporter"))]
mod log_watch;
mod metric;
#[cfg(feature = "opentelemetry")]
#[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry")))]
pub mod opentelemetry;
mod protocol;
#[cfg(feature = "recorder")]
#[cfg_attr(docsrs, doc(cfg(feature = "recorder")))]
pub mod recorder;
#[cfg(feature = "reporter")]
#[cfg_attr(docsrs, doc(cfg(feature = "reporter")))]
pub mod reporter;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub mod service;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls {
    //! TLS: the [`TlsConnector`] of a client, and certificates and keys as PEM text for either end.

    pub use crate::{
        certificates::{TlsError, certified_key, provider, roots},
        client::tls::TlsConnector,
    };
    /// The rustls that [`TlsConnector`] works with, for a custom configuration.
    pub use tokio_rustls::rustls;
}
mod wake;

pub use client::{builder::ClientBuilder, handle::MetricsClient};
pub use error::call::{Delivery, Error, ErrorKind};
pub use metric::{IntoKey, IntoSelector, Key, Metrics, Point, Sample, Selector, unix_seconds};
#[cfg(feature = "reporter")]
#[cfg_attr(docsrs, doc(cfg(feature = "reporter")))]
pub use reporter::handle::Reporter;

/// The iterators of [`Metrics`], and the labels of a [`Key`].
pub mod metrics {
    pub use crate::metric::{IntoIter, IntoSamples, Iter, LabeledKey};
}

/// The spool of a [`Reporter`]: samples on disk while the server is unreachable.
#[cfg(feature = "spool")]
#[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
pub mod spool {
    pub use crate::reporter::spool::{Fsync, IoErrors, Spool, SpoolError, SpoolStats};
}

/// The code of the Markdown pages, compiled as doctests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/connecting.md")]
    mod connecting {}
    #[doc = include_str!("../docs/decisions.md")]
    mod decisions {}
    #[doc = include_str!("../docs/guarantees.md")]
    mod guarantees {}
    #[doc = include_str!("../docs/pipelining.md")]
    mod pipelining {}
    #[doc = include_str!("../docs/reporter.md")]
    mod reporter {}
    #[doc = include_str!("../docs/spool.md")]
    mod spool {}
    #[doc = include_str!("../docs/testing.md")]
    mod testing {}
}
