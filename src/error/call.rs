//! `Error`: why a call failed, and what may have happened to the data.

use std::{borrow::Cow, fmt, io, sync::Arc, time::Duration};

use crate::{
    metric::{Escaped, Excerpt, InvalidKey},
    protocol::{CodecError, InvalidRecord, InvalidSample, NonFiniteValue},
};

/// The error of a call of [`MetricsClient`](crate::MetricsClient).
///
/// [`is_retryable`](Self::is_retryable) tells if the same call may succeed later, and
/// [`delivery`](Self::delivery) what may have happened to the data. The underlying error is the
/// [`source`](std::error::Error::source). [`kind`](Self::kind) is for labels of metrics and for `match`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is invalid. Nothing was sent.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),

    /// The value is NaN or infinite. Nothing was sent.
    #[error(transparent)]
    NonFiniteValue(#[from] NonFiniteValue),

    /// The address is invalid: no connection can ever be made to it. Nothing was sent, and no client
    /// was created.
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),

    /// The connection could not be made.
    #[error("cannot connect to {address}")]
    #[non_exhaustive]
    Connect {
        /// The address that the client was created with.
        address: Arc<str>,
        /// The error of the last attempt.
        source: Arc<io::Error>,
    },

    /// The request queue is full, and the client is configured to
    /// [fail](crate::client::WhenFull::Fail) then.
    #[error("request queue is full ({limit} bytes)")]
    #[non_exhaustive]
    QueueFull {
        /// The capacity of the queue, in bytes.
        limit: usize,
    },

    /// The response did not arrive in time.
    #[error("no response within {timeout:?}")]
    #[non_exhaustive]
    Timeout {
        /// The time limit of the call.
        timeout: Duration,
        /// What may have happened to the request.
        delivery: Delivery,
        /// The reason why there is no connection.
        source: Option<Arc<ConnectionError>>,
    },

    /// The server answered `error`.
    ///
    /// `Display` shows the beginning of the message, escaped.
    #[error("request rejected by the server: {}", Escaped(if message.is_empty() { "no reason given" } else { message }))]
    #[non_exhaustive]
    Rejected {
        /// The message of the server, unchanged.
        message: Arc<str>,
    },

    /// The response to a `get` contains an invalid record.
    #[error("invalid response from the server")]
    InvalidResponse(#[from] InvalidRecord),

    /// The response has more bytes, or needs more memory, than
    /// [`max_response_bytes`](crate::ClientBuilder::max_response_bytes) allows. Only this call
    /// fails. [`stream`](crate::MetricsClient::stream) reads responses of any size.
    #[error("response exceeds max_response_bytes ({limit}); use `stream`")]
    #[non_exhaustive]
    ResponseTooLarge {
        /// The maximum size of a response, in bytes.
        limit: usize,
    },

    /// The connection was lost before the response arrived.
    #[error("connection lost before the response arrived")]
    #[non_exhaustive]
    Connection {
        /// The reason, which all requests on the connection share.
        source: Arc<ConnectionError>,
        /// What may have happened to the request.
        delivery: Delivery,
    },

    /// The Tokio runtime on which the client was created has ended, and with it the task that does the
    /// client's IO. Create the client on a runtime that lives as long as the client, or one client for
    /// each runtime; a client in a `static` outlives the runtime of one test.
    #[error("the client's runtime has ended")]
    #[non_exhaustive]
    RuntimeGone {
        /// What may have happened to the request.
        delivery: Delivery,
    },

    /// The client is closed.
    #[error("client is closed")]
    #[non_exhaustive]
    Closed {
        /// What may have happened to the request.
        delivery: Delivery,
        /// The reason why the connection was lost for good, if that closed the client.
        source: Option<Arc<ConnectionError>>,
    },

    /// Some samples of a `put_all` were not stored.
    #[error(transparent)]
    Batch(Arc<BatchError>),

    /// The client was created from an existing stream, and this call needs a second connection.
    #[error(
        "this client was created from an existing stream and cannot open another connection; use `builder(..)`"
    )]
    CannotDial,
}

/// The kind of an [`Error`], without its details.
///
/// `Display` and `AsRef<str>` give its name in snake case, such as `queue_full`, for labels of metrics.
///
/// ```
/// use metrics_client::{Key, Error, ErrorKind};
///
/// let error = Error::from(Key::new("palm cpu").unwrap_err());
/// assert_eq!(error.kind(), ErrorKind::InvalidKey);
/// assert_eq!(error.kind().as_ref(), "invalid_key");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::InvalidKey`].
    InvalidKey,
    /// [`Error::NonFiniteValue`].
    NonFiniteValue,
    /// [`Error::InvalidAddress`].
    InvalidAddress,
    /// [`Error::Connect`].
    Connect,
    /// [`Error::QueueFull`].
    QueueFull,
    /// [`Error::Timeout`].
    Timeout,
    /// [`Error::Rejected`].
    Rejected,
    /// [`Error::InvalidResponse`].
    InvalidResponse,
    /// [`Error::ResponseTooLarge`].
    ResponseTooLarge,
    /// [`Error::Connection`].
    Connection,
    /// [`Error::RuntimeGone`].
    RuntimeGone,
    /// [`Error::Closed`].
    Closed,
    /// [`Error::Batch`].
    Batch,
    /// [`Error::CannotDial`].
    CannotDial,
}

impl AsRef<str> for ErrorKind {
    fn as_ref(&self) -> &str {
        match self {
            Self::InvalidKey => "invalid_key",
            Self::NonFiniteValue => "non_finite_value",
            Self::InvalidAddress => "invalid_address",
            Self::Connect => "connect",
            Self::QueueFull => "queue_full",
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
            Self::InvalidResponse => "invalid_response",
            Self::ResponseTooLarge => "response_too_large",
            Self::Connection => "connection",
            Self::RuntimeGone => "runtime_gone",
            Self::Closed => "closed",
            Self::Batch => "batch",
            Self::CannotDial => "cannot_dial",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_ref())
    }
}

impl Error {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidKey(_) => ErrorKind::InvalidKey,
            Self::NonFiniteValue(_) => ErrorKind::NonFiniteValue,
            Self::InvalidAddress(_) => ErrorKind::InvalidAddress,
            Self::Connect { .. } => ErrorKind::Connect,
            Self::QueueFull { .. } => ErrorKind::QueueFull,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Rejected { .. } => ErrorKind::Rejected,
            Self::InvalidResponse(_) => ErrorKind::InvalidResponse,
            Self::ResponseTooLarge { .. } => ErrorKind::ResponseTooLarge,
            Self::Connection { .. } => ErrorKind::Connection,
            Self::RuntimeGone { .. } => ErrorKind::RuntimeGone,
            Self::Closed { .. } => ErrorKind::Closed,
            Self::Batch(_) => ErrorKind::Batch,
            Self::CannotDial => ErrorKind::CannotDial,
        }
    }

    /// Returns true if the response did not arrive in time. For a
    /// [`put_all`](crate::MetricsClient::put_all), this and the next four are about the first sample
    /// that failed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.first().kind() == ErrorKind::Timeout
    }

    /// Returns true if the connection could not be made.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.first().kind() == ErrorKind::Connect
    }

    /// Returns true if the client is closed, or its runtime has ended: no call can succeed any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.first().kind(), ErrorKind::Closed | ErrorKind::RuntimeGone)
    }

    /// Returns true if the server answered `error`.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.first().kind() == ErrorKind::Rejected
    }

    /// Returns true if the request queue was full.
    #[must_use]
    pub fn is_queue_full(&self) -> bool {
        self.first().kind() == ErrorKind::QueueFull
    }

    /// Returns the error of the first sample that failed, or this one if it is not about several.
    fn first(&self) -> &Self {
        match self {
            Self::Batch(batch) => &batch.error,
            error => error,
        }
    }

    /// Returns true if the same call may succeed later.
    ///
    /// True if the network or the load caused the error, false if the request or the server did. A put
    /// with the same timestamp can always be repeated if the server keeps one value for each key and
    /// second, as the protocol requires.
    ///
    /// For a [`put_all`](crate::MetricsClient::put_all), the first sample decides that failed for
    /// another reason than a rejection, if there is one.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::QueueFull { .. } | Self::Timeout { .. } => true,
            Self::Connection { source, .. } => {
                !source.is_protocol_violation() && !source.is_closed_on_request()
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

    /// Returns true if the server closes the connection at this request, while it answers others
    /// ([`ConnectionError::ClosedOnRequest`]). Sending the request again has the same effect.
    ///
    /// For a [`put_all`](crate::MetricsClient::put_all), this is about the first sample that failed;
    /// [`BatchError::closed_on`] lists all such samples.
    #[must_use]
    pub fn is_closed_on_request(&self) -> bool {
        match self {
            Self::Connection { source, .. } => source.is_closed_on_request(),
            Self::Batch(batch) => batch.error.is_closed_on_request(),
            _ => false,
        }
    }

    /// Returns what may have happened to the request.
    ///
    /// For a [`put_all`](crate::MetricsClient::put_all), this is true of every sample, also of those that
    /// were stored: not sent if none was sent, rejected if all were rejected, and otherwise unknown.
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
    fn from(error: InvalidSample) -> Self {
        match error {
            InvalidSample::Key(error) => error.into(),
            InvalidSample::NonFiniteValue(error) => error.into(),
        }
    }
}

/// Converts for functions that return `io::Result`. The `io::Error` contains the [`Error`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::InvalidKey(_) | Error::NonFiniteValue(_) | Error::InvalidAddress(_) => {
                io::ErrorKind::InvalidInput
            }
            Error::Connect { source, .. } => source.kind(),
            Error::QueueFull { .. } => io::ErrorKind::WouldBlock,
            Error::Timeout { .. } => io::ErrorKind::TimedOut,
            Error::InvalidResponse(_) | Error::ResponseTooLarge { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::Connection { .. } => io::ErrorKind::ConnectionAborted,
            Error::RuntimeGone { .. } | Error::Closed { .. } => io::ErrorKind::NotConnected,
            Error::CannotDial => io::ErrorKind::Unsupported,
            Error::Rejected { .. } | Error::Batch(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What may have happened to a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// No byte of it was sent: the server does not know about it.
    NotSent,
    /// It was sent, or partly sent, or was in one block with others of its
    /// [`put_all`](crate::MetricsClient::put_all) that were. The server may have executed it.
    Unknown,
    /// The server rejected it and stored nothing. If it had been sent before, over a connection that
    /// was lost, that copy may be stored:
    /// [`resend_unacknowledged`](crate::ClientBuilder::resend_unacknowledged).
    Rejected,
}

impl Delivery {
    /// Returns what is true of all these requests, if there are any.
    pub(crate) fn of_all(requests: impl IntoIterator<Item = Self>) -> Option<Self> {
        let of_both = |one, other| if one == other { one } else { Self::Unknown };
        requests.into_iter().reduce(of_both)
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotSent => "not sent",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        })
    }
}

/// The reason why a connection ended, or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The connection could not be made.
    #[error("cannot connect to {address}")]
    #[non_exhaustive]
    Connect {
        /// The address that the client was created with.
        address: Arc<str>,
        /// The error of the last attempt.
        source: Arc<io::Error>,
    },
    /// Reading or writing failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The server closed the connection.
    #[error("connection closed by the server")]
    Closed,
    /// The server closes the connection at this request, and answers other requests: an error in
    /// its handler, for example. Only that request fails.
    ///
    /// The request has ended five connections in a row without a response, on each of which the server
    /// had just answered other requests: one for a key that does not exist, and for a put another
    /// put. A server that closes at every request is unreachable, which is a delay. A server that
    /// fails at random cannot be distinguished with certainty: if it closes at half of all requests,
    /// the client is wrong about 1 of 2,000 of those that it suspects, and at a tenth, 1 of 200,000.
    #[error("the server closes the connection at this request, and answers others")]
    ClosedOnRequest,
    /// The server answered `error` before anything else on a new connection, and closed it: a limit
    /// on connections, for example. The client reconnects.
    ///
    /// `Display` shows the beginning of the message, escaped.
    #[error("connection rejected by the server: {}", Escaped(if message.is_empty() { "no reason given" } else { message }))]
    #[non_exhaustive]
    Rejected {
        /// The message of the server, unchanged.
        message: Arc<str>,
    },
    /// The rest of a response that was [too large](Error::ResponseTooLarge) did not arrive in time.
    #[error("the rest of a response of more than {limit} bytes took too long")]
    #[non_exhaustive]
    ResponseTooLarge {
        /// The maximum size of a response, in bytes.
        limit: usize,
    },
    /// The oldest outstanding response did not arrive in time.
    #[error("no response for {timeout:?}; connection considered dead")]
    #[non_exhaustive]
    Stalled {
        /// The stall timeout.
        timeout: Duration,
    },
    /// The server sent something that is not a response.
    #[error("protocol error")]
    Protocol(#[source] CodecError),
    /// The server sent a response without a request.
    #[error("unsolicited response")]
    Unsolicited,
    /// The server answered a `put` with data: responses and requests do not match.
    #[error("unexpected data in the response to a put")]
    UnexpectedData,
    /// The server answered a `get` of one key with data of another: responses and requests do not
    /// match.
    #[error("data of another key in the response to a get")]
    DataForAnotherKey,
}

impl ConnectionError {
    /// Returns true if the server violated the protocol, so that another connection will not help.
    #[must_use]
    pub fn is_protocol_violation(&self) -> bool {
        matches!(
            self,
            Self::Protocol(_) | Self::Unsolicited | Self::UnexpectedData | Self::DataForAnotherKey
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
            CodecError::Truncated => Self::Closed,
            error => Self::Protocol(error),
        }
    }
}

/// The error of a [`put_all`](crate::MetricsClient::put_all): some samples were not stored.
///
/// Samples are identified by their index in the batch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("sample {first_failed} was not stored ({acknowledged} of {total} were)")]
pub struct BatchError {
    pub(crate) acknowledged: usize,
    pub(crate) total: usize,
    pub(crate) first_failed: usize,
    pub(crate) settled: usize,
    pub(crate) rejected: usize,
    pub(crate) closed_on: Vec<usize>,
    #[source]
    pub(crate) error: Error,
    /// What is true of all samples.
    pub(crate) delivery: Delivery,
    /// True if what kept samples from being stored, other than rejections, may be over next time.
    pub(crate) retryable: bool,
}

impl BatchError {
    /// Returns the number of samples that the server has acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Returns the number of samples of the batch.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Returns the index of the first sample that failed, and its error.
    #[must_use]
    pub fn first_error(&self) -> (usize, &Error) {
        (self.first_failed, &self.error)
    }

    /// Returns the index of the first sample without a final outcome: send the batch again from here.
    /// Every sample before it was acknowledged or rejected, or is in [`closed_on`](Self::closed_on). If
    /// all samples have their outcome, this is [`total`](Self::total).
    #[must_use]
    pub fn resume_from(&self) -> usize {
        self.settled
    }

    /// Returns the number of samples before [`resume_from`](Self::resume_from) that the server rejected.
    #[must_use]
    pub fn rejected_before_resume(&self) -> usize {
        self.rejected
    }

    /// Returns the indices, before [`resume_from`](Self::resume_from), of the samples at which the
    /// server closes the connection ([`ConnectionError::ClosedOnRequest`]), in ascending order. They do
    /// not keep the rest from being stored, and sending them again does not help.
    #[must_use]
    pub fn closed_on(&self) -> &[usize] {
        &self.closed_on
    }
}

/// The error for an address to which no connection can ever be made.
///
/// Its text has the reason and the form that an address must have. A [`Connector`](crate::client::Connector) of
/// another crate can make one in [`check_address`](crate::client::Connector::check_address).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {excerpt}: {reason}; an address is {form}")]
pub struct InvalidAddress {
    excerpt: Excerpt,
    reason: Cow<'static, str>,
    form: Cow<'static, str>,
}

impl InvalidAddress {
    /// Creates the error for `address` with the reason (`the port is missing`) and the form that it
    /// should have (`host:port, such as 127.0.0.1:8888`). The address is shown escaped, and its first 64
    /// bytes only.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates_agree_with_the_kind_and_look_into_a_batch() {
        let delivery = Delivery::NotSent;
        let errors = [
            Error::QueueFull { limit: 1 },
            Error::Rejected { message: "no".into() },
            Error::Closed { delivery, source: None },
            Error::RuntimeGone { delivery },
            Error::CannotDial,
        ];
        for error in errors {
            let batch = Error::Batch(Arc::new(BatchError {
                acknowledged: 1,
                total: 2,
                first_failed: 1,
                settled: 1,
                rejected: 0,
                closed_on: Vec::new(),
                error: error.clone(),
                delivery,
                retryable: error.is_retryable(),
            }));
            assert_eq!((batch.kind(), batch.kind().as_ref()), (ErrorKind::Batch, "batch"));
            let kind = error.kind();
            for error in [&error, &batch] {
                let is_closed = [ErrorKind::Closed, ErrorKind::RuntimeGone].contains(&kind);
                assert_eq!(error.is_closed(), is_closed, "{kind}");
                assert_eq!(error.is_queue_full(), kind == ErrorKind::QueueFull, "{kind}");
                assert_eq!(error.is_rejected(), kind == ErrorKind::Rejected, "{kind}");
                assert!(!error.is_timeout() && !error.is_connect(), "{kind}");
            }
        }
    }

    #[test]
    fn an_io_error_keeps_the_kind_and_the_text() {
        for (error, kind) in [
            (Error::QueueFull { limit: 1 }, io::ErrorKind::WouldBlock),
            (Error::CannotDial, io::ErrorKind::Unsupported),
            (Error::RuntimeGone { delivery: Delivery::Unknown }, io::ErrorKind::NotConnected),
            (Error::Rejected { message: "no".into() }, io::ErrorKind::Other),
        ] {
            let text = error.to_string();
            let io = io::Error::from(error);
            assert_eq!((io.kind(), io.to_string()), (kind, text));
        }
    }
}
