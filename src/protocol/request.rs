//! [`Request`]: what a client asks.

use std::fmt;

use super::error::{InvalidSample, NonFiniteValue};
use crate::metric::{IntoKey, IntoSelector, InvalidKey, Sample, Selector};

/// One request.
///
/// ```
/// use metrics_client::codec::Request;
///
/// let put = Request::put("palm.cpu", 23.7, 1150864247)?;
/// assert_eq!(put.to_string(), "put palm.cpu 23.7 1150864247");
/// let get = Request::get("*")?;
/// assert_eq!(get.to_string(), "get *");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// Store this sample.
    Put(Sample),
    /// Send what is stored.
    Get(Selector),
}

impl Request {
    /// A request to store `value` for `key` at `timestamp`, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// If `key` is invalid, or `value` is not finite.
    pub fn put(
        key: impl IntoKey,
        value: impl Into<f64>,
        timestamp: i64,
    ) -> Result<Self, InvalidSample> {
        let sample = Sample::new(key, value, timestamp)?;
        NonFiniteValue::ensure_finite(sample.key.as_str(), sample.point.value)?;
        Ok(Self::Put(sample))
    }

    /// A request for the points that `selector` names: a key, or `*` for everything.
    ///
    /// # Errors
    ///
    /// If `selector` is neither.
    pub fn get(selector: impl IntoSelector) -> Result<Self, InvalidKey> {
        Ok(Self::Get(selector.into_selector()?))
    }
}

/// Shows the request as it stands on the wire, without the line break.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(sample) => write!(f, "put {sample}"),
            Self::Get(selector) => write!(f, "get {selector}"),
        }
    }
}
