//! [`Point`] and [`Sample`]: measurements.

use std::cmp::Ordering;

use super::{IntoKey, InvalidKey, Key, unix_now};

/// One measurement: a value and the second when it was taken.
///
/// ```
/// use metrics_client::Point;
///
/// let point = Point::new(23.7, 1150864247);
/// assert_eq!((point.value, point.timestamp), (23.7, 1150864247));
/// assert_eq!(Point::from((23.7, 1150864247)), point);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
pub struct Point {
    /// The time of the measurement, in whole seconds since the Unix epoch.
    /// [`unix_seconds`](crate::unix_seconds) converts from a `SystemTime`.
    pub timestamp: i64,
    /// The value. What a server returns may be NaN or infinite; this client never sends these.
    pub value: f64,
}

impl Point {
    /// Creates a point with a timestamp in seconds since the Unix epoch.
    #[must_use]
    pub fn new(value: impl Into<f64>, timestamp: i64) -> Self {
        Self { timestamp, value: value.into() }
    }

    /// Creates a point at the current second.
    #[must_use]
    pub fn now(value: impl Into<f64>) -> Self {
        Self { timestamp: unix_now(), value: value.into() }
    }
}

/// Orders points by timestamp, then by value.
impl PartialOrd for Point {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.timestamp.cmp(&other.timestamp) {
            Ordering::Equal => self.value.partial_cmp(&other.value),
            order => Some(order),
        }
    }
}

/// Converts from `(value, timestamp)`.
impl<V: Into<f64>> From<(V, i64)> for Point {
    fn from((value, timestamp): (V, i64)) -> Self {
        Self::new(value, timestamp)
    }
}

/// A [`Point`] and its [`Key`]: the content of one `put`.
///
/// ```
/// use metrics_client::{Key, Point, Sample};
///
/// let sample = Sample::new("palm.cpu", 23.7, 1150864247)?;
/// assert_eq!(sample.to_string(), "palm.cpu 23.7 1150864247");
/// assert_eq!("palm.cpu 23.7 1150864247".parse(), Ok(sample.clone()));
/// assert_eq!(Sample::try_from(("palm.cpu", 23.7, 1150864247))?, sample);
/// assert_eq!(Sample::from((Key::new("palm.cpu")?, Point::new(23.7, 1150864247))), sample);
/// # Ok::<(), metrics_client::error::InvalidKey>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name of the metric.
    pub key: Key,
    /// The value and its timestamp.
    pub point: Point,
}

impl Sample {
    /// Creates a sample with a timestamp in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if `key` is not a valid key.
    pub fn new(
        key: impl IntoKey,
        value: impl Into<f64>,
        timestamp: i64,
    ) -> Result<Self, InvalidKey> {
        Ok(Self { key: key.into_key()?, point: Point::new(value, timestamp) })
    }

    /// Creates a sample at the current second.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if `key` is not a valid key.
    pub fn now(key: impl IntoKey, value: impl Into<f64>) -> Result<Self, InvalidKey> {
        Self::new(key, value, unix_now())
    }
}

/// Converts from `(key, value, timestamp)`.
impl<K: IntoKey, V: Into<f64>> TryFrom<(K, V, i64)> for Sample {
    type Error = InvalidKey;

    fn try_from((key, value, timestamp): (K, V, i64)) -> Result<Self, InvalidKey> {
        Self::new(key, value, timestamp)
    }
}

impl From<(Key, Point)> for Sample {
    fn from((key, point): (Key, Point)) -> Self {
        Self { key, point }
    }
}

impl From<Sample> for (Key, Point) {
    fn from(Sample { key, point }: Sample) -> Self {
        (key, point)
    }
}
