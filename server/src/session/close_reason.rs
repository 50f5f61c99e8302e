//! The reasons why a connection ends.

use std::{fmt, io};

/// Why a session has ended.
#[derive(Debug)]
pub(super) enum CloseReason {
    /// The peer closed the connection.
    Closed,
    /// The server is shutting down.
    Stopped,
    LineTooLong,
    /// The peer speaks HTTP or TLS.
    ForeignProtocol,
    IdleTimeout,
    LineTimeout,
    WriteTimeout,
    /// The unread answers of all peers exceed their limit, and this peer's are the oldest.
    Evicted,
    /// The store failed when part of an answer was sent already.
    Store,
    /// The store failed in a transient way, so the peer has to send its unanswered requests again.
    StoreTransient,
    Io(io::Error),
    #[cfg(feature = "tls")]
    HandshakeTimeout,
    /// The handshake timed out while the server was busy with other handshakes.
    #[cfg(feature = "tls")]
    HandshakeQueueTimeout,
    #[cfg(feature = "tls")]
    Handshake(io::Error),
}

impl CloseReason {
    /// Returns true if the server closed the connection because of what the peer did, so that an
    /// operator should know.
    pub(super) fn is_by_server(&self) -> bool {
        matches!(
            self,
            Self::IdleTimeout
                | Self::LineTimeout
                | Self::LineTooLong
                | Self::ForeignProtocol
                | Self::WriteTimeout
                | Self::Evicted
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "peer closed the connection",
            Self::Stopped => "server is shutting down",
            Self::LineTooLong => "line too long",
            Self::ForeignProtocol => "peer speaks HTTP or TLS",
            Self::IdleTimeout => "idle timeout",
            Self::LineTimeout => "line timeout",
            Self::WriteTimeout => "write timeout: peer does not read its answers",
            Self::Evicted => "too many unread answers in total, and this peer's are the oldest",
            Self::Store => "store failed in the middle of an answer",
            Self::StoreTransient => "store failed; the peer has to retry",
            Self::Io(error) => return write!(f, "connection failed: {error}"),
            #[cfg(feature = "tls")]
            Self::HandshakeTimeout => "handshake timeout",
            #[cfg(feature = "tls")]
            Self::HandshakeQueueTimeout => {
                "handshake timeout: server is busy with other handshakes"
            }
            // The error may quote the peer's certificate.
            #[cfg(feature = "tls")]
            Self::Handshake(error) => {
                return write!(f, "{}", error.to_string().escape_debug());
            }
        })
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
