//! What a connection is configured with.

use std::time::Duration;

use super::backoff::Reconnect;

/// Whether a request may be sent before the one before it has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pipelining {
    /// Where the server has shown that it can: each connection begins with one request in flight,
    /// and when a second one waits, a connection beside it asks the server: where one
    /// address leads to several, they must be alike. After a connection has stalled with several requests
    /// in flight, its successors stay at one, and the server is asked again after a minute; after two, four and
    /// so on up to an hour if it stalls again.
    #[default]
    Auto,
    /// Always. Right for servers that are known to frame requests by line, such as this crate's;
    /// most others will lose or garble answers.
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

/// What becomes of a request when as many bytes wait to be sent as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The call waits for room, until its deadline; those who came first go first.
    #[default]
    Wait,
    /// The call fails at once with [`Error::QueueFull`](crate::Error::QueueFull).
    Fail,
}

/// What a driver is told once, when it is made.
#[derive(Clone, Debug)]
pub(super) struct ConnectionConfig {
    pub(super) settings: Settings,
    pub(super) pipelining: Pipelining,
    pub(super) max_in_flight: usize,
    pub(super) max_response_bytes: usize,
    pub(super) reconnect: Reconnect,
}

/// What the pipeline is told once, when it is made.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) request_timeout: Duration,
    /// A connection whose oldest answer is later than this is dead.
    pub(super) stall_timeout: Duration,
    pub(super) max_buffered_bytes: usize,
    pub(super) overflow: Overflow,
    /// Whether puts that were sent and not acknowledged go again on the next connection.
    pub(super) retry: bool,
}
