//! Reading samples of a server, as `get` and `export` do: streamed, in constant memory.

use std::ops::RangeInclusive;

use metrics_client::{Key, MetricsClient, Sample, Selector};

use crate::{connect::ServerArgs, failure::Failure, selection::Selection, times};

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

/// Passes each sample of a selection and range to `each`, and returns how many there were. A pattern is found in what all
/// keys have, since the protocol has none.
///
/// # Errors
///
/// Returns the first error of the server or of `each`.
pub(crate) async fn read(
    client: &MetricsClient,
    server: &ServerArgs,
    (selection, range): (&Selection, RangeArgs),
    mut each: impl FnMut(Sample) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let Some(keys) = selection.keys() else {
        // Records of a key come together, so that most need no look.
        let mut last: Option<(Key, bool)> = None;
        let mut count = 0;
        let each_selected = |sample: Sample| {
            let is_selected = match &last {
                Some((key, is_selected)) if *key == sample.key => *is_selected,
                _ => {
                    let is_selected = selection.matches(&sample.key);
                    last = Some((sample.key.clone(), is_selected));
                    is_selected
                }
            };
            if is_selected {
                count += 1;
                each(sample)?;
            }
            Ok(())
        };
        read_each(client, server, (&Selector::All, range), each_selected).await?;
        return Ok(count);
    };
    let mut count = 0;
    for key in keys {
        let selector = Selector::Key(key.clone());
        count += read_each(client, server, (&selector, range), &mut each).await?;
    }
    Ok(count)
}

async fn read_each(
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
