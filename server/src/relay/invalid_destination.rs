//! [`InvalidDestination`]: why a URL is not that of a destination.

/// Why a URL is not that of a destination. Its text has no user or password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid destination: {reason}")]
pub struct InvalidDestination {
    reason: String,
}

impl InvalidDestination {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}
