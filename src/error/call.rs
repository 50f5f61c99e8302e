//! `Error`: why a call failed, and what may have happened to the data.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use crate::{
    metric::{Escaped, Excerpt, InvalidKey},
    protocol::{CodecError, InvalidRecord, InvalidSample, NonFiniteValue},
};

/// Why a call of [`MetricsClient`](crate::MetricsClient) failed.
///
/// Two questions matter to a caller: whether the same call may work if it is made again
/// ([`is_retryable`](Self::is_retryable)), and what can have happened to the data
/// ([`delivery`](Self::delivery)). The reason beneath is in
/// [`source`](std::error::Error::source).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is none. Nothing was sent.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),

    /// The value is NaN or infinite. Nothing was sent.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),

    /// No connection can ever be made to the address. Nothing was sent, and no client was made.
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),

    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to, as the client was told.
        address: Arc<str>,
        /// What the last address tried answered.
        #[source]
        cause: Arc<io::Error>,
    },

    /// As many bytes wait to be sent as may, and the client was told to
    /// [fail](crate::client::WhenFull::Fail) then.
    #[error("the queue is full: {limit} bytes wait to be sent, which is the most that may")]
    QueueFull {
        /// The most that may wait, in bytes.
        limit: usize,
    },

    /// There was no answer in time.
    #[error("no answer within {after:?}")]
    Timeout {
        /// How long the call was to wait.
        after: Duration,
        /// Whether the request had been sent.
        delivery: Delivery,
        /// Why there is no connection, if there is none.
        #[source]
        cause: Option<Arc<ConnectionError>>,
    },

    /// The server answered `error`.
    ///
    /// The `Display` shows the beginning of the message, escaped.
    #[error("the server refused the request: {}", Escaped(if message.is_empty() { "it gave no reason" } else { message }))]
    Rejected {
        /// What the server says, as it says it.
        message: Arc<str>,
    },

    /// The server answered a `get` with something that is no data.
    #[error("the server's answer cannot be read")]
    InvalidResponse(#[from] InvalidRecord),

    /// The answer takes more bytes, or more memory, than
    /// [`max_response_bytes`](crate::ClientBuilder::max_response_bytes) allows. Only this call
    /// fails. [`stream`](crate::MetricsClient::stream) reads answers of any size.
    #[error(
        "the response is larger than max_response_bytes ({limit}) allows; read it with `stream`"
    )]
    ResponseTooLarge {
        /// The most that an answer may have, in bytes.
        limit: usize,
    },

    /// The connection ended before the answer came.
    #[error("the connection ended before the answer came")]
    Connection {
        /// Why it ended; the same for all who waited.
        #[source]
        fault: Arc<ConnectionError>,
        /// Whether the request had been sent.
        delivery: Delivery,
    },

    /// The Tokio runtime on which the client was made has ended, and with it the task that moved the
    /// client's bytes: the client serves no call any more. Make it on a runtime that lives as long as the
    /// client, or make one client for each runtime; a client in a `static` outlives the runtime of one test.
    #[error("the runtime on which the client was made is gone")]
    RuntimeGone {
        /// Whether the request had been sent.
        delivery: Delivery,
    },

    /// The client was closed.
    #[error("the client is closed")]
    Closed {
        /// Whether the request had been sent.
        delivery: Delivery,
        /// Why there was no connection any more, if that is why it is closed.
        #[source]
        cause: Option<Arc<ConnectionError>>,
    },

    /// Some of the samples of a `put_all` were not stored.
    #[error(transparent)]
    Batch(Arc<BatchError>),

    /// The client lives on a stream that it was given, and this call needs a second one.
    #[error(
        "the client was made from a stream and cannot dial; build it with an address or a connector"
    )]
    CannotDial,
}

impl Error {
    /// Whether the same call may work if it is made again.
    ///
    /// True where the fault lies with the network or the load, false where it lies with the request
    /// or the server. A put with the same timestamp may always be repeated where the server keeps
    /// one value for a key and a second, as the protocol has it.
    ///
    /// For a [`put_all`](crate::MetricsClient::put_all) the first sample decides that failed for
    /// another reason than the server's refusal, if there is one.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::QueueFull { .. } | Self::Timeout { .. } => true,
            Self::Connection { fault, .. } => {
                !fault.is_protocol_violation() && !fault.is_closed_on_request()
            }
            Self::Batch(batch) => batch.retryable,
            Self::InvalidKey(_)
            | Self::NonFiniteValue(_)
            | Self::InvalidAddress(_)
            | Self::Rejected { .. }
            | Self::InvalidResponse(_)
            | Self::RuntimeGone { .. }
            | Self::ResponseTooLarge { .. }
            | Self::Closed { .. }
            | Self::CannotDial => false,
        }
    }

    /// Returns true if the server closes the connection at this very request, while it answers
    /// others ([`ConnectionError::ClosedOnRequest`]). Sending the request again meets the same.
    ///
    /// For a [`put_all`](crate::MetricsClient::put_all) it is about the first sample that failed;
    /// [`BatchError::closed_on`] lists all such samples.
    #[must_use]
    pub fn is_closed_on_request(&self) -> bool {
        match self {
            Self::Connection { fault, .. } => fault.is_closed_on_request(),
            Self::Batch(batch) => batch.error.is_closed_on_request(),
            _ => false,
        }
    }

    /// What can have happened to the request.
    ///
    /// Of a [`put_all`](crate::MetricsClient::put_all) it is true of every sample, those that were
    /// stored among them: not sent if none was, rejected if all were, and otherwise unknown.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::InvalidKey(_)
            | Self::NonFiniteValue(_)
            | Self::InvalidAddress(_)
            | Self::Connect { .. }
            | Self::QueueFull { .. }
            | Self::CannotDial => Delivery::NotSent,
            Self::Timeout { delivery, .. }
            | Self::Connection { delivery, .. }
            | Self::RuntimeGone { delivery }
            | Self::Closed { delivery, .. } => *delivery,
            Self::InvalidResponse(_) | Self::ResponseTooLarge { .. } => Delivery::Unknown,
            Self::Rejected { .. } => Delivery::Rejected,
            Self::Batch(batch) => batch.delivery,
        }
    }
}

impl From<InvalidSample> for Error {
    fn from(fault: InvalidSample) -> Self {
        match fault {
            InvalidSample::Key(fault) => fault.into(),
            InvalidSample::NonFiniteValue(fault) => fault.into(),
        }
    }
}

/// What can have happened to a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// No byte of it was sent: the server does not know of it.
    NotSent,
    /// It was sent, or was being sent, or lay in one block with others of its
    /// [`put_all`](crate::MetricsClient::put_all) that were: the server may have carried it out or
    /// not.
    Unknown,
    /// The server has refused it, and stored nothing then. If it had been sent before, over a
    /// connection that was lost, that copy may be stored: [`resend_unacknowledged`](crate::ClientBuilder::resend_unacknowledged).
    Rejected,
}

impl Delivery {
    /// What is true of all these requests, if there are any.
    pub(crate) fn of_all(requests: impl IntoIterator<Item = Self>) -> Option<Self> {
        let of_both = |one, other| if one == other { one } else { Self::Unknown };
        requests.into_iter().reduce(of_both)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// It could not be made.
    #[error("cannot connect to {address}")]
    Dial {
        /// Where to, as the client was told.
        address: Arc<str>,
        /// What the last address tried answered.
        #[source]
        cause: Arc<io::Error>,
    },
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    ClosedByServer,
    /// The server closes the connection at this request, and answers other requests: an error in
    /// its handler, for example. Only that request fails.
    ///
    /// The request has ended five connections in a row without an answer, on each of which the server
    /// had just answered other requests: one for a key that does not exist, and for a put another
    /// put. A server that closes whatever it is asked is unreachable, which is a delay. A server that
    /// fails at random cannot be told apart with certainty: where it closes at half of all requests,
    /// the client is wrong about 1 of 2,000 of those that it suspects, and where at a tenth, 1 of
    /// 200,000.
    #[error("the server closes the connection at this request, and answers others")]
    ClosedOnRequest,
    /// The server answered `error` before anything else on a new connection, and closed it: a limit
    /// on connections, for example. The client connects again.
    ///
    /// The `Display` shows the beginning of the message, escaped.
    #[error("the server rejected the connection: {}", Escaped(if message.is_empty() { "it gave no reason" } else { message }))]
    RejectedByServer {
        /// The server's message, unchanged.
        message: Arc<str>,
    },
    /// The rest of an answer that was [too large](Error::ResponseTooLarge) did not end in time.
    #[error("the rest of a response of more than {limit} bytes took too long")]
    ResponseTooLarge {
        /// The most that an answer may have, in bytes.
        limit: usize,
    },
    /// The oldest answer was too late.
    #[error("the server owes an answer for more than {after:?}")]
    Stalled {
        /// How late an answer may be.
        after: Duration,
    },
    /// The server sent something that is no answer.
    #[error("the server does not follow the protocol")]
    Codec(#[source] CodecError),
    /// The server sent something when nothing was asked.
    #[error("the server sent an answer that nobody asked for")]
    Unsolicited,
    /// The server answered a `put` with data: its answers and our requests do not match.
    #[error("the server answered a put with data")]
    DataForPut,
    /// The server answered a `get` of one key with data of another: its answers and our requests do not
    /// match.
    #[error("the server answered a get with data of another key")]
    DataForAnotherKey,
}

impl ConnectionError {
    /// Whether the server sent what it must not send, so that another connection will not help.
    #[must_use]
    pub fn is_protocol_violation(&self) -> bool {
        matches!(
            self,
            Self::Codec(_) | Self::Unsolicited | Self::DataForPut | Self::DataForAnotherKey
        )
    }

    /// Returns true if one request ended the connection, and the server answers others:
    /// [`ClosedOnRequest`](Self::ClosedOnRequest).
    #[must_use]
    pub fn is_closed_on_request(&self) -> bool {
        matches!(self, Self::ClosedOnRequest)
    }
}

impl From<CodecError> for ConnectionError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Io(error) => Self::Io(error),
            CodecError::Truncated => Self::ClosedByServer,
            error => Self::Codec(error),
        }
    }
}

/// The outcome of a [`put_all`](crate::MetricsClient::put_all) of which some samples were not stored.
#[derive(Clone, Debug, thiserror::Error)]
#[error("sample {first_failed} was not stored ({acknowledged} of {total} were)")]
#[non_exhaustive]
pub struct BatchError {
    /// How many samples the server has acknowledged.
    pub acknowledged: usize,
    /// How many samples there were.
    pub total: usize,
    /// The place of the first sample that failed, counted from 0.
    pub first_failed: usize,
    /// Every sample before this place has its final outcome: it was acknowledged, refused, or is in
    /// [`closed_on`](Self::closed_on). This one has none, nor need any behind it; `total` if every
    /// sample has its outcome.
    pub settled: usize,
    /// How many of the settled samples the server has refused.
    pub rejected: usize,
    /// The places of the settled samples at which the server closes the connection
    /// ([`ConnectionError::ClosedOnRequest`]), in ascending order. They do not keep the rest from
    /// being stored, and sending them again does not help.
    pub closed_on: Vec<usize>,
    /// Why it failed.
    #[source]
    pub error: Error,
    /// What is true of all samples.
    pub(crate) delivery: Delivery,
    /// Whether what kept samples from being stored, other than refusals, may be over next time.
    pub(crate) retryable: bool,
}

/// An address to which no connection can ever be made, whatever the network and the server do.
///
/// It says what is wrong and names the form that an address has. A [`Connector`](crate::client::Connector) of
/// another crate can make one in [`check_address`](crate::client::Connector::check_address).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {excerpt}: {reason}; an address is {form}")]
pub struct InvalidAddress {
    excerpt: Excerpt,
    reason: Cow<'static, str>,
    form: Cow<'static, str>,
}

impl InvalidAddress {
    /// Says of `address` what is wrong (`the port is missing`), and which form it should have
    /// (`host:port, such as 127.0.0.1:8888`). The address is shown escaped and cut to 64 bytes.
    #[must_use]
    pub fn new(
        address: &str,
        reason: impl Into<Cow<'static, str>>,
        form: impl Into<Cow<'static, str>>,
    ) -> Self {
        let excerpt = Excerpt::of(address.as_bytes());
        Self { excerpt, reason: reason.into(), form: form.into() }
    }
}
