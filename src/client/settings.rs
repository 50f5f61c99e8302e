//! The configuration of a client and its connections.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::backoff::ReconnectPolicy;
use crate::protocol::ClientCodec;

/// When a request is sent before the response to the one before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pipelining {
    /// If the server has shown that it can pipeline. Each connection begins with one request in flight; when a second
    /// one waits, the server is probed over another connection, so where one address leads to several servers, they
    /// must be alike. After a connection has stalled with several requests in flight, its successors begin with one
    /// too, and the server is probed again after a minute; after two, four and so on up to an hour if it stalls again.
    #[default]
    Auto,
    /// Always. Right for servers that are known to frame requests by line, such as this crate's;
    /// most others lose or garble responses.
    On,
    /// Never: one request at a time.
    Off,
}

/// The order in which a client tries the servers of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ServerOrder {
    /// In an order that is drawn at random for each client, so that many clients spread over the servers.
    #[default]
    Random,
    /// As they are listed: the first one is the primary server of all clients. A client whose connection is lost
    /// stays at the server that it has found then, until that one fails.
    Listed,
}

/// What happens to a new request or sample when the queue for it is full: of a client
/// ([`ClientBuilder::when_full`](crate::ClientBuilder::when_full)), or of a reporter.
///
/// A client takes [`Wait`](Self::Wait) and [`Fail`](Self::Fail): a request has a caller, so none is dropped
/// in favour of another, and the other two count as `Fail`. A reporter never makes its caller wait, so
/// there `Wait` counts as `Fail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// The call waits for room until its deadline, in the order of the calls. The default of a client.
    Wait,
    /// The new one is refused. A call fails at once with [`Error::QueueFull`](crate::Error::QueueFull); a
    /// sample that is recorded is dropped and counted.
    Fail,
    /// The oldest sample in the queue is dropped, and counted. The samples that are being sent are not. The
    /// default of a reporter.
    DropOldest,
    /// A new sample replaces the one of the same key and second that is in the queue, also before the queue is
    /// full: a server keeps only the last value of a second. If the queue is full all the same, its oldest
    /// sample is dropped.
    Coalesce,
}

impl fmt::Display for Pipelining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Wait => "wait",
            Self::Fail => "fail",
            Self::DropOldest => "drop_oldest",
            Self::Coalesce => "coalesce",
        })
    }
}

/// The configuration of a client: of its pool, and of the driver and the pipeline of each connection.
#[derive(Clone, Debug)]
pub(super) struct ConnectionConfig {
    pub(super) settings: Settings,
    /// How many connections share the requests.
    pub(super) connections: usize,
    pub(super) server_order: ServerOrder,
    pub(super) connect_timeout: Duration,
    pub(super) pipelining: Pipelining,
    pub(super) max_in_flight: usize,
    pub(super) max_response_bytes: usize,
    pub(super) reconnect: ReconnectPolicy,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            connections: 1,
            server_order: ServerOrder::Random,
            connect_timeout: Duration::from_secs(5),
            pipelining: Pipelining::Auto,
            max_in_flight: 4096,
            max_response_bytes: ClientCodec::DEFAULT_MAX_RESPONSE_BYTES,
            reconnect: ReconnectPolicy::default(),
            max_lifetime: None,
            idle_timeout: None,
        }
    }
}

/// The timeout of the requests of one handle, in place of [`Settings::request_timeout`].
///
/// In milliseconds, the resolution of Tokio's timers: a put's future has four bytes left for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallTimeout(NonZeroU32);

impl CallTimeout {
    /// Rounds up to a millisecond.
    pub(super) fn new(timeout: Duration) -> Self {
        let millis = timeout.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u32::MAX);
        Self(NonZeroU32::new(millis).unwrap_or(NonZeroU32::MIN))
    }

    pub(super) fn get(self) -> Duration {
        Duration::from_millis(self.0.get().into())
    }
}

/// The part of the configuration that the pipeline knows.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) request_timeout: Duration,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) max_buffered_bytes: usize,
    pub(super) when_full: WhenFull,
    /// Whether a put that was sent and not acknowledged is sent again over the next connection.
    pub(super) resend_unacknowledged: bool,
}

impl Settings {
    /// Returns how late the oldest response may be: by default twice the request timeout.
    pub(super) fn stall_timeout(&self) -> Duration {
        let default = || self.request_timeout.saturating_mul(2).max(MIN_STALL_TIMEOUT);
        self.stall_timeout.unwrap_or_else(default)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            stall_timeout: None,
            max_buffered_bytes: 1024 * 1024,
            when_full: WhenFull::Wait,
            resend_unacknowledged: true,
        }
    }
}

/// The shortest stall timeout. Linux waits so long at least for an acknowledgement before it sends a packet again
/// (`TCP_RTO_MIN`): a shorter one takes each lost packet for the end of a connection.
pub(super) const MIN_STALL_TIMEOUT: Duration = Duration::from_millis(200);
