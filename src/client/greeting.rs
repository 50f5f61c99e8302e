//! An `error` as the first response on a new connection: is it about the connection, or about a request?

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, Sleep};

use crate::{
    error::ConnectionError,
    protocol::{ReceivedResponse, Response},
};

/// How long after an `error` that rejects the connection its end may come: a server at its connection limit
/// writes and closes at once. Only the first response on a connection is held back so long, and only if it is an
/// `error`.
pub(super) const END_WITHIN: Duration = if cfg!(loom_model) {
    // Time stands still in a model.
    Duration::ZERO
} else {
    Duration::from_millis(50)
};

/// Holds back an `error` that is the first response on a connection until it is clear what it is
/// about: the connection, if that ends now, and the first request otherwise.
#[derive(Debug)]
pub(super) enum Greeting {
    /// Nothing has come yet.
    Awaited,
    Held {
        message: String,
        until: Pin<Box<Sleep>>,
    },
    /// Responses are passed on.
    Over,
}

impl Greeting {
    pub(super) fn new(may_be_rejected: bool) -> Self {
        if may_be_rejected && !END_WITHIN.is_zero() { Self::Awaited } else { Self::Over }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    /// Returns the response, unless it is held back.
    pub(super) fn pass(&mut self, response: ReceivedResponse) -> Option<ReceivedResponse> {
        match (&self, response) {
            (Self::Awaited, Ok(Response::Error(message))) => {
                let until = Box::pin(time::sleep(END_WITHIN));
                *self = Self::Held { message, until };
                None
            }
            (_, response) => {
                *self = Self::Over;
                Some(response)
            }
        }
    }

    /// Returns the response that was held back: it is about the request.
    pub(super) fn release(&mut self) -> Option<Response> {
        if !self.is_held() {
            return None;
        }
        match std::mem::replace(self, Self::Over) {
            Self::Held { message, .. } => Some(Response::Error(message)),
            Self::Awaited | Self::Over => None,
        }
    }

    /// Ready once the connection has stayed open long enough.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Held { until, .. } => until.as_mut().poll(cx),
            Self::Awaited | Self::Over => Poll::Ready(()),
        }
    }

    /// Returns the reason why the connection has ended, given the error with which it did.
    pub(super) fn describe_error(&mut self, error: ConnectionError) -> ConnectionError {
        if matches!(error, ConnectionError::Closed | ConnectionError::Io(_))
            && let Some(Response::Error(message)) = self.release()
        {
            return ConnectionError::Rejected { message: message.into() };
        }
        error
    }
}
