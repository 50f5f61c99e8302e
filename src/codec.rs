//! The wire format: codecs, requests and responses, and the parts that a server is built from.
//!
//! [`ClientCodec`] and [`ServerCodec`] frame a connection with `tokio_util::codec`. Below them are
//! the parts for programs that move bytes themselves, as `metrics-server` does: [`RequestRef`] parses
//! a request without allocating, [`encode_records`] writes many records of one key at once, and
//! [`Escaped`] and [`Excerpt`] make text that a peer chose fit for a log line or a terminal.
//!
//! ```
//! use bytes::BytesMut;
//! use metrics_client::{Point, codec::{KeyRef, RequestRef, encode_records}};
//!
//! let request = RequestRef::parse(b"get palm.cpu")?;
//! assert_eq!(request, Some(RequestRef::Get(KeyRef::new("palm.cpu")?)));
//!
//! let mut answer = BytesMut::from("ok\n");
//! encode_records(&mut answer, KeyRef::new("palm.cpu")?, &[Point::new(23.7, 1150864247)]);
//! answer.extend_from_slice(b"\n");
//! assert_eq!(answer, "ok\npalm.cpu 23.7 1150864247\n\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use crate::{
    metric::{Escaped, Excerpt, KeyRef},
    protocol::{
        ClientCodec, CodecError, InvalidRecord, InvalidRequest, InvalidResponse, LineExcerpt,
        MAX_REQUEST_LEN, Request, RequestRef, Response, ServerCodec, encode_records,
    },
};
