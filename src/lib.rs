//! x
mod metric;
mod protocol;

pub use metric::{IntoIter, InvalidKey, Iter, Key, Metrics, Point, Sample, Selector};
pub use protocol::{
    ClientCodec, CodecError, InvalidRecord, InvalidRequest, InvalidSample, Line, NotFinite,
    Request, Response, ServerCodec,
};
