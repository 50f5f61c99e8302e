//! The functions of targets, as graphite-web 1.1 has them: their names, parameters and arguments.

use super::{
    RenderError, TimeZone, fetch::TimeRange, limits::Budget, python::str_of_float, series::Series,
    time::parse_offset,
};

mod aggregation;
mod alias;
mod combine;
mod filter;
mod group;
mod moving;
mod nodes;
mod params;
mod registry;
mod special;
mod summarize;
mod transform;

pub(super) use params::{Args, Value};
pub use params::{FunctionInfo, ParamInfo};
pub(super) use registry::find;
pub use registry::functions;

use aggregation::Aggregation;
use params::{Kind, Param};

/// What a function may look at besides its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) range: TimeRange,
    pub(super) tz: &'a TimeZone,
    pub(super) x_files_factor: f64,
    pub(super) budget: &'a Budget,
}

impl Scope<'_> {
    /// Creates a series that is the result of a function of others.
    fn series(
        &self,
        name: String,
        (start, end, step): (i64, i64, i64),
        values: Vec<f64>,
    ) -> Series {
        let x_files_factor = self.x_files_factor;
        Series { x_files_factor, ..Series::new(name, start, end, step, values) }
    }
}

/// Why a function has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// What is wrong with an argument.
    Argument(String),
    /// An error that is not that of the function.
    Other(RenderError),
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::Argument(reason.into())
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Argument(reason)
    }
}

impl From<RenderError> for Failure {
    fn from(error: RenderError) -> Self {
        Self::Other(error)
    }
}

/// The result of a function.
pub(super) type Outcome = Result<Vec<Series>, Failure>;

/// A function of targets.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    group: &'static str,
    description: &'static str,
    params: &'static [Param],
    pub(super) run: Run,
}

/// How a function is run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    /// With its arguments.
    Once(fn(&Scope<'_>, Args) -> Outcome),
    /// With its arguments, and with the series of the first one read in another range of time.
    Again {
        range: fn(&Scope<'_>, &Args) -> Result<TimeRange, Failure>,
        run: fn(&Scope<'_>, Args, Vec<Series>) -> Outcome,
    },
    /// By the evaluator, as it selects keys.
    SeriesByTag,
}
