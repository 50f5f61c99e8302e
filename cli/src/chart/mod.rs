//! What `plot`, `watch` and `demo` draw with: points in bounded memory, axes, bars.

mod bars;
mod bins;
mod span;
mod values;

pub(crate) use bars::bars;
pub(crate) use bins::BinnedSeries;
pub(crate) use span::TimeAxis;
pub(crate) use values::ValueAxis;

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// The position on the axis, in `0.0..=1.0`.
    pub(crate) at: f64,
    pub(crate) label: String,
}
