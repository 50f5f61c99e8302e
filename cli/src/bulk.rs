//! Reading samples of a server, as `get` and `export` do: streamed, in constant memory.

use std::ops::RangeInclusive;

use metrics_client::{MetricsClient, Sample, Selector};

use crate::{connect::ServerArgs, failure::Failure, times};

/// A range of time, both ends included.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct RangeArgs {
    /// Leaves out what is older than this: seconds since 1970, RFC 3339, a date, -6h
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    from: Option<i64>,
    /// Leaves out what is newer than this
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    until: Option<i64>,
}

impl RangeArgs {
    /// Checks that the range has a length.
    ///
    /// # Errors
    ///
    /// Returns an error if it ends before it begins.
    pub(crate) fn check(self) -> Result<(), Failure> {
        match (self.from, self.until) {
            (Some(from), Some(until)) if until < from => Err(Failure::usage(format!(
                "--until {} is before --from {}",
                times::show(until),
                times::show(from)
            ))),
            _ => Ok(()),
        }
    }

    /// Returns its ends, as far as they were set.
    pub(crate) fn bounds(self) -> (Option<i64>, Option<i64>) {
        (self.from, self.until)
    }

    /// Returns the seconds of the range.
    pub(crate) fn seconds(self) -> RangeInclusive<i64> {
        self.from.unwrap_or(i64::MIN)..=self.until.unwrap_or(i64::MAX)
    }
}

/// Passes each sample of a selector and range to `each`, and returns how many there were.
///
/// # Errors
///
/// Returns the first error of the server or of `each`.
pub(crate) async fn read(
    client: &MetricsClient,
    server: &ServerArgs,
    (selector, range): (&Selector, RangeArgs),
    mut each: impl FnMut(Sample) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut samples = client.stream(selector).await.map_err(|error| server.failure(error))?;
    let mut count = 0;
    while let Some(sample) = samples.next().await {
        let sample = sample.map_err(|error| server.failure(error))?;
        if range.seconds().contains(&sample.point.timestamp) {
            count += 1;
            each(sample)?;
        }
    }
    Ok(count)
}
