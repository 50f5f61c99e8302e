#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod error;
mod metric;
mod protocol;
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub mod server;
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub mod store;

pub use client::{
    ClientBuilder, ConnectionState, Connector, MetricsClient, Overflow, Pipelining, Reconnect,
    SampleStream, Stats, TcpConnector,
};
pub use error::{BatchError, ConnectionFault, Delivery, Error};
pub use metric::{IntoIter, InvalidKey, Iter, Key, Metrics, Point, Sample, Selector};
pub use protocol::{
    ClientCodec, CodecError, InvalidRecord, InvalidRequest, InvalidSample, Line, NotFinite,
    Request, Response, ServerCodec,
};
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::Server;
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use store::{MemoryStore, Store};
