//! [`RenderError`]: why a request cannot be answered.

use std::time::Duration;

use super::{InvalidPattern, InvalidTarget, InvalidTime};
use crate::store::StoreError;

/// The error of a request of the render API.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// A target cannot be parsed.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// A pattern of paths is invalid, or too large.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// A time cannot be parsed.
    #[error(transparent)]
    Time(#[from] InvalidTime),
    /// There is no function with this name.
    #[error("unknown function: {0}")]
    UnknownFunction(String),
    /// An argument of a function is missing or invalid.
    #[error("{function}: {reason}")]
    Argument {
        /// The name of the function.
        function: String,
        /// What is wrong.
        reason: String,
    },
    /// A parameter of the request is missing or invalid.
    #[error("{parameter}: {reason}")]
    Parameter {
        /// The name of the parameter.
        parameter: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The answer would exceed a limit of [`RenderLimits`](super::RenderLimits).
    #[error("request exceeds {limit} ({max})")]
    Limit {
        /// The name of the limit.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// All requests together would exceed a limit of [`RenderLimits`](super::RenderLimits): this one can be sent again.
    #[error("server is busy: all requests together exceed {limit} ({max})")]
    Busy {
        /// The name of the limit.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// The answer took longer than [`RenderLimits::timeout`](super::RenderLimits::timeout).
    #[error("request took longer than {0:?}")]
    Timeout(Duration),
    /// The store failed.
    #[error("store failed: {0}")]
    Store(#[from] StoreError),
}

impl RenderError {
    /// Returns true if the request is at fault, so that it cannot succeed when it is sent again (HTTP 400). If
    /// false, the server is (HTTP 503).
    #[must_use]
    pub fn is_request(&self) -> bool {
        !matches!(self, Self::Busy { .. } | Self::Timeout(_) | Self::Store(_))
    }
}
