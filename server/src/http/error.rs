//! Errors as answers.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::store::StoreError;

/// An answer with a reason: `{"error":"..."}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Creates an error after which the client should try again.
    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).header(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// Creates the error of a store that has not answered in time.
    pub(crate) fn store_timeout() -> Self {
        Self::unavailable(slow_store_message())
    }

    /// Creates the error of a request that exceeds a limit. The message names it, as `metrics serve --http-limit` and
    /// the methods of [`HttpLimits`](super::HttpLimits) do.
    pub(crate) fn limit(status: StatusCode, limit: &'static str, max: usize) -> Self {
        Self::new(status, limit_message(limit, max))
    }

    /// Asks the client to try again.
    #[must_use]
    pub(crate) fn retry_after(self) -> Self {
        self.header(header::RETRY_AFTER, RETRY_AFTER)
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// Returns the body of the answer.
    pub(crate) fn body(&self) -> String {
        json!({ "error": self.message }).to_string()
    }

    #[cfg(feature = "influx")]
    pub(crate) fn header_pair(&self) -> Option<(HeaderName, HeaderValue)> {
        self.header.clone()
    }
}

/// Says which limit is reached, and how it is raised.
pub(crate) fn limit_message(limit: &str, max: usize) -> String {
    format!("limit {limit} reached: at most {max}; {}", raised_with(limit))
}

/// Says that the store has not answered in time.
pub(crate) fn slow_store_message() -> String {
    format!("the store does not answer; {}", raised_with("store_timeout"))
}

/// Says how a limit is raised.
pub(crate) fn raised_with(limit: &str) -> String {
    format!("the server can raise it: --http-limit {limit}=N")
}

/// After how many seconds a client should try again. A full disk may have room within one.
const RETRY_AFTER: &str = "1";

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        if error.is_transient() {
            Self::unavailable(message)
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body::from(self.body());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response.headers_mut().extend(self.header);
        response
    }
}
