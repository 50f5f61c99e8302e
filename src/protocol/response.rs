//! [`Response`]: what a server answers.

use bytes::{BufMut, BytesMut};

use super::{
    encode,
    error::{CodecError, InvalidRecord},
};
use crate::metric::Metrics;

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// The request was carried out. A `put` brings no data, a `get` what was found, if anything.
    Ok(Metrics),
    /// The server refused the request, and this is its message; it may be empty. Of a message that
    /// is longer than 64 KiB or than the limit on a response, this is the beginning.
    Error(String),
    /// The request was carried out, but a record of the data cannot be read. Only ever received: it
    /// cannot be encoded.
    Malformed(InvalidRecord),
    /// The request was carried out, but the data takes more than the limit on a response allows,
    /// and has been dropped. Only ever received: it cannot be encoded.
    TooLarge {
        /// The most that a response may have, in bytes.
        limit: usize,
    },
}

impl Response {
    /// The answer to a `put` that was carried out: no data.
    #[must_use]
    pub fn ok() -> Self {
        Self::Ok(Metrics::default())
    }

    /// Appends the answer.
    pub(super) fn encode(&self, dst: &mut BytesMut) -> Result<(), CodecError> {
        match self {
            Self::Ok(metrics) => {
                dst.put_slice(OK);
                for (key, points) in metrics {
                    for &point in points {
                        encode::encode_record(dst, key.as_str(), point);
                    }
                }
            }
            Self::Error(message) => {
                dst.put_slice(ERROR);
                // A line break in the message would end the answer too soon.
                let message = message.replace(char::is_control, " ");
                dst.put_slice(message.as_bytes());
                if !message.is_empty() {
                    dst.put_u8(b'\n');
                }
            }
            Self::Malformed(_) | Self::TooLarge { .. } => return Err(CodecError::Malformed),
        }
        dst.put_u8(b'\n');
        Ok(())
    }
}

pub(super) const OK: &[u8] = b"ok\n";
pub(super) const ERROR: &[u8] = b"error\n";
