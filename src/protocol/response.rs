//! [`Response`]: what a server answers.

use bytes::{BufMut, BytesMut};

use super::encode;
use crate::metric::Metrics;

/// One response.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Response {
    /// The request was executed. The response to a `put` has no data; that to a `get` has the points
    /// that were found, if any.
    Ok(Metrics),
    /// The server rejected the request with this message, which may be empty. Of a message longer than
    /// 64 KiB, or than the limit on a response, this is the beginning.
    Error(String),
}

impl Response {
    /// Creates the response to a `put` that was executed: no data.
    #[must_use]
    pub fn ok() -> Self {
        Self::Ok(Metrics::default())
    }

    /// Appends the response.
    pub(super) fn encode(&self, dst: &mut BytesMut) {
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
                // A line break in the message would end the response too soon.
                let message = message.replace(char::is_control, " ");
                dst.put_slice(message.as_bytes());
                if !message.is_empty() {
                    dst.put_u8(b'\n');
                }
            }
        }
        dst.put_u8(b'\n');
    }
}

pub(super) const OK: &[u8] = b"ok\n";
pub(super) const ERROR: &[u8] = b"error\n";
