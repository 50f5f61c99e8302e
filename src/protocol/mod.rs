//! Bytes to values and back: requests, responses, numbers, and the codecs around them.
//!
//! Nothing here knows a socket or a runtime; only `codec` knows `tokio-util`.

mod codec;
mod error;
mod number;
#[cfg(feature = "server")]
mod records;
mod request;
mod response;

pub use codec::{ClientCodec, ServerCodec};
pub(crate) use codec::{SampleDecoder, Streamed};
pub use error::{CodecError, InvalidRecord, InvalidRequest, InvalidSample, Line, NotFinite};
pub use request::Request;
pub use response::Response;

pub(crate) use request::{encode_get, encode_put};
pub(crate) use response::End;
#[cfg(feature = "server")]
pub(crate) use {records::encode_records, request::RequestRef};
