//! The values: keys, points, samples, selectors, and the metrics that a `get` returns.

mod clock;
mod escape;
mod into_key;
mod key;
mod labels;
mod metrics;
mod sample;
mod selector;
#[cfg(feature = "serde")]
mod serialize;
mod sort;

pub(crate) use clock::unix_now;
pub use clock::unix_seconds;
pub use escape::{Escaped, Excerpt};
pub(crate) use into_key::KeyText;
pub use into_key::{IntoKey, IntoSelector};
pub use key::{InvalidKey, Key, KeyRef};
pub use labels::LabeledKey;
pub(crate) use metrics::MetricsBuilder;
pub use metrics::{IntoIter, IntoSamples, Iter, Metrics};
pub use sample::{Point, Sample};
pub use selector::Selector;
