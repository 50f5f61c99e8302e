//! x
mod client;
mod error;
mod metric;
mod protocol;

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
