#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
pub mod codec;
mod error;
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
mod reporter;
#[cfg(feature = "tower")]
mod service;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls;
mod wake;

#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use client::TlsConnector;
#[cfg(unix)]
#[cfg_attr(docsrs, doc(cfg(unix)))]
pub use client::UnixConnector;
pub use client::{
    ClientBuilder, ConnectionState, Connector, MetricsClient, Overflow, Pipelining, Reconnect,
    SampleStream, StateWatcher, Stats, TcpConnector,
};
pub use error::{BatchError, ConnectionError, Delivery, Error, InvalidAddress};
pub use metric::{IntoIter, InvalidKey, Iter, Key, Metrics, Point, Sample, Selector};
pub use protocol::{
    ClientCodec, CodecError, InvalidRecord, InvalidRequest, InvalidSample, Line, NonFiniteValue,
    Request, Response, ServerCodec,
};
#[cfg(feature = "reporter")]
#[cfg_attr(docsrs, doc(cfg(feature = "reporter")))]
pub use reporter::{
    Dropped, FlushError, Gauge, Reporter, ReporterBuilder, ReporterGuard, ReporterStats, WhenFull,
};
#[cfg(feature = "spool")]
#[cfg_attr(docsrs, doc(cfg(feature = "spool")))]
pub use reporter::{Fsync, IoErrors, Spool, SpoolError, SpoolStats};
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use service::{MetricsService, ResponseFuture};
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use tls::TlsError;
/// The rustls that [`TlsConnector`] works with, for a configuration of one's own.
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use tokio_rustls::rustls;
