#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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
pub mod tls;
mod wake;

pub use client::{builder::ClientBuilder, handle::MetricsClient};
pub use error::call::{Delivery, Error};
pub use metric::{Key, Metrics, Point, Sample, Selector};
#[cfg(feature = "reporter")]
#[cfg_attr(docsrs, doc(cfg(feature = "reporter")))]
pub use reporter::handle::Reporter;

/// The iterators of [`Metrics`].
pub mod metrics {
    pub use crate::metric::{IntoIter, Iter};
}

/// The spool of a [`Reporter`]: samples on disk while the server is unreachable.
#[cfg(feature = "spool")]
#[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
pub mod spool {
    pub use crate::reporter::spool::{IoErrors, Spool, SpoolError, SpoolStats};
}
