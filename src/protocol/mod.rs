//! Bytes to values and back: requests, responses, numbers, and the codecs around them.
//!
//! Nothing here knows a socket or a runtime; only `codec` knows `tokio-util`.

mod codec;
mod decoder;
mod encode;
mod error;
mod number;
mod parse;
mod records;
mod request;
mod response;
mod sample;

pub use codec::{ClientCodec, ServerCodec};
pub(crate) use codec::{SampleDecoder, StreamItem};
pub use encode::MAX_REQUEST_LEN;
pub use error::{
    CodecError, InvalidRecord, InvalidRequest, InvalidResponse, InvalidSample, LineExcerpt,
    NonFiniteValue,
};
pub use number::{
    MAX_TIMESTAMP_LEN, MAX_VALUE_LEN, Number, parse_timestamp, parse_value, write_timestamp,
    write_value,
};
pub use parse::RequestRef;
pub use records::encode_records;
pub use request::Request;
pub use response::Response;

pub(crate) use decoder::ResponseEnd;
pub(crate) use encode::{PutSuffix, encode_get, encode_put};

/// An item of [`ClientCodec`].
pub(crate) type ReceivedResponse = Result<Response, InvalidResponse>;

/// Where the first line break of `text` is, of which the first `searched` bytes hold none.
fn line_break(text: &[u8], searched: usize) -> Option<usize> {
    let at = memchr::memchr(b'\n', &text[searched..]).map(|at| searched + at);
    #[cfg(test)]
    effort::LOOKED_AT
        .with(|sum| sum.set(sum.get() + at.map_or(text.len(), |at| at + 1) - searched));
    at
}

/// How many bytes were searched for line breaks: a test shows that none is searched twice.
#[cfg(test)]
mod effort {
    use std::cell::Cell;

    thread_local! {
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }
}
